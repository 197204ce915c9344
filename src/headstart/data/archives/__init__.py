"""Archives: read by headstart's own readers, refused as a whole if any entry is unsafe, unpacked all or not at all."""
