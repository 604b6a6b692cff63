"""From a folder on disk to the batches of the training step."""
