"""Folders of people's files, looked through with a limit of depth, so that any may be named, and / too."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

DEEPEST = 20
"""folders in one another"""


def files_below(folder: Path, deepest: int = DEEPEST, leave_out: Collection[str] = ()) -> Iterator[Path]:
    """Every file in a folder and in those below it, in order; what is hidden or cannot be read is left out."""
    waiting = [(folder, 0)]
    while waiting:
        place, depth = waiting.pop()
        try:
            with os.scandir(place) as found:
                entries = sorted((one for one in found if one.name[0] != "."), key=lambda one: one.name)
        except OSError:
            continue
        below = []
        for entry in entries:
            if not _is_folder(entry):
                yield Path(entry.path)
            elif depth < deepest and not entry.is_symlink() and entry.name not in leave_out:
                below.append((Path(entry.path), depth + 1))
        waiting += reversed(below)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False
