"""A sample data set: rendered scenes, and flaws planted among them."""
