"""LoRAs that prompts name: <lora:cats:0.8> is cats.safetensors or the run cats in one of a few folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from sdtune.core import lora_file
from sdtune.core.applied import Applied, at_strengths
from sdtune.core.home import expanded
from sdtune.core.lora import Lora
from sdtune.core.lora_place import lora_in
from sdtune.core.sampling.grammar import LoraTag
from sdtune.core.sampling.tree import DEEPEST, files_below
from sdtune.earlier import RUN_SETTINGS, RUNS
from sdtune.errors import ConfigError, LoraError, cut, nearest

FOLDER = Path("loras")
"""where many keep theirs"""
ENDING = ".safetensors"
MAX_FILES = 100_000
"""that are looked through"""
NAMED = 4
"""of several LoRAs that a name may mean, in a message"""


class NamedLoras:
    """Where names lead, each file read once."""

    def __init__(self, folder: Path | None, known: Sequence[Applied]) -> None:
        self.known = {_real(one.path): _names(one) for one in known}
        self.places = (expanded(folder),) if folder else (Path(), FOLDER, RUNS)
        if folder and not os.path.isdir(self.places[0]):
            raise ConfigError(f"--lora-folder {folder}: no such folder; give one that holds LoRAs")
        self._loras = {_real(one.path): one.lora for one in known}
        self._own = {_real(one.path): one.path for one in known}
        self._found: dict[str, Path] = {}
        self._index: dict[str, list[Path]] | None = None

    def find(self, tag: LoraTag, where: str) -> Applied:
        """The LoRA that a prompt names; ConfigError tells the nearest name where there is none.

        One of --lora is that one, at the strength of the tag. Names go by their letters, else without regard to case.
        """
        told = f"{where}, column {tag.column}: <{tag.kind}:{cut(tag.name)}>"
        try:
            if tag.name not in self._found:
                self._found[tag.name] = self._path(tag.name, told)
            path = self._found[tag.name]
            return at_strengths(path, lambda: self._read(path), tag.strength, tag.blocks, told)
        except LoraError as error:
            raise ConfigError(*(one if one.startswith(told) else f"{told}: {one}" for one in error.problems)) from None

    def _read(self, path: Path) -> Lora:
        place = _real(path)
        if place not in self._loras:
            self._loras[place] = lora_file.read(path)
        return self._loras[place]

    def _path(self, name: str, told: str) -> Path:
        """Where it lies; of --lora before all others, at the place of its name before those below it."""
        name = name.strip().removesuffix(ENDING)
        if not name.strip("./") or name.startswith(("/", "~")) or ".." in name.replace("\\", "/").split("/"):
            raise ConfigError(f"{told}: is no name of a LoRA in a folder; give the file itself with --lora")
        for found in self._candidates(name):
            different = list({_real(path): path for path in found}.values())
            if len(different) > 1:
                shown = ", ".join(map(str, different[:NAMED])) + (" ..." if len(different) > NAMED else "")
                raise ConfigError(f"{told}: may be any of {shown}; name its folder, too, or give it with --lora")
            if different:
                path = lora_in(different[0]) if different[0].is_dir() else different[0]
                return self._own.get(_real(path), path)
        near = nearest(name, [*(one for names in self.known.values() for one in names), *self._indexed()])
        remedy = (
            f"did you mean <lora:{cut(near)}>?" if near else "check its name, or give its folder with --lora-folder"
        )
        looked = ", ".join("here" if place == Path() else f"{place}/" for place in self.places)
        raise ConfigError(f"{told}: there is no LoRA of this name ({looked}); {remedy}")

    def _candidates(self, name: str) -> Iterator[list[Path]]:
        """What it may mean, the likeliest first."""
        yield [self._own[place] for place, names in self.known.items() if name in names]
        yield [path for place in self.places for path in _at(place / name)]
        yield self._indexed().get(name, [])
        folded = name.casefold()
        yield [self._own[place] for place, names in self.known.items() if folded in map(str.casefold, names)]
        yield [path for one, paths in self._indexed().items() if one.casefold() == folded for path in paths]

    def _indexed(self) -> dict[str, list[Path]]:
        """{name: where it lies} of files and runs, by place in a folder and by name alone.

        The working folder is looked at without what is below it, which may be anything.
        """
        if self._index is None:
            self._index = {}
            for place in self.places:
                for path in _below(place, deep=place != Path()):
                    stem = path.relative_to(place).as_posix().removesuffix(ENDING)
                    for name in dict.fromkeys((stem, stem.rpartition("/")[2])):
                        self._index.setdefault(name, []).append(path)
                    if path.parent != place and (path.parent / RUN_SETTINGS).is_file():
                        self._index.setdefault(path.parent.name, []).append(path.parent)
        return self._index


def together(given: Sequence[Applied], named: Sequence[Applied]) -> tuple[Applied, ...]:
    """LoRAs for every prompt with those that one names, each of these once, as strongly as it was named last."""
    last = {_real(one.path): one for one in named}
    new = dict(last)
    found = [new.pop(_real(one.path), None) if _real(one.path) in last else one for one in given]
    return (*(one for one in found if one), *new.values())


def _names(one: Applied) -> tuple[str, ...]:
    """What a prompt may call it: the file's name, or that of its run's folder."""
    return (one.path.stem, one.shown.removesuffix(ENDING))


def _at(place: Path) -> Iterator[Path]:
    """The file and the folder of LoRAs of a name."""
    file = place.with_name(place.name + ENDING)
    if os.path.isfile(file):
        yield file
    if os.path.isdir(place) and any(place.glob(f"*{ENDING}")):
        yield place


def _below(place: Path, *, deep: bool) -> Iterator[Path]:
    """LoRA files in a folder."""
    for path in islice(files_below(place, DEEPEST if deep else 0, leave_out=("checkpoints",)), MAX_FILES):
        if path.suffix == ENDING:
            yield path


def _real(path: Path) -> str:
    return os.path.realpath(path)
