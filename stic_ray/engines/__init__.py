"""Generation behind one small protocol."""
