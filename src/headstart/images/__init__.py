"""Pixels: file headers, validation, decoding and the input spec. All pixels are read through this package."""
