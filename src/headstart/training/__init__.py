"""Recipes, the choice of backbones, and the fit of a last layer on frozen features."""
