"""Caption files: where the captions of each image stand, and how they are put there, each file whole or not at all."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

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
from sdtune.core.data.layout import Item, Layout
from sdtune.core.run_folder import write_atomically
from sdtune.errors import DataError, OutputError


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

    @property
    def captions(self) -> tuple[str, ...]:
        """On one line each, cleaned, none of them empty."""
        return self.item.captions


def places(folder: Path, layout: Layout, to: Literal["sidecar", "metadata"]) -> list[Place]:
    """Every image of a data set; one that has no caption yet gets its place by `to`, where it has no line already."""
    lines, in_csv = _listed(folder, layout.items)
    owners: dict[Path, Path] = {}
    found = []
    for item in layout.items:
        path = folder / item.entry.name
        sidecar = _sidecar(path)
        line = lines.get(path)
        trouble = "; ".join(one.removeprefix(f"{path}: ") for one in item.troubles) or None
        if line and (line.has_caption or not item.captions):
            found.append(Place(path, item, line.file, line.name, item.captions, trouble))
        elif to == "metadata" and not item.captions and not sidecar.exists():
            found.append(Place(path, item, path.parent / METADATA, path.name, (), trouble))
        else:
            owner = owners.setdefault(sidecar, path)
            if path in in_csv and item.captions:
                trouble = f"its caption stands in {METADATA_CSV}, which is not rewritten; make it a {METADATA}"
            elif owner != path:
                trouble = f"shares {sidecar.name} with {owner.name}, whose caption that is; rename one of them"
            found.append(Place(path, item, sidecar, None, _raw(sidecar, item), trouble))
    return found


def write(captions: Iterable[tuple[Place, Sequence[str]]]) -> None:
    """The captions in place of what stood there; all of one metadata.jsonl at once."""
    by_metadata: dict[Path, dict[str, Sequence[str]]] = defaultdict(dict)
    for image, several in captions:
        if image.row is None:
            _put(image.file, "\n".join(_within(several)) + "\n")
        else:
            by_metadata[image.file][image.row] = several
    for file, changes in by_metadata.items():
        _put(file, _changed(_text(file), changes))


@dataclass(frozen=True)
class _Line:
    """One line of a metadata.jsonl."""

    file: Path
    name: str
    """of the image, as the line has it"""
    has_caption: bool


def _listed(folder: Path, items: Sequence[Item]) -> tuple[dict[Path, _Line], set[Path]]:
    """The line of each image that has one in a metadata.jsonl, and the images in a metadata.csv."""
    above = {folder / parent for item in items for parent in PurePosixPath(item.entry.name).parents}
    found: dict[Path, _Line] = {}
    in_csv: set[Path] = set()
    for place in sorted(above):
        for name in (METADATA_CSV, METADATA):
            file = place / name
            try:
                if not file.is_file() or file.stat().st_size > METADATA_BYTES:
                    continue
                text = _text(file)
            except (OSError, DataError):  # layout tells of it
                continue
            if name == METADATA_CSV:
                in_csv |= {place / row for row in rows(text, str(file))[0]}
            for _, row in _rows(text) if name == METADATA else ():
                image = place / row["file_name"]
                found.setdefault(image, _Line(file, row["file_name"], bool(row.get(_column(row)))))
    return found, in_csv


def _rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 0, row) of every line of a metadata.jsonl that names an image, with or without a caption."""
    for number, line in enumerate(text.split("\n")):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("file_name"), str) and "\0" not in row["file_name"]:
            yield number, row


def _column(row: Mapping[str, Any]) -> str:
    return next((column for column in TEXT_COLUMNS if column in row), TEXT_COLUMNS[0])


def _sidecar(path: Path) -> Path:
    """The one that is there, else the one that would be read first."""
    return next((file for suffix in SUFFIXES if (file := path.with_suffix(suffix)).exists()), path.with_suffix(".txt"))


def _raw(sidecar: Path, item: Item) -> tuple[str, ...]:
    """The lines of a sidecar as they are, one empty caption where it is empty."""
    if item.troubles or not sidecar.is_file() or sidecar.stat().st_size > BYTES:
        return item.captions
    lines = decoded(sidecar.read_bytes(), sidecar).splitlines()
    return tuple(line for line in lines if line.strip()) or ("",)


def _text(file: Path) -> str:
    return decoded(file.read_bytes(), file) if file.exists() else ""


def _changed(text: str, changes: Mapping[str, Sequence[str]]) -> str:
    """A metadata.jsonl with other captions on some lines and new lines at its end; all else stays as it is."""
    lines = text.split("\n")
    left = {name: several[0] if len(several) == 1 else list(several) for name, several in changes.items()}
    for number, row in _rows(text):
        if row["file_name"] in left:
            row[_column(row)] = left.pop(row["file_name"])
            lines[number] = json.dumps(row, ensure_ascii=False) + ("\r" if lines[number].endswith("\r") else "")
    if left:
        while lines and not lines[-1].strip():
            lines.pop()
        lines += [json.dumps({"file_name": name, "text": told}, ensure_ascii=False) for name, told in left.items()]
        lines.append("")
    return "\n".join(lines)


def _within(several: Sequence[str]) -> list[str]:
    """As many captions as a sidecar may hold."""
    kept: list[str] = []
    for caption in several:
        if sum(len(one.encode()) + 1 for one in [*kept, caption]) > BYTES:
            break
        kept.append(caption)
    return kept


def _put(file: Path, text: str) -> None:
    try:
        write_atomically(file, lambda place: place.write_bytes(text.encode()))
    except OSError as error:
        remedy = "put that right and run it again: what is written stays"
        raise OutputError(f"{file}: cannot be written ({error.strerror}); {remedy}") from None
