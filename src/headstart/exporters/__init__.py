"""Exports: a trained classifier as files that other runtimes and languages read, and the proof that they agree."""
