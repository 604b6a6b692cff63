"""What looks at images have found, kept by content, so that a second run decodes none of those again."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from sdtune.config import TrainLora
from sdtune.core.data.cache_folder import FACTS, folder_of
from sdtune.core.data.image_file import FILE_BYTES, contents
from sdtune.core.data.images import PIXELS, SMALLEST
from sdtune.core.intake.facts import Job, Measured
from sdtune.core.run_folder import write_atomically
from sdtune.errors import DataError

FORMAT = 1
"""of looking and of the lines; a higher one looks at everything anew"""
MOST = 64 * 2**20
"""bytes of the file, of about 100,000 images; one that would be larger starts afresh"""
THREADS = 4  # hashing leaves Python's lock
_DIGEST = 20  # bytes
_FIELDS = {field.name for field in fields(Measured)}
_HASH = r"[0-9a-f]{64}"


class Memo:
    """Facts by what was looked at and how; several processes may add to one file at once."""

    def __init__(self, file: int | None, lines: dict[str, bytes]) -> None:
        self._file = file
        self._lines = lines

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known, so that hashing files beforehand would bring nothing."""
        return not self._lines

    def known(self, job: Job) -> Measured | None:
        """What was found of these bytes at an earlier time; reads the whole file, and decodes nothing."""
        try:
            digest = sha256(contents(Path(job.path or ""), job.name)).hexdigest()
            key = key_of(job, digest)
        except DataError:  # a worker will tell
            return None
        line = self._lines.get(key)
        found = None if line is None else _facts(key, line)
        return found if found and found.sha256 == digest else None

    def known_of(self, jobs: Iterable[Job]) -> Iterator[Measured | None]:
        """The same of many, in their order, by a few threads."""
        with ThreadPoolExecutor(THREADS) as pool:
            yield from pool.map(self.known, jobs)

    def add(self, job: Job, found: Measured) -> None:
        """Remember; a place that cannot be written is left alone from then on."""
        if self._file is None:
            return
        try:
            key = key_of(job, found.sha256)
            line = _line(key, found)
            if os.fstat(self._file).st_size + len(line) > MOST:
                os.ftruncate(self._file, 0)
            if os.write(self._file, line) < len(line):  # one call, so that lines of two processes stay whole
                self.close()
        except (DataError, OSError):
            self.close()

    def close(self) -> None:
        """Let go of the file; what is known stays known."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None


@contextlib.contextmanager
def memo_for(config: TrainLora) -> Iterator[Memo]:
    """The memo in the cache folder; where that cannot be used, one that knows nothing and remembers nothing."""
    folder = folder_of(config.cache)
    memo = Memo(*_opened(folder / FACTS)) if folder else Memo(None, {})
    try:
        yield memo
    finally:
        memo.close()


def key_of(job: Job, digest: str) -> str:
    """What the facts of a look depend on: the image's bytes, its mask's, its suffix, and how it is looked at."""
    mask = sha256(contents(Path(job.mask_path), f"{job.name}: its mask")).hexdigest() if job.mask_path else ""
    how = (job.resolution, job.background, job.alpha_mask, job.crop_borders)
    told = (FORMAT, digest, mask, Path(job.name).suffix.lower(), *how)
    return blake2b(json.dumps(told).encode(), digest_size=_DIGEST).hexdigest()


def _opened(path: Path) -> tuple[int | None, dict[str, bytes]]:
    """The file for adding, None where nothing can be added; and its lines by their keys."""
    lines = _read(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size > 2 * sum(len(line) + 2 for line in lines.values()):
            write_atomically(path, lambda part: part.write_bytes(b"".join(line + b"\n" for line in lines.values())))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0)
        file = os.open(path, flags, 0o666)
    except OSError:
        return None, lines
    if not stat.S_ISREG(os.fstat(file).st_mode):  # a pipe
        os.close(file)
        return None, lines
    return file, lines


def _read(path: Path) -> dict[str, bytes]:
    """{key: line}, each to be looked at when it is needed; of several of one key the last counts."""
    try:
        if not path.is_file() or path.stat().st_size > MOST:
            return {}
        data = path.read_bytes()
    except OSError:
        return {}
    start, end = len(b'{"key": "'), len(b'{"key": "') + 2 * _DIGEST
    return {line[start:end].decode("ascii", "replace"): line for line in data.split(b"\n") if len(line) > end}


def _line(key: str, found: Measured) -> bytes:
    """One line of JSON, after the end of what a kill may have cut short.

    With a checksum, since a digit that is damaged would be another size.
    """
    told = {"key": key, "check": _check(key, asdict(found)), "facts": asdict(found)}
    return b"\n" + json.dumps(told).encode() + b"\n"


def _facts(key: str, line: bytes) -> Measured | None:
    """The facts of a line; None where it is damaged, or tells what no look finds."""
    try:
        told = json.loads(line)
        facts = told["facts"]
        if told["key"] != key or told["check"] != _check(key, facts) or facts.keys() != _FIELDS:
            return None
        if not all(fits(facts[name]) for name, fits in _FITS.items()) or facts["width"] * facts["height"] > PIXELS:
            return None
        values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in facts.items()}
        return Measured(**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _check(key: str, facts: object) -> str:
    return blake2b((key + json.dumps(facts, sort_keys=True)).encode(), digest_size=8).hexdigest()


def _whole(least: int, most: int) -> Callable[[object], bool]:
    """Whether it is a whole number from `least` to `most`, as JSON has them: true is none."""
    return lambda value: type(value) is int and least <= value <= most


def _text(pattern: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _rows(each: Callable[[object], bool], count: int | None) -> Callable[[object], bool]:
    """Whether it is a list of such, of `count` where that is given."""
    return lambda value: isinstance(value, list) and count in (None, len(value)) and all(map(each, value))


def _or_none(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or fits(value)


_FITS: dict[str, Callable[[object], bool]] = {
    "sha256": _text(_HASH),
    "bytes": _whole(1, FILE_BYTES),
    "kind": _text("[A-Z0-9]+"),
    "width": _whole(SMALLEST, PIXELS // SMALLEST),
    "height": _whole(SMALLEST, PIXELS // SMALLEST),
    "border": _or_none(_rows(_whole(0, PIXELS), 4)),
    "prepared": _rows(_whole(1, PIXELS), 2),
    "sharpness": _number,
    "contrast": _number,
    "fingerprint": _text("[0-9a-f]{16}"),
    "tints": _text("[0-9a-f]{384}"),
    "notices": _rows(lambda value: isinstance(value, str) and value.isprintable(), None),
    "mask": _or_none(_text("file|alpha")),
    "written": _whole(0, 2**63),
    "made": _text(f"|{_HASH}"),
}
"""{field of Measured: whether a value, as JSON tells it, is one that a look finds}"""
assert _FITS.keys() == _FIELDS, "each is checked"
