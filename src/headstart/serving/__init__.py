"""The HTTP service: a classifier behind one process that holds under attack and overload. Start with `server`."""
