"""Files at a path or a URL: one interface for folders and buckets."""
