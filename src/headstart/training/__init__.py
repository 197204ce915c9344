"""Recipes, and training by gradient descent: the loop, its batches and optimisers, fine-tuning, snapshots."""
