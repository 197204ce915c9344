"""Backbones, features, heads, and the `Classifier` made of them: what is loaded, computed, kept and saved."""
