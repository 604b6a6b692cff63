"""Flags whose value may be left out: `--resume`, beside `--resume RUN` and `--resume=RUN`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from sdtune.earlier import NEWEST, RUN_SETTINGS


def with_values(words: list[str], flags: Collection[str], fits: Callable[[list[str]], bool]) -> list[str]:
    """The words of a command line, with the usual value after each of these flags that has none.

    A folder behind one that is of no run is the data set (`--resume pictures/cats`), but where that stands elsewhere.
    """
    read = _spelt_out(words, flags, _is_data)
    return read if fits(read) else _spelt_out(words, flags, lambda _: False)


def _spelt_out(words: list[str], flags: Collection[str], other: Callable[[str], bool]) -> list[str]:
    end = words.index("--") if "--" in words else len(words)
    out = []
    for place, word in enumerate(words):
        value = words[place + 1] if place + 1 < end else "--"
        stands_alone = place < end and word in flags and (value.startswith("-") or other(value))
        out.append(f"{word}={NEWEST}" if stands_alone else word)
    return out


def _is_data(word: str) -> bool:
    """A folder that is neither a run nor in one."""
    path = Path(word)
    try:
        return path.is_dir() and not any((one / RUN_SETTINGS).is_file() for one in (path, *list(path.parents)[:2]))
    except (OSError, ValueError):  # a name that is none
        return False
