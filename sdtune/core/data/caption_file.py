"""Caption files: where the captions of each image stand, and how they are put there, each file whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import secrets
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from filelock import FileLock, Timeout

from sdtune.core.data.captions import (
    BYTES,
    METADATA,
    METADATA_BYTES,
    METADATA_CSV,
    SUFFIXES,
    TEXT_COLUMNS,
    decoded,
    rows,
)
from sdtune.core.data.layout import TEXTS, Item, Layout
from sdtune.core.data.sources import FolderSource
from sdtune.errors import DataError, OutputError

HIDDEN = ".sdtune-caption-"
"""how the names of files begin that are there only while captions are written"""
LOCK = f"{HIDDEN}lock"
TWICE = "\0twice"
"""stands in a row of which a name was given twice; no file's text has zero bytes"""


@dataclass(frozen=True)
class Place:
    """Where the captions of an image stand, or will, and what they are."""

    path: Path
    item: Item
    file: Path
    """a sidecar, or a metadata.jsonl"""
    row: str | None
    """the image's name in the metadata.jsonl, None for a sidecar"""
    raw: tuple[str, ...]
    """captions as they stand in the file, one a line, () where there is no file or no line for it"""
    trouble: str | None
    """why its captions cannot be read or written, and what to do"""
    at: int | None = None
    """its line in the metadata.jsonl, from 0; None: a new one"""
    shared: Path | None = None
    """the list of captions whose trouble it is, with that of others"""

    @property
    def captions(self) -> tuple[str, ...]:
        """On one line each, cleaned, none of them empty."""
        return self.item.captions

    @property
    def in_training(self) -> tuple[str, ...]:
        """What training takes: where it has no caption of its own, what the name of kohya's folder says."""
        return self.captions or ((self.item.of_class,) if self.item.of_class else ())

    def is_too_much(self, several: Sequence[str]) -> str | None:
        """Why its file cannot hold these captions, with what to do."""
        sizes = [len(one.encode()) for one in several]
        if self.row is None and sum(sizes) + len(sizes) > BYTES:
            return f"{self.file.name} would be over 8 kB, so it stays; shorten its captions, or remove some"
        return "a caption would be over 8 kB, so it stays; shorten it" if max(sizes, default=0) > BYTES else None


def places(folder: Path, layout: Layout, to: Literal["sidecar", "metadata"], *, follow_links: bool) -> list[Place]:
    """Every image of a data set; one that has no caption yet gets its place by `to`, where it has no line already."""
    lists = _listed(folder, follow_links=follow_links)
    owners: dict[Path, Path] = {}
    return [_place(folder, item, lists, owners, to) for item in layout.items]


def watched(folder: Path, found: Iterable[Place]) -> set[Path]:
    """The lists of captions that are or could be there."""
    above = {folder / parent for place in found for parent in PurePosixPath(place.item.entry.name).parents}
    lists = {place.file for place in found if place.row is not None}
    return lists | {parent / name for parent in above for name in (METADATA, METADATA_CSV)}


def texts_of(place: Place) -> list[Path]:
    """The files beside an image that can hold its caption."""
    return [place.path.with_suffix(suffix) for suffix in TEXTS]


def write(captions: Iterable[tuple[Place, Sequence[str]]]) -> None:
    """The captions in place of what stood there; all of one metadata.jsonl at once."""
    by_metadata: dict[Path, list[tuple[Place, Sequence[str]]]] = defaultdict(list)
    for place, several in captions:
        if place.row is None:
            _put(place.file, "\n".join(several) + "\n")
        else:
            by_metadata[place.file].append((place, several))
    for file, changes in by_metadata.items():
        _put(file, _changed(_text(file), changes))


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Keeps other runs out of a data set; False where nothing can be written, and so nothing be locked."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        remedy = "wait for it, or look at the captions alone with --dry-run"
        raise OutputError(f"{folder}: another sdtune caption or prepare is at work there; {remedy}") from None
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            os.unlink(folder / LOCK)  # while it is held; who waits for it looks whether it is there still
        lock.release()


def sweep(folders: Iterable[Path]) -> None:
    """Remove what a run that was killed has left unfinished."""
    for folder in folders:
        for file in folder.glob(f"{HIDDEN}*.tmp"):
            with contextlib.suppress(OSError):
                file.unlink()


@dataclass(frozen=True)
class _Line:
    """One line of a list of captions."""

    file: Path
    number: int
    """from 0"""
    name: str
    """of the image, as the line has it"""


@dataclass(frozen=True)
class _Lists:
    """What every metadata.jsonl and metadata.csv says, by the image's path in the data set."""

    told: dict[str, _Line] = field(default_factory=dict)
    """the line that its caption is read from"""
    empty: dict[str, _Line] = field(default_factory=dict)
    """a line that lacks its caption"""
    odd: dict[str, str] = field(default_factory=dict)
    """why its line cannot be read, and what to do"""
    closed: dict[Path, str] = field(default_factory=dict)
    """lists that cannot be read, with the reason and what to do"""


def _listed(folder: Path, *, follow_links: bool) -> _Lists:
    """As layout reads them: of several lists with a caption for an image the last counts, in each the first line."""
    source = FolderSource(folder, follow_links=follow_links)
    lists = _Lists()
    for entry in source.entries():
        file = folder / entry.name
        if file.name not in (METADATA, METADATA_CSV):
            continue
        try:
            text = decoded(source.text(entry, METADATA_BYTES, "which is too much; split the data set"), entry.told)
        except DataError as error:  # layout tells of it, too
            lists.closed[file] = str(error).removeprefix(f"{entry.told}: ")
            continue
        above = posixpath.dirname(entry.name)
        found = rows(text, entry.told)
        here: set[str] = set()
        for name, captions in found.captions.items():
            line, inner = _Line(file, found.at[name] - 1, name), _inner(above, name)
            if inner in here and captions:
                lists.odd.setdefault(inner, f"{file}:{found.at[name]}: {inner} has a line already; remove one of them")
            elif inner in here or name.startswith("/"):
                continue
            elif captions:
                lists.told[inner] = line
            elif file.name == METADATA:
                lists.empty[inner] = line
            here.add(inner)
        if file.name == METADATA:
            _add_odd(lists, file, above, text, [one.removeprefix(f"{entry.told}:") for one in found.wrong])
    return lists


def _add_odd(lists: _Lists, file: Path, above: str, text: str, wrong: Sequence[str]) -> None:
    """Lines that name an image and have no caption, or one that cannot be read and must not be lost."""
    lines = text.split("\n")
    for one in wrong:
        number, _, reason = one.partition(": ")
        row = _row(lines[int(number) - 1])
        if row is None:
            continue
        inner = _inner(above, row["file_name"])
        if row.get(_column(row)) in (None, "") and TWICE not in row:
            lists.empty.setdefault(inner, _Line(file, int(number) - 1, row["file_name"]))
        else:
            lists.odd.setdefault(inner, f"{file}:{number}: {reason}")


def _inner(above: str, name: str) -> str:
    return posixpath.normpath(posixpath.join(above, name))


def _place(
    folder: Path, item: Item, lists: _Lists, owners: dict[Path, Path], to: Literal["sidecar", "metadata"]
) -> Place:
    name = item.entry.name
    path = folder / name
    trouble = "; ".join(one.removeprefix(f"{path}: ") for one in item.troubles) or None
    line = lists.told.get(name)
    if line is None and not item.captions:
        if name in lists.odd and trouble is None:
            return Place(path, item, _sidecar(path), None, (), lists.odd[name])
        line = lists.empty.get(name)
    if line is not None and line.file.name == METADATA:
        return Place(path, item, line.file, line.name, item.captions, trouble, line.number)
    if line is not None and to == "sidecar":
        reason = f"not rewritten; --to metadata puts captions into a {METADATA} beside it, which is read instead"
        return Place(path, item, line.file, line.name, item.captions, trouble or reason, shared=line.file)
    sidecar = _sidecar(path)
    if line is not None or (to == "metadata" and not item.captions and not sidecar.is_file()):
        file, row = (line.file.with_name(METADATA), line.name) if line else (path.parent / METADATA, path.name)
        return _new_line(Place(path, item, file, row, item.captions, trouble), lists)
    owner = owners.setdefault(sidecar, path)
    if owner != path:
        trouble = f"shares {sidecar.name} with {owner.name}, whose caption that is; rename one of them"
    elif sidecar.is_dir():
        trouble = trouble or f"{sidecar.name}, where its caption would stand, is a folder; rename that"
    return Place(path, item, sidecar, None, _raw(sidecar, item), trouble)


def _new_line(place: Place, lists: _Lists) -> Place:
    """The place, with the reason where a metadata.jsonl cannot take it."""
    closed = lists.closed.get(place.file)
    if closed is None and os.path.lexists(place.file) and not place.file.is_file():
        closed = "is not a file; rename or remove it"
    if place.trouble is None and closed is not None:
        return replace(place, trouble=closed, shared=place.file)
    if place.trouble is None and not _is_text(place.row or ""):
        return replace(place, trouble=f"its name is not UTF-8, as {METADATA} must be; rename it")
    return place


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _row(line: str) -> dict[str, Any] | None:
    """The row of a line that names an image, with or without a caption."""
    try:
        row = json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("file_name"), str) else None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    return row if len(row) == len(pairs) else row | {TWICE: True}


def _column(row: Mapping[str, Any]) -> str:
    return next((column for column in TEXT_COLUMNS if column in row), TEXT_COLUMNS[0])


def _sidecar(path: Path) -> Path:
    """The one that is there, else the one that would be read first."""
    return next((file for suffix in SUFFIXES if (file := path.with_suffix(suffix)).is_file()), path.with_suffix(".txt"))


def _raw(sidecar: Path, item: Item) -> tuple[str, ...]:
    """The lines of a sidecar as they are, one empty caption where it is empty."""
    if item.troubles or not sidecar.is_file() or sidecar.stat().st_size > BYTES:
        return item.captions
    lines = decoded(sidecar.read_bytes(), sidecar).splitlines()
    return tuple(line for line in lines if line.strip()) or ("",)


def _text(file: Path) -> str:
    return decoded(file.read_bytes(), file) if file.exists() else ""


def _changed(text: str, changes: Sequence[tuple[Place, Sequence[str]]]) -> str:
    """A metadata.jsonl with other captions on some lines and new lines at its end; all else stays as it is."""
    lines = text.split("\n")
    new = []
    for place, several in changes:
        told = several[0] if len(several) == 1 else list(several)
        row = _row(lines[place.at]) if place.at is not None and place.at < len(lines) else None
        if row is None or place.at is None or row["file_name"] != place.row:
            new.append(_json({"file_name": place.row, "text": told}))
            continue
        row[_column(row)] = told
        lines[place.at] = _json(row) + ("\r" if lines[place.at].endswith("\r") else "")
    if new:
        while lines and not lines[-1].strip():
            lines.pop()
        lines += [*new, ""]
    return "\n".join(lines)


def _json(row: Mapping[str, Any]) -> str:
    """On one line, with letters as they are, or escaped where they are none that UTF-8 has."""
    told = json.dumps(row, ensure_ascii=False)
    return told if _is_text(told) else json.dumps(row)


def _put(file: Path, text: str) -> None:
    """The file is there whole or not at all, with the permissions that it had."""
    temporary = file.parent / f"{HIDDEN}{secrets.token_hex(8)}.tmp"  # known before it is made: a signal may come
    how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        try:
            with open(os.open(temporary, how, 0o600), "wb") as there:
                there.write(text.encode())
                there.flush()
                os.fsync(there.fileno())
            os.chmod(temporary, _permissions(file))
            os.replace(temporary, file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        remedy = "put that right and run it again: what is written stays"
        raise OutputError(f"{file}: cannot be written ({error.strerror}); {remedy}") from None


def _permissions(file: Path) -> int:
    """Those of the file that is there, else those of a new one."""
    with contextlib.suppress(FileNotFoundError):
        return stat.S_IMODE(file.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
