"""What a LoRA file adds to one module: a class a network, one file each, found by being there."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from sdtune.core.adapters.base import Adapter
from sdtune.core.adapters.lora import LoraModule

__all__ = ["Adapter", "LoraModule", "adapters"]


@cache
def adapters() -> dict[str, type[Adapter]]:
    """Every network by its kind, in the order of the names."""
    found: dict[str, type[Adapter]] = {}
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        for _, network in inspect.getmembers(module, inspect.isclass):
            if (
                issubclass(network, Adapter)
                and not inspect.isabstract(network)
                and network.__module__ == module.__name__
            ):
                found[network.kind] = network
    return dict(sorted(found.items()))
