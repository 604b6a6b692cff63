"""Benchmarks: how fast it is beside the plain way, in ratios of interleaved rounds."""
