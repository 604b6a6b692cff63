"""Captions: the text that belongs to each image, from a file beside it or from a metadata.jsonl."""

from __future__ import annotations

import errno
import json
import os
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdtune.errors import DataError

SUFFIXES = (".txt", ".caption")
BYTES = 8192
METADATA = "metadata.jsonl"
METADATA_BYTES = 64 * 2**20
TOLD = 10  # problems told one by one
FORM = '{"file_name": "a.png", "text": "a caption"}'


def beside(path: Path) -> str | None:
    """The caption in the file of the same name, "" where that is empty, None where there is none."""
    for suffix in SUFFIXES:
        file = path.with_suffix(suffix)
        if file.is_symlink() or file.exists():
            return clean(read_text(file, BYTES, "which is no caption; shorten it or rename the file"))
    return None


def listed(folder: Path, *, follow_links: bool = True) -> dict[str, str]:
    """{file name: caption} of Hugging Face's imagefolder form: a JSON object a line with file_name and text."""
    file = folder / METADATA
    if not file.is_symlink() and not file.exists():
        return {}
    if not follow_links:
        must_stay_inside(file, folder)
    captions: dict[str, str] = {}
    wrong = []
    for number, line in enumerate(
        read_text(file, METADATA_BYTES, "which is too much; split the data set").split("\n"), 1
    ):
        if not line.strip():
            continue
        try:
            name, text = _row(line)
            if Path(name).name != name or "\\" in name or not _is_there(folder / name):
                raise ValueError(f"{name} is not a file in this folder; mend or remove that line")
            if name in captions:
                raise ValueError(f"{name} has a line already; remove one of them")
            if len(text.encode("utf-8", "surrogatepass")) > BYTES:
                raise ValueError(f"the caption of {name} is over {_size(BYTES)}; shorten it")
        except ValueError as error:
            wrong.append(f"{file}:{number}: {error}")
            continue
        captions[name] = clean(text)
    if wrong:
        raise DataError(*first_of(wrong, f"{file}: and", "more such lines"))
    return captions


def first_of(problems: Sequence[str], before: str, after: str) -> list[str]:
    """The first few of many problems, and how many more there are."""
    return [*problems[:TOLD], *([f"{before} {len(problems) - TOLD} {after}"] if len(problems) > TOLD else [])]


def must_stay_inside(file: Path, folder: Path) -> None:
    """A link that leads out of the folder could show any file of this machine to the model."""
    root = os.path.realpath(folder)
    if file.is_symlink() and os.path.commonpath([root, os.path.realpath(file)]) != root:
        raise DataError(
            f"{file}: a link that leads out of the folder; put the file itself there, or say --follow-links"
        )


def clean(text: str) -> str:
    """On one line, without controls, bytes that are no text, and what reverses the reading order."""
    spaced = "".join(" " if letter.isspace() else letter for letter in text)
    kept = (letter for letter in spaced if unicodedata.category(letter) not in ("Cc", "Cs") and letter not in BIDI)
    return " ".join("".join(kept).split())


BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def read_text(file: Path, limit: int, advice: str) -> str:
    """The text of a small file in UTF-8, or in UTF-16 that says so."""
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{file}: is not a file; put a text file there")
        if found.st_size > limit:
            raise DataError(f"{file}: over {_size(limit)}, {advice}")
        data = file.read_bytes()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError(f"{file}: a link that leads in a circle; put the file itself there") from None
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the file and its permissions") from None
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{file}: not text in UTF-8; save it as UTF-8")
    return text


def _row(line: str) -> tuple[str, str]:
    try:
        row = json.loads(line, object_pairs_hook=_without_doubles)
        name, text = row["file_name"], row["text"]
    except _Doubled as double:
        raise ValueError(f"{double} is given twice; remove one of them") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"not a line of the form {FORM}; mend it") from None
    if not isinstance(name, str) or not isinstance(text, str) or not name:
        raise ValueError("file_name and text must be texts; mend that line")
    return name, text


class _Doubled(Exception):  # noqa: N818 (a line's own, made into one of words)
    """A name that stands twice in one object."""


def _without_doubles(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """What json would make of it, where the last of two would silently win."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Doubled(next(name for name in names if names.count(name) > 1))
    return row


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return False


def _size(limit: int) -> str:
    return f"{limit // 2**20} MB" if limit >= 2**20 else f"{limit // 1024} kB"
