"""Files and folders written whole or not at all; text tables, progress bars, texts of dataclass fields."""
