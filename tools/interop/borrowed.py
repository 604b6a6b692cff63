"""Another program's code, imported out of its repository."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

from typing_extensions import override


class _Empty(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds packages of these names, with nothing in them."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        unused = any(fullname == name or fullname.startswith(f"{name}.") for name in self.names)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if unused else None

    @override
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        empty: ModuleType = MagicMock(__spec__=spec, __path__=[], __name__=spec.name)
        return empty

    @override
    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def importing(repository: Path, unused: frozenset[str], words: Sequence[str] = ()) -> Iterator[None]:
    """Its packages can be imported meanwhile; `unused` ones, which nothing here calls, come empty.

    `words` are what it takes for its command line.
    """
    from transformers.utils import is_torchvision_available

    is_torchvision_available()  # transformers remembers the answer, which is another from here on
    before, sys.argv = sys.argv, [sys.argv[0], *words]
    sys.path.insert(0, str(repository))
    sys.meta_path.insert(0, empty := _Empty(unused))
    try:
        yield
    finally:
        sys.meta_path.remove(empty)
        sys.argv = before
