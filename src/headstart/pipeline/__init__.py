"""The stages of the verbs: scan, choose backbones, fit, compare. Each takes and gives values; verbs print them."""
