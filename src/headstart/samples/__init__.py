"""A sample dataset: rendered scenes with planted flaws."""
