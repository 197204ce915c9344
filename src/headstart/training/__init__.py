"""Recipes and gradient training: the loop, its batches and optimisers, fine-tuning, checkpoints."""
