"""The proofs of docs/reliability.md, as a command: python -m tools.torture."""
