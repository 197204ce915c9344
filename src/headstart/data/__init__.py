"""Files to a `Dataset`: opened, checked, split. Start with `dataset`."""
