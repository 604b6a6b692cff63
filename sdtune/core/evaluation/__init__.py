"""What `eval` does."""
