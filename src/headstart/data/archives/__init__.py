"""Archives: read by headstart's own readers, refused whole if any entry is unsafe, unpacked aside and renamed once."""
