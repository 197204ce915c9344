"""Backbones: found by name, checked, built, cut in two; and the small one that comes with the package."""
