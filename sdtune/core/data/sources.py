"""Sources: folders, single files and archives as lists of files; they are read and never written."""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.core.data import captions
from sdtune.errors import DataError

SYSTEM = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "desktop.ini"})
"""what file managers and systems put beside people's files"""
TEXTS = (*captions.SUFFIXES, ".json")
"""of files that say something of the image of the same name; the first counts"""
MASK = "-masklabel"
"""after the name of an image, in any case: its mask, of any suffix"""
RUN_SETTINGS = "run.toml"
"""in the folder of a training, whose samples are no data"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a source."""

    told: str
    """as the user knows it: photos/cats/1.jpg, set.zip/1.jpg"""
    name: str
    """path below the source, with / between its parts"""
    size: int = 0
    """bytes"""
    stamp: int = 0
    """changes whenever the file does"""
    path: Path | None = None
    """where it lies, None for what is inside an archive"""
    trouble: str | None = None
    """why it cannot be read, and what to do"""
    hides: bool = False
    """whether images may lie behind it that are not seen for its trouble: a folder, or the rest of an archive"""


class Source(ABC):
    """Where images come from."""

    told: str
    """as the user named it"""
    title: str
    """name of the folder or file itself, however it was reached"""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Every file, those in trouble too; hidden ones are left alone."""

    @abstractmethod
    def read(self, entry: Entry) -> bytes:
        """The bytes of one small file; raises DataError where it cannot be read."""

    @abstractmethod
    def payloads(self, wanted: Sequence[Entry]) -> Iterator[tuple[Entry, bytes | DataError | None]]:
        """Each wanted file with its bytes, None for what lies on disk and is read there, in any order."""

    def head(self, entry: Entry) -> bytes:  # noqa: ARG002 (those that can look, do)
        """The first bytes, b"" where looking would cost too much."""
        return b""

    def text(self, entry: Entry, limit: int, advice: str) -> bytes:
        """The bytes of a text file of at most `limit` bytes."""
        if entry.trouble:
            raise DataError(f"{entry.told}: {entry.trouble}")
        if entry.size > limit:
            raise DataError(f"{entry.told}: over {_size(limit)}, {advice}")
        return self.read(entry)


class FolderSource(Source):
    """A folder with all below it, or some files of it."""

    def __init__(
        self,
        folder: Path,
        *,
        follow_links: bool = False,
        only: Collection[str] | None = None,
        without: Path | None = None,
    ) -> None:
        """`only`: names of its own files that count, with what belongs to each; `without`: a folder left alone."""
        self.told, self.folder = str(folder), folder
        self.title = os.path.basename(os.path.realpath(folder))
        self.only = only
        self._follow = follow_links
        self._root = os.path.realpath(folder)
        self._without = os.path.realpath(without) if without else None

    def entries(self) -> Iterator[Entry]:
        """In the order of their paths, told part by part."""
        if self.only is None:
            yield from self._below()
            return
        stems = {os.path.splitext(name)[0] for name in self.only}
        for name in sorted(os.listdir(self.folder)):
            stem, suffix = os.path.splitext(name)
            beside = stem in stems and suffix.lower() in TEXTS
            mask = without_end(stem, MASK) in stems
            if (name in self.only or beside or mask) and not os.path.isdir(self.folder / name):
                yield self._entry(name)

    def read(self, entry: Entry) -> bytes:
        """The whole file."""
        try:
            return (self.folder / entry.name).read_bytes()
        except OSError as error:
            raise DataError(f"{entry.told}: {_unreadable(error)}") from None

    def payloads(self, wanted: Sequence[Entry]) -> Iterator[tuple[Entry, bytes | DataError | None]]:
        """They lie on disk."""
        for entry in wanted:
            yield entry, None

    def head(self, entry: Entry) -> bytes:
        """The first 16 bytes."""
        try:
            with open(self.folder / entry.name, "rb") as file:
                return file.read(16)
        except OSError:
            return b""

    def _below(self) -> Iterator[Entry]:
        """Depth first, by a stack of its own: folders may lie deeper than Python calls go."""
        stack = [(self._root, self._listed(""))]
        above = {self._root}
        while stack:
            here, inside = stack[-1]
            entry = next(inside, None)
            if entry is None:
                stack.pop()
                above.discard(here)
                continue
            if entry.path is not None or entry.trouble is not None:
                yield entry
                continue
            place = self.folder / entry.name
            real = os.path.realpath(place) if place.is_symlink() else os.path.join(here, place.name)
            if real in above:
                yield Entry(entry.told, entry.name, trouble="a link that leads in a circle; remove it")
            elif real != self._without:
                above.add(real)
                stack.append((real, self._listed(f"{entry.name}/")))

    def _listed(self, prefix: str) -> Iterator[Entry]:
        """What one folder holds."""
        place = self.folder / prefix if prefix else self.folder
        try:
            names = sorted(os.listdir(place))
        except OSError as error:
            if not prefix:
                raise DataError(f"{self.told}: {_unreadable(error)}") from None
            yield Entry(str(place), prefix.removesuffix("/"), trouble=_unreadable(error), hides=True)
            return
        if prefix and RUN_SETTINGS in names:
            reason = "the folder of a training, which is no data"
            yield Entry(str(place), prefix.removesuffix("/"), trouble=reason)
            return
        for name in names:
            if not name.startswith(".") and name not in SYSTEM:
                yield self._entry(f"{prefix}{name}")

    def _entry(self, name: str) -> Entry:
        """A file, or a folder: that has neither path nor trouble."""
        path = self.folder / name
        told = str(path)
        try:
            if path.is_symlink() and not self._follow:
                if os.path.commonpath([self._root, os.path.realpath(path)]) != self._root:
                    reason = "a link that leads out of the folder; put the file itself there, or say --follow-links"
                    return Entry(told, name, trouble=reason, hides=path.is_dir())
                if path.is_dir():
                    return Entry(told, name, trouble="a link to a folder that is read already; remove it")
            found = path.stat()
        except (OSError, ValueError) as error:
            folder = not path.suffix and getattr(error, "errno", None) in (errno.EACCES, errno.ENOENT)
            return Entry(told, name, trouble=_unreadable(error), hides=folder)
        if stat.S_ISDIR(found.st_mode):
            return Entry(told, name)
        if not stat.S_ISREG(found.st_mode):
            reason = "is not a file, whatever its name says; rename or remove it"
            return Entry(told, name, trouble=reason)
        return Entry(told, name, found.st_size, found.st_mtime_ns, path)


def without_end(stem: str, end: str) -> str | None:
    """The stem before an end in any case of letters, None where it has another: X-MaskLabel -> X."""
    return stem[: -len(end)] if stem.lower().endswith(end) else None


def open_sources(paths: Iterable[Path], *, follow_links: bool = False, without: Path | None = None) -> list[Source]:
    """Every source by what it is: folders, archives by their content, and single files, gathered folder by folder."""
    from sdtune.core.data.archives import archive_at

    found: list[Source] = []
    single: dict[Path, set[str]] = defaultdict(set)
    problems = []
    for path in dict.fromkeys(paths):
        try:
            mode = path.stat().st_mode
        except OSError as error:
            remedy = "check its name" if error.errno == errno.ENOENT else "give another place"
            reason = "no such file or folder" if error.errno == errno.ENOENT else _unreadable(error).split(";")[0]
            problems.append(f"{path}: {reason}; {remedy}")
            continue
        if stat.S_ISDIR(mode):
            found.append(FolderSource(path, follow_links=follow_links, without=without))
        elif not stat.S_ISREG(mode):
            problems.append(f"{path}: is neither a file nor a folder; give images, folders or archives")
        else:
            try:
                archive = archive_at(path)
            except DataError as error:
                problems += error.problems
                continue
            if archive:
                found.append(archive)
            else:
                single[path.parent].add(path.name)
    if problems:
        raise DataError(*problems)
    return found + [FolderSource(folder, follow_links=True, only=names) for folder, names in single.items()]


def _unreadable(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.ELOOP:
        return "a link that leads in a circle; put the file itself there"
    if number == errno.ENOENT:
        return "a link that leads nowhere, or removed meanwhile; put the file itself there"
    if number in (errno.EACCES, errno.EPERM):
        return "cannot be read (Permission denied); check its permissions"
    return f"cannot be read ({getattr(error, 'strerror', None) or error}); check it and its permissions"


def _size(limit: int) -> str:
    return f"{limit // 2**20} MB" if limit >= 2**20 else f"{limit // 1024} kB"
