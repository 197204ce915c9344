"""Kaggle, through its own client: data (resumed and checked, over HTTP), and submissions filled by name."""
