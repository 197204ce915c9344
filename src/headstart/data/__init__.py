"""Files to a `Dataset`: opened, checked, split. Start with `open_dataset`."""
