"""Pixels: what a file holds, whether it can be trusted, decoding and the input spec. The only path that pixels take."""
