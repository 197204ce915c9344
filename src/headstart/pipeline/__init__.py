"""The stages of the verbs: scan, choose backbones, fit, compare. They take and return values; verbs print them."""
