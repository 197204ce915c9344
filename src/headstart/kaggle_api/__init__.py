"""Kaggle, through its official client: data (resumable, verified downloads) and submissions filled by name."""
