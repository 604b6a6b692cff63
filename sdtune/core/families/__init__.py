"""The model families: each file in this folder that holds one is one."""

from __future__ import annotations

from functools import cache

from sdtune.core.families.base import Family
from sdtune.core.found import classes_in
from sdtune.errors import ModelError

__all__ = ["Family", "families", "family_named"]


@cache
def families() -> dict[str, Family]:
    """Every family by its short name, in the order of the names."""
    found = {one.name: one() for one in classes_in(__name__, __path__, Family)}  # type: ignore[type-abstract]
    return dict(sorted(found.items()))


def family_named(name: str) -> Family:
    """The family of this short name."""
    if name not in families():
        raise ModelError(f"{name}: no such model family; there are {', '.join(families())}")
    return families()[name]
