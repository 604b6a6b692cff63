"""What a LoRA file adds to one module: a class a network, one file each, found by being there."""

from __future__ import annotations

from functools import cache

from sdtune.core.adapters.base import Adapter
from sdtune.core.adapters.lora import LoraModule
from sdtune.core.found import classes_in

__all__ = ["Adapter", "LoraModule", "adapters"]


@cache
def adapters() -> dict[str, type[Adapter]]:
    """Every network by its kind, in the order of the names."""
    found = {one.kind: one for one in classes_in(__name__, __path__, Adapter)}  # type: ignore[type-abstract]
    return dict(sorted(found.items()))
