"""Files that hold many pictures: parquet and WebDataset, written out once into the cache."""
