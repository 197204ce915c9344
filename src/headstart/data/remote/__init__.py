"""Data from elsewhere: Kaggle, through its own client, and files over HTTP that are resumed and checked."""
