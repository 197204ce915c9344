"""Shards, files with many images each: parquet and WebDataset, extracted once into the cache."""
