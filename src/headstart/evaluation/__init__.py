"""Metrics with intervals, calibration, prediction sets. Takes arrays, wherever they come from."""
