"""Work: one generator a command, and what they share; the only folder that imports torch at the top of a file."""
