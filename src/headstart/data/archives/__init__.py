"""Archives: read by our own readers, refused as a whole for anything odd in their list, unpacked aside and renamed once."""
