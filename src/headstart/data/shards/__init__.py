"""Files that hold many images: parquet and WebDataset, written out once into the cache."""
