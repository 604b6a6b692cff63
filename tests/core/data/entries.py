"""What an entry of the cache may hold, and whether it came back."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from sdtune.core.data.cache import Store, key_of


def made(seed: int, size: int = 64) -> dict[str, Tensor]:
    """8 * size bytes."""
    drawn = torch.Generator().manual_seed(seed)
    return {"mean": torch.randn(4, size // 4, generator=drawn), "std": torch.rand(4, size // 4, generator=drawn)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal to the bit, types and shapes too."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and torch.equal(one[name].reshape(-1).view(torch.uint8), other[name].reshape(-1).view(torch.uint8))
        for name in one
    )


def file_of(folder: Path, key: str) -> Path:
    """Where an entry lies."""
    return folder / key[:2] / f"{key}.safetensors"


def files_in(folder: Path) -> list[Path]:
    """At any depth."""
    return [path for path in folder.rglob("*") if path.is_file()]


def goes_on_in_memory(store: Store, why: str) -> None:
    """Everything comes back although there is neither disk nor room."""
    for number in range(20):
        store.put(key_of(number), made(number))
    assert all(key_of(number) in store for number in range(20))
    assert all(same(store.get(key_of(number)), made(number)) for number in range(20))
    assert not store.writable
    assert store.why_not is not None
    assert re.search(why, store.why_not)
    assert (store.entries, store.damaged) == (20, [])
