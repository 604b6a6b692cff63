"""Captions as text: out of a file beside the image, one a line, or out of a metadata.jsonl or metadata.csv."""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sdtune.errors import DataError

SUFFIXES = (".txt", ".caption")
BYTES = 8192
METADATA = "metadata.jsonl"
METADATA_CSV = "metadata.csv"
METADATA_BYTES = 64 * 2**20
TEXT_COLUMNS = ("text", "caption", "prompt")
TOLD = 10  # problems told one by one
FORMS = {
    ".jsonl": 'a line of the form {"file_name": "a.png", "text": "a caption"}',
    ".csv": "a row with a file_name and a text, caption or prompt, which the first row names",
}

WEIGHT = "weight"
MOST_WEIGHT = 1000.0


@dataclass
class Rows:
    """What a list says of images, by their file names as written."""

    captions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    """how much the errors of an image count, where that is said"""
    at: dict[str, int] = field(default_factory=dict)
    """number of its line"""
    wrong: list[str] = field(default_factory=list)
    """`file:line: reason; remedy`"""


def lines(text: str) -> tuple[str, ...]:
    """The captions of a file: one a line, as kohya's and OneTrainer's files have them; empty lines do not count."""
    return tuple(caption for line in text.splitlines() if (caption := clean(line)))


def clean(text: str) -> str:
    """On one line, without controls, bytes that are no text, and what reverses the reading order."""
    spaced = "".join(" " if letter.isspace() else letter for letter in text)
    kept = (letter for letter in spaced if unicodedata.category(letter) not in ("Cc", "Cs") and letter not in BIDI)
    return " ".join("".join(kept).split())


BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def decoded(data: bytes, name: object) -> str:
    """The text of a file in UTF-8, or in UTF-16 that says so; raises DataError for anything else."""
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{name}: not text in UTF-8, or with zero bytes in it; save it as UTF-8")
    return text


def rows(text: str, name: str) -> Rows:
    """Hugging Face's imagefolder form, as JSON lines or CSV by the file's name; a `weight` may stand there, too."""
    found = Rows()
    csv_form = name.endswith(".csv")
    for number, row in _csv_rows(text) if csv_form else _json_rows(text):
        try:
            file_name, captions, weight = _row(row, FORMS[".csv" if csv_form else ".jsonl"])
            if file_name in found.captions:
                raise ValueError(f"{file_name} has a line already; remove one of them")
            if any(len(caption.encode("utf-8", "surrogatepass")) > BYTES for caption in captions):
                raise ValueError(f"the caption of {file_name} is over 8 kB; shorten it")
        except ValueError as error:
            found.wrong.append(f"{name}:{number}: {error}")
            continue
        found.captions[file_name] = tuple(caption for text in captions if (caption := clean(text)))
        found.at[file_name] = number
        if weight is not None:
            found.weights[file_name] = weight
    return found


def first_of(problems: Sequence[str], before: str, after: str) -> list[str]:
    """The first few of many problems, and how many more there are."""
    return [*problems[:TOLD], *([f"{before} {len(problems) - TOLD} {after}"] if len(problems) > TOLD else [])]


def _json_rows(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def _csv_rows(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="")
    try:
        for row in reader:
            yield reader.line_num, {name: text for name, text in row.items() if text is not None}
    except csv.Error as error:
        yield reader.reader.line_num, ValueError(f"not CSV ({error}); mend that line")


def _row(row: Any, form: str) -> tuple[str, tuple[str, ...], float | None]:
    if isinstance(row, ValueError):
        raise row
    try:
        if isinstance(row, str):
            row = json.loads(row, object_pairs_hook=_without_doubles)
        name = row["file_name"]
        texts = next(row[column] for column in TEXT_COLUMNS if column in row)
    except _Doubled as double:
        raise ValueError(f"{double} is given twice; remove one of them") from None
    except (ValueError, KeyError, TypeError, RecursionError, StopIteration):
        raise ValueError(f"not {form}; mend it") from None
    captions = texts if isinstance(texts, list) else [texts]
    if not isinstance(name, str) or not all(isinstance(text, str) for text in captions) or not name:
        raise ValueError("file_name and text must be texts; mend that line")
    return name, tuple(captions), _weight(row.get(WEIGHT))


def _weight(told: Any) -> float | None:
    """The number that a row has as its weight; None for a row without, or with an empty column."""
    if told in (None, ""):
        return None
    try:
        weight = float(told) if isinstance(told, str | int | float) and not isinstance(told, bool) else math.nan
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= MOST_WEIGHT:
        raise ValueError(f"weight must be a number from 0 to {MOST_WEIGHT:g}; mend that line")
    return weight


class _Doubled(Exception):  # noqa: N818 (a line's own, made into one of words)
    """A name that stands twice in one object."""


def _without_doubles(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """What json would make of it, where the last of two would silently win."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Doubled(next(name for name in names if names.count(name) > 1))
    return row
