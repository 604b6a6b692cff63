"""The list of a run's data: what each image holds and what is said of it, to tell later whether that is still so."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sdtune.config import Tables, TrainLora
from sdtune.core.data.folder import Example
from sdtune.errors import ConfigError

NAMED = 5  # files in one line


@dataclass(frozen=True)
class Listed:
    """One image of a run."""

    file: str
    """below its data set's folder"""
    sha256: str
    captions: tuple[str, ...]
    repeats: int
    weight: float
    prior: bool
    held_out: bool
    mask: str | None = None
    """SHA-256 of the mask file"""

    @staticmethod
    def of(data: Tables) -> list[Listed]:
        """The images of a data.json."""
        return _IMAGES.validate_python(data["images"])


_IMAGES = TypeAdapter(list[Listed])


def data_list(config: TrainLora, name: str, trained: Sequence[Example], held_out: Sequence[Example]) -> Tables:
    """What data.json says, in the order of the training; `name` is the run's."""
    folders = [folder.path for folder in config.data.all_folders]
    both = [*((example, False) for example in trained), *((example, True) for example in held_out)]
    return {"name": name, "images": [asdict(_listed(example, out, folders)) for example, out in both]}


def as_json(data: Tables) -> str:
    """An image a line, to be read by people, too."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in data["images"])
    return f'{{"name": {json.dumps(data["name"])}, "images": [\n{rows}\n]}}\n'


def listed_in(path: Path) -> list[Listed]:
    """The images of a run's data.json; raises ConfigError where that is broken."""
    try:
        if not path.is_file():
            raise FileNotFoundError(path)
        return Listed.of(json.loads(path.read_bytes()))
    except (OSError, ValueError, ValidationError, KeyError, TypeError, RecursionError):
        raise ConfigError(
            f"{path}: cannot be read, so that nobody knows what the run was trained on; begin a new run"
        ) from None


def data_changes(before: Sequence[Listed], now: Sequence[Listed]) -> list[str]:
    """What is other than it was, a line each; none exactly where steps see the same, whatever files are called."""
    if [_content(one) for one in before] == [_content(one) for one in now]:
        return []
    same = Counter(map(_content, before)) == Counter(map(_content, now))
    if same and {one.file for one in before} != {one.file for one in now}:
        return ["data: the images have other names, by which they come in another order"]
    old, new = _by_name(before), _by_name(now)
    both = [(old[file], new[file]) for file in old if file in new]
    lines = [
        _counted("added", [file for file in new if file not in old]),
        _counted("removed", [file for file in old if file not in new]),
    ]
    lines += [_changed(words, both, look) for words, look in _LOOKS]
    return [line for line in lines if line] or ["data: the order of the images has changed"]


_LOOKS: tuple[tuple[str, Callable[[Listed], object]], ...] = (
    ("pixels", lambda one: one.sha256),
    ("captions", lambda one: one.captions),
    ("repeats", lambda one: one.repeats),
    ("the weight", lambda one: one.weight),
    ("the mask", lambda one: one.mask),
    ("the use for regularisation", lambda one: one.prior),
    ("the use for validation", lambda one: one.held_out),
)


def _listed(example: Example, held_out: bool, folders: Sequence[Path]) -> Listed:
    return Listed(
        _below(example.path, folders),
        example.sha256,
        example.captions,
        example.repeats,
        example.weight,
        example.prior,
        held_out,
        hashlib.sha256(example.mask.read_bytes()).hexdigest() if example.mask else None,
    )


def _below(path: Path, folders: Sequence[Path]) -> str:
    """The path below the folder that holds it, with / on every system; what lies elsewhere has its name alone."""
    for folder in folders:
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return os.path.basename(path)


def _content(one: Listed) -> tuple[Any, ...]:
    return one.sha256, one.captions, one.repeats, one.weight, one.prior, one.held_out, one.mask


def _by_name(images: Iterable[Listed]) -> dict[str, Listed]:
    """{file: image}; of several of one name, in other folders, the second is name (2)."""
    seen = Counter[str]()
    found = {}
    for one in images:
        seen[one.file] += 1
        found[f"{one.file} ({seen[one.file]})" if seen[one.file] > 1 else one.file] = one
    return found


def _counted(what: str, files: Sequence[str]) -> str:
    return f"data: {_images(len(files))} {what}: {_named(files)}" if files else ""


def _changed(what: str, both: Sequence[tuple[Listed, Listed]], look: Callable[[Listed], object]) -> str:
    files = [new.file for old, new in both if look(old) != look(new)]
    return f"data: {what} of {_images(len(files))} changed: {_named(files)}" if files else ""


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _named(files: Sequence[str]) -> str:
    return ", ".join(files[:NAMED]) + (" ..." if len(files) > NAMED else "")
