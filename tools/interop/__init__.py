"""Whether other programs load what sdtune writes, at the released models' real shapes."""
