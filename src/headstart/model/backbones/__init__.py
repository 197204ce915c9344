"""Backbones: finding them by name, checking, building and cutting them; and the small one in the package."""
