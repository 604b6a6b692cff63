"""Dynamic prompts: {a|b}, {2$$a|b|c} and __wildcards__, by chance or all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


class Wildcards:
    """Text files in a folder: __animal__ is a line of animal.txt, __set/animal__ one of set/animal.txt."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder


def chosen(text: str, seed: int, wildcards: Wildcards, where: str) -> str:
    """The text with one choice made for each {} and __ __, the same for the same seed; ConfigError names the column."""
    raise NotImplementedError


def combinations(text: str, wildcards: Wildcards, where: str) -> Iterator[str]:
    """The text with every combination of choices, in order, the last varying fastest."""
    raise NotImplementedError


def check(text: str, wildcards: Wildcards, where: str) -> None:
    """Stop at a wildcard that is not there or runs in a circle, and at braces that cannot be read."""
    raise NotImplementedError
