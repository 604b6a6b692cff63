"""The ledger of a prepared data set: what was measured, what stands in it, and where each image came from.

prepared.jsonl            a row an image of the data set, for people and programs
.sdtune/measured.jsonl    what was found of each file, so that no file is read twice
.sdtune/settings.json     the share that was held out, and what was taken out by hand
.sdtune/moving.jsonl      rows of the images that are being put in place, while they are
.sdtune/made              SHA-256 of every image and mask that was ever put there: all else is people's
.sdtune/stage/            prepared images that have no place yet
.sdtune/thumbnails/       for the report
.sdtune/unfinished/       files while they are written
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from sdtune.config import Prepare
from sdtune.core.data.caption_file import alone
from sdtune.core.data.layout import Item
from sdtune.core.intake.facts import Measured
from sdtune.core.run_folder import must_be_writable
from sdtune.errors import DataError, OutputError

VERSION = 2  # of what `one.handle` makes; another number makes everything anew
UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
ROWS = "prepared.jsonl"
HIDDEN = ".sdtune"


@dataclass(frozen=True, slots=True)
class Row:
    """One image of the data set."""

    file: str
    """path in the data set, with / between its parts"""
    source: str
    """path of the original, as it was given"""
    width: int
    """pixels of the prepared image"""
    height: int
    original_width: int
    original_height: int
    captions: tuple[str, ...]
    """as `prepare` wrote them; the file beside the image may say something else by now"""
    repeats: int
    prior: bool
    held_out: bool
    mask: str | None
    """where it came from: "file", "alpha", "clipseg: a cat"; None: no mask"""
    bytes: int
    sha256: str
    """of the original"""
    key: str
    """of the original file and of what was asked for"""
    origin: str
    """of the original's place"""
    made: str = ""
    """SHA-256 of the prepared image"""


MEASURED: TypeAdapter[Any] = TypeAdapter(Measured)
ROW: TypeAdapter[Any] = TypeAdapter(Row)


@dataclass(frozen=True, slots=True)
class Identity:
    """What an image of a source is known by."""

    key: str
    """changes with the file, its mask and the settings that make the prepared image"""
    origin: str
    """of the file's place alone"""


def identity_of(item: Item, source: str, config: Prepare) -> Identity:
    """By place, size and time of change; the settings are those that change what is made."""
    entry = item.entry
    place = os.path.abspath(entry.path) if entry.path else f"{os.path.abspath(source)}\0{entry.name}"
    mask = (item.mask.name, item.mask.size, item.mask.stamp) if item.mask else None
    made = (config.resolution, config.format, config.background, config.crop_borders, config.mask.kind == "alpha")
    return Identity(_hash(VERSION, place, entry.size, entry.stamp, mask, made), _hash(place))


class Ledger:
    """What is known of a data set in a folder; nothing is written before `open`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.hidden = out / HIDDEN
        self.stage = self.hidden / "stage"
        self.thumbnails = self.hidden / "thumbnails"
        self.unfinished = self.hidden / "unfinished"
        self._moving = self.hidden / "moving.jsonl"
        self.measured: dict[str, Measured] = {}
        self.rows: dict[str, Row] = {}
        """by file, as the last run that came to its end left them"""
        self.planned: dict[str, Row] = {}
        """by file, of a run that did not come to its end: these may stand there, too"""
        self.share: float | None = None
        """of the images that were held out"""
        self.removed: set[tuple[str, str]] = set()
        """(SHA-256, origin) of the images that someone has taken out of the data set"""
        self._made: set[str] = set()
        self._read()

    @property
    def known(self) -> dict[str, Row]:
        """All that may stand there."""
        return {**self.planned, **self.rows}

    def is_own(self, path: Path) -> bool:
        """Whether a file is one that prepare has made, and not people's."""
        return digest(path) in self._made

    def take(self, old: Path, new: Path) -> None:
        """Put a file that was made here in its place."""
        self._made.add(made := digest(old))
        with (self.hidden / "made").open("a", encoding="ascii") as file:
            file.write(f"{made}\n")
        new.parent.mkdir(parents=True, exist_ok=True)
        os.replace(old, new)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Make the folder, and keep other processes out of it."""
        must_be_writable(self.out)
        for place in (self.hidden, self.stage, self.thumbnails, self.unfinished):
            if place.is_symlink():
                raise OutputError(f"{place}: a link, which prepare does not write through; remove it")
        try:
            self.stage.mkdir(parents=True, exist_ok=True)
            self.thumbnails.mkdir(exist_ok=True)
        except OSError as error:
            reason = error.strerror
            raise OutputError(f"{self.out}: cannot be written ({reason}); give another folder with --out") from None
        lock = FileLock(self.hidden / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(
                f"{self.out}: another prepare is at work there; wait for it, or give another --out"
            ) from None
        try:
            shutil.rmtree(self.unfinished, ignore_errors=True)  # of a process that was killed
            self.unfinished.mkdir()
            self._mend()
            self._read()  # anew, since another process may have been at work until now
            with alone(self.out):  # sdtune caption writes beside the images, too
                yield
        finally:
            shutil.rmtree(self.unfinished, ignore_errors=True)
            lock.release()
            if not self.hidden.exists():  # discarded
                with contextlib.suppress(OSError):
                    self.out.rmdir()

    def add(self, key: str, measured: Measured) -> None:
        """Remember what was found of a file, for this run and the next."""
        self.measured[key] = measured
        with (self.hidden / "measured.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **asdict(measured)}) + "\n")

    def begin_moving(self, rows: Sequence[Row]) -> None:
        """From here to `finish` images come and go: what may be there by then is known to the next run, too."""
        self._settle(self.share)
        planned = {**self.planned, **{row.file: row for row in rows}}
        self.write(self._moving, _ended([json.dumps(asdict(row)) for row in planned.values()]))

    def _settle(self, share: float | None) -> None:
        removed = sorted(map(list, self.removed))
        self.write(
            self.hidden / "settings.json",
            _ended([json.dumps({"version": VERSION, "held_out": share, "removed": removed})]),
        )

    def finish(self, rows: Sequence[Row], used: set[str], share: float) -> None:
        """Write what stands in the data set now; what has not changed is not written anew."""
        self.rows = {row.file: row for row in rows}
        lines = [json.dumps({"key": key, **asdict(self.measured[key])}) for key in sorted(used)]
        self.write(self.hidden / "measured.jsonl", _ended(lines))
        self._settle(share)
        self.write(self.hidden / "made", _ended(sorted(self._made)))
        told = [
            _readable(json.dumps(asdict(row), ensure_ascii=False)) for row in sorted(rows, key=lambda row: row.file)
        ]
        if hasattr(os, "sync"):
            os.sync()
        self.write(self.out / ROWS, _ended(told))
        self._moving.unlink(missing_ok=True)
        shutil.rmtree(self.stage, ignore_errors=True)
        for thumbnail in self.thumbnails.iterdir():
            if thumbnail.stem not in used:
                thumbnail.unlink(missing_ok=True)

    def write(self, path: Path, text: str) -> None:
        """A text file of the data set, whole or not at all; the same text is not written anew."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text(encoding="utf-8") == text:
                return
        path.parent.mkdir(parents=True, exist_ok=True)
        place = self.unfinished / f"text{path.suffix}"
        place.write_text(text, encoding="utf-8")
        os.replace(place, path)  # flushed to disk with all others at the end: one by one they would take hours

    def _mend(self) -> None:
        """End a last line that an end of the process has cut off, so that the next one stands by itself."""
        with contextlib.suppress(OSError), (self.hidden / "measured.jsonl").open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")

    def discard(self) -> None:
        """Take away what `open` has made, where nothing came of it and nobody else has put anything there."""
        if not self.rows:
            shutil.rmtree(self.hidden, ignore_errors=True)

    def _read(self) -> None:
        for known in (self.measured, self.rows, self.planned, self.removed):
            known.clear()
        if not os.path.lexists(self.out):
            return
        try:
            names = os.listdir(self.out)
        except OSError as error:
            raise OutputError(f"{self.out}: {error.strerror}; give a folder with --out") from None
        if names and not self.hidden.is_dir():
            raise OutputError(f"{self.out}: already holds files that are not prepare's; give a new folder with --out")
        for row in _lines(self.hidden / "measured.jsonl"):
            key = row.pop("key", None)
            found = _checked(MEASURED, row)
            if isinstance(key, str) and found is not None and _is_sound(found):
                self.measured[key] = found
        for file, found_rows in ((self.out / ROWS, self.rows), (self._moving, self.planned)):
            for row in _lines(file):
                known = _checked(ROW, row)
                if known is not None and _is_sane(known):
                    found_rows[known.file] = known
        with contextlib.suppress(OSError):
            self._made = set((self.hidden / "made").read_text(encoding="ascii", errors="replace").split())
        for settings in _lines(self.hidden / "settings.json"):
            share, removed = settings.get("held_out"), settings.get("removed")
            self.share = share if isinstance(share, int | float) else None
            for pair in removed if isinstance(removed, list) else ():
                if isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair):
                    self.removed.add((pair[0], pair[1]))
        there = {(row.sha256, row.origin): (self.out / row.file).exists() for row in self.rows.values()}
        there |= {(row.sha256, row.origin): True for row in self.rows.values() if (self.out / row.file).exists()}
        gone = {(row.sha256, row.origin) for row in self.rows.values() if self._stays(row)}
        gone = {one for one in gone if not there[one]}
        if len(gone) < len(there):  # where all are gone, nobody chose
            self.removed |= gone

    def _stays(self, row: Row) -> bool:
        """Whether a run that was killed would have left it where it was."""
        planned = self.planned.get(row.file)
        return not self.planned or (planned is not None and planned.key == row.key)


def _checked(kind: TypeAdapter[Any], row: dict[str, Any]) -> Any:
    """The row as what it should be, None where it is not: it is read or made anew then."""
    try:
        return kind.validate_python(row)
    except ValidationError:
        return None


def _is_sound(one: Measured) -> bool:
    """Whether what was measured can be true."""
    hexes = ((one.sha256, 64), (one.fingerprint, 16), (one.tints, 384))
    sides = (one.width, one.height, *one.prepared)
    return all(re.fullmatch(f"[0-9a-f]{{{length}}}", text) for text, length in hexes) and min(sides) > 0


def _is_sane(row: Row) -> bool:
    """Whether it may name a file; one that leads out of the data set is refused, since files go by these names."""
    file = row.file
    if file.startswith("/") or ".." in file.split("/") or "\\" in file or ":" in file:
        raise DataError(f"{ROWS}: {file[:200]} leads out of the data set; remove that line")
    try:
        fits = max(len(part.encode()) for part in file.split("/")) < 250 and len(file) < 1000
    except UnicodeEncodeError:
        return False
    return fits and "\0" not in file and bool(file) and re.fullmatch("[0-9a-f]{64}", row.sha256) is not None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; what is no object, as a last line that was cut off, is not heeded."""
    try:
        if not path.is_file():
            return
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict):
                    yield row
    except OSError as error:
        told = error.strerror or "it cannot be read"
        raise OutputError(f"{path}: {told}; remove it, or give a new folder with --out") from None


def _readable(line: str) -> str:
    """JSON with letters as they are, but for those that end lines, turn the reading order or steer a terminal."""
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _ended(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def digest(path: Path) -> str:
    """SHA-256 of a file, "" where it cannot be read."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def _hash(*told: object) -> str:
    return hashlib.sha256(repr(told).encode("utf-8", "surrogatepass")).hexdigest()[:24]
