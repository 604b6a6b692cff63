"""What lies in the cache's folder: entries, prior images, facts of images, hashes; told and removed without torch.

ab/<key>.safetensors    an entry, where ab begins the key; its time of change is that of its last use, to the day
ab/.<16 digits>.part    an entry that is being written, or all that a killed process left of it
priors/<key>/           images that the base model drew
folds/<key>.json        what the folds of a training have found
hashes/<key>.json       the SHA-256 of a file of a base model, by its place, its size and its times of change
facts.jsonl             what images are, by their content; .facts-<8 letters>.jsonl while it is written anew
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdtune.errors import ConfigError
from sdtune.tables import Cache

PRIORS = "priors"
FOLDS = "folds"
HASHES = "hashes"
FACTS = "facts.jsonl"
DAY = 24 * 3600.0  # seconds
ABANDONED = 3600.0  # seconds after which nobody writes an entry any more
_SHELF = re.compile(r"[0-9a-f]{2}")
_KEY = re.compile(r"[0-9a-f]{40}")
_ENTRY = re.compile(r"[0-9a-f]{40}\.safetensors")
_TOLD = re.compile(r"[0-9a-f]{40}\.json")
_PARTIAL_TOLD = re.compile(r"\.[0-9a-f]{20}-[a-z0-9_]{8}\.json")
_PARTIAL = re.compile(r"\.[0-9a-f]{16}\.part")
_PARTIAL_FACTS = re.compile(r"\.facts-[a-z0-9_]{8}\.jsonl")
_FACT = re.compile(rb'\s*\{"key": "[0-9a-f]{40}"')
_TOLD_IN: tuple[tuple[Literal["folds", "hash"], str], ...] = (("folds", FOLDS), ("hash", HASHES))


@dataclass(frozen=True)
class Kept:
    """Something in the cache."""

    kind: Literal["entry", "unfinished", "prior", "folds", "hash", "facts"]
    path: Path
    size: int
    """bytes"""
    used: float
    """seconds since 1970"""

    def unused(self, days: int, now: float) -> bool:
        """Whether nobody used it for so many days; 0 days: whether nobody is just making it."""
        if self.kind == "unfinished":
            return now - self.used > ABANDONED
        return days == 0 or (self.kind != "facts" and now - self.used >= days * DAY)

    def remove(self) -> None:
        """Remove it; another process may have done so, too."""
        with contextlib.suppress(FileNotFoundError):
            if self.kind == "prior":
                shutil.rmtree(self.path)
            else:
                self.path.unlink()
        if self.kind != "facts" and self.path.suffix != ".jsonl":
            with contextlib.suppress(OSError):  # others lie beside it
                self.path.parent.rmdir()


def folder_of(cache: Cache) -> Path | None:
    """Where a run's cache lies on disk; None where it is kept in memory alone."""
    return (cache.folder or usual_folder()) if cache.place == "disk" else None


def usual_folder() -> Path:
    """$SDTUNE_CACHE, else sdtune in $XDG_CACHE_HOME, else ~/.cache/sdtune."""
    try:
        if chosen := os.environ.get("SDTUNE_CACHE"):
            return Path(chosen).expanduser()
        above = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (above if above.is_absolute() else Path.home() / ".cache") / "sdtune"
    except RuntimeError:
        raise ConfigError(
            "cache: this user has no home folder; say in SDTUNE_CACHE where the cache shall lie"
        ) from None


def path_of(folder: Path, key: str) -> Path:
    """Where the entry of a key lies."""
    return folder / key[:2] / f"{key}.safetensors"


def kept_in(folder: Path) -> Iterator[Kept]:
    """Everything in the folder that is the cache's own by its name; links and other files are none of it.

    Raises OSError where the folder cannot be read.
    """
    shelves = sorted(one.path for one in _folders(folder) if _SHELF.fullmatch(one.name))
    for shelf in shelves:
        for one in _listed(shelf):
            entry = _ENTRY.fullmatch(one.name) and one.name[:2] == os.path.basename(shelf)
            found = _looked_at(one) if entry or _PARTIAL.fullmatch(one.name) else None
            if found and stat.S_ISREG(found.st_mode):
                yield Kept("entry" if entry else "unfinished", Path(one.path), found.st_size, found.st_mtime)
    drawn = [one for one in _listed(folder / PRIORS) if _KEY.fullmatch(one.name)]
    for one in drawn:
        if one.is_dir(follow_symlinks=False):
            yield _prior(one)
    for kind, name in _TOLD_IN:
        for one in _listed(folder / name):
            whole = _TOLD.fullmatch(one.name)
            found = _looked_at(one) if whole or _PARTIAL_TOLD.fullmatch(one.name) else None
            if found and stat.S_ISREG(found.st_mode):
                yield Kept(kind if whole else "unfinished", Path(one.path), found.st_size, found.st_mtime)
    for one in _listed(folder):
        found = _looked_at(one) if one.name == FACTS or _PARTIAL_FACTS.fullmatch(one.name) else None
        if found and stat.S_ISREG(found.st_mode) and (shelves or drawn or _holds_facts(one.path)):
            yield Kept("facts" if one.name == FACTS else "unfinished", Path(one.path), found.st_size, found.st_mtime)


def _prior(folder: os.DirEntry[str]) -> Kept:
    """A folder of images that is used, and pruned, as a whole."""
    found = [told for one in [folder, *_listed(Path(folder.path))] if (told := _looked_at(one))]
    size = sum(one.st_size for one in found if stat.S_ISREG(one.st_mode))
    return Kept("prior", Path(folder.path), size, max((one.st_mtime for one in found), default=0.0))


def _holds_facts(path: str) -> bool:
    """Whether a file of that name is the cache's also where nothing else of it is there."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return _FACT.match(file.read(100)) is not None
    return False


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return [one for one in found if one.is_dir(follow_symlinks=False)]


def _listed(folder: str | Path) -> list[os.DirEntry[str]]:
    """What a folder holds: nothing where it has vanished or may not be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        return list(found)
    return []


def _looked_at(one: os.DirEntry[str]) -> os.stat_result | None:
    with contextlib.suppress(OSError):  # removed meanwhile
        return one.stat(follow_symlinks=False)
    return None
