"""Encoders: what looks at pictures."""
