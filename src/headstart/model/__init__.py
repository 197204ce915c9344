"""Backbones, features, heads, and the `Classifier` made of them."""
