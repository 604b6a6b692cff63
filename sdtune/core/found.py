"""Classes that are found by being in a folder: families, captioners, networks."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from typing import TypeVar

Kind = TypeVar("Kind")


def classes_in(package: str, path: Iterable[str], kind: type[Kind]) -> Iterator[type[Kind]]:
    """Every whole class of a kind that a file of the package (its __name__ and __path__) holds."""
    for file in pkgutil.iter_modules(path):
        module = importlib.import_module(f"{package}.{file.name}")
        for _, one in inspect.getmembers(module, inspect.isclass):
            if issubclass(one, kind) and not inspect.isabstract(one) and one.__module__ == module.__name__:
                yield one
