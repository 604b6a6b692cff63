"""Fingerprints: whether files are the same as when a picture was drawn."""

from __future__ import annotations

from pathlib import Path

from sdtune.core.identity import Identity


def of_model(identity: Identity) -> str:
    """64 hex digits for a base model's files: sizes, headers and blocks spread over each, read in milliseconds."""
    raise NotImplementedError


def of_file(path: Path) -> str:
    """The SHA-256 of a file."""
    raise NotImplementedError
