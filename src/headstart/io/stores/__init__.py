"""Files behind a path or a URL: one interface for a folder, a bucket, and what fsspec knows."""
