"""A safetensors file written one tensor at a time, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Slot:
    """What a tensor will be."""

    dtype: str
    """as safetensors names it: F16"""
    shape: tuple[int, ...]


class TensorFile:
    """A file in the making; every slot is to be filled once, in any order."""

    def add(self, key: str, value: Tensor) -> None:
        """Put a tensor of the slot's shape into its place, in the slot's precision; what is no number then is refused."""
        raise NotImplementedError


@contextmanager
def writing(path: Path, slots: Mapping[str, Slot], metadata: Mapping[str, str]) -> Iterator[TensorFile]:
    """The file is at its place when the block ends well; not at all, or as it was, when it does not."""
    raise NotImplementedError
