"""The same on many machines: data-parallel training, batch inference."""
