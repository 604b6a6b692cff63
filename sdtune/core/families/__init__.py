"""The model families: each file in this folder that holds one is one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from sdtune.core.families.base import Family
from sdtune.errors import ModelError

__all__ = ["Family", "families", "family_named"]


@cache
def families() -> dict[str, Family]:
    """Every family by its short name, in the order of the names."""
    found: dict[str, Family] = {}
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Family) and not inspect.isabstract(kind) and kind.__module__ == module.__name__:
                found[kind.name] = kind()
    return dict(sorted(found.items()))


def family_named(name: str) -> Family:
    """The family of this short name."""
    if name not in families():
        raise ModelError(f"{name}: no such model family; there are {', '.join(families())}")
    return families()[name]
