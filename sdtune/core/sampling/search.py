"""The search for a file that went into a picture, by its SHA-256: names say where to look, and prove nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sdtune.core.sampling.fingerprint import of_file
from sdtune.core.sampling.recipe import FileUse
from sdtune.earlier import RUNS
from sdtune.errors import InputError

MOST = 1000
"""files that are looked at"""
_ODD = re.compile(r'[\x00-\x1f:*?"<>|\\]')


def find(use: FileUse, picture: Path, folder: Path | None) -> Path | None:
    """The file, in the folder that is named, where it lay, beside the picture, or in a run there or here."""
    for path in _places(use, picture, folder):
        try:
            if path.is_file() and of_file(path) == use.sha256:
                return path
        except (OSError, InputError):
            continue
    return None


def plain_parts(name: str) -> tuple[str, ...]:
    """The parts of a path that leads down and nowhere else; none of another."""
    parts = tuple(name.split("/"))
    is_plain = all(part.strip(" .") and not _ODD.search(part) and not part.startswith("~") for part in parts)
    return parts if is_plain and len(name) <= 1024 else ()


def _places(use: FileUse, picture: Path, folder: Path | None) -> Iterator[Path]:
    """Where it may lie: first all places of its own name, then LoRAs of runs under any."""
    parts = plain_parts(use.file)
    if not parts:
        return
    beside = [picture.parent, picture.parent.parent]
    for place in ([folder] if folder else []) + [Path(), *beside]:
        yield place.joinpath(*parts)
        yield place / parts[-1]
    runs = dict.fromkeys(place.resolve() / RUNS for place in (Path(), *beside))
    names = [path for place in runs for path in _files(place, parts[-1])]
    yield from (path for path in names if path.name == parts[-1])
    yield from (path for path in names if path.name != parts[-1])


def _files(runs: Path, name: str) -> list[Path]:
    """What runs hold of the kind."""
    ending = Path(name).suffix
    if ending != ".safetensors" or not runs.is_dir():
        return []
    return sorted(path for pattern in ("*/*", "*/embeddings/*") for path in runs.glob(pattern + ending))[:MOST]
