"""Packs: many images in a few large files, with an index that says where each image is."""
