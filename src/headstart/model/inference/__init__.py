"""From pixels to predictions: compiled networks, features and their cache, the `Classifier`, heat maps."""
