"""The HTTP service: one process that serves a classifier and survives attacks and overload. Start with `server`."""
