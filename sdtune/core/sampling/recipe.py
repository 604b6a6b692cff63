"""Recipe: all that a picture is made of, as its file tells it; the same recipe makes the same picture."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from sdtune.choices.samplers import AnySampler
from sdtune.choices.spec import Spec
from sdtune.core.applied import STRONGEST
from sdtune.core.sampling.fingerprint import of_file
from sdtune.errors import DataError
from sdtune.sample_config import Hires

FORMAT = 1
MOST_BYTES = 2**20
"""of a recipe in a file"""
MOST_FILES = 1000
MOST_LORAS = 32
"""of a picture"""
HOMES = ("home", "users")
"""folders whose folders are named after people"""
BlockName = Annotated[str, Field(max_length=512)]


class FileUse(Spec):
    """A file that went into a picture."""

    file: str = Field(max_length=4096)
    """as it was found from the working folder, without what lies above that"""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class WordUse(FileUse):
    """A new word that was learned beside a LoRA."""

    word: str = Field(max_length=4096)


class LoraUse(FileUse):
    """A LoRA, and how strongly it acted."""

    strength: float = 1.0
    blocks: dict[BlockName, float] = Field({}, max_length=MOST_FILES)


class ModelUse(Spec):
    """A base model."""

    name: str = Field(max_length=4096)
    family: str = Field(max_length=32)
    weights: str = Field(max_length=64)
    """fingerprint of its files"""
    single: bool = False
    """whether it is one file, whose SHA-256 that is"""


class Made(Spec):
    """On what it was drawn; other versions and devices may give other bytes."""

    sdtune: str = Field(max_length=64)
    torch: str = Field(max_length=64)
    diffusers: str = Field(max_length=64)
    device: str = Field(max_length=128)
    precision: str = Field(max_length=16)
    threads: int | None = None
    attention: str = Field("sdpa", max_length=16)


class Recipe(Spec):
    """What one picture is drawn from."""

    format: Literal[1] = 1
    prompt: str = Field(max_length=200_000)
    """with all choices made, without <lora:...>: what they named is among `loras`"""
    negative: str = Field("", max_length=200_000)
    syntax: Literal["a1111", "plain"] = "a1111"
    seed: int = Field(ge=0, lt=2**63)
    width: int = Field(ge=8, le=8192)
    height: int = Field(ge=8, le=8192)
    steps: int = Field(ge=1, le=1000)
    guidance: float = Field(ge=0, le=1000)
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    sampler: AnySampler
    clip_skip: int | None = Field(None, ge=1, le=12)
    model: ModelUse
    loras: tuple[LoraUse, ...] = Field((), max_length=MOST_LORAS)
    words: tuple[WordUse, ...] = Field((), max_length=MOST_FILES)
    init: FileUse | None = None
    strength: float | None = Field(None, ge=0, le=1)
    mask: FileUse | None = None
    feather: int = Field(0, ge=0, le=8192)
    structure: float = Field(0.0, ge=0, le=1)
    hires: Hires = Hires()
    tiles: Literal["auto", "on", "off"] = "off"
    """auto: where a pass is large enough for them"""
    made: Made


def key_of(recipe: Recipe) -> str:
    """64 hex digits that two recipes share where they are for the same picture, wherever that is drawn.

    Files count by what is in them, not by their names; of what it is drawn on, the precision.
    """
    told = recipe.model_dump(mode="json", exclude={"made"}) | {"precision": recipe.made.precision}
    return hashlib.sha256(_canonical(_without_names(told))).hexdigest()


def written(recipe: Recipe) -> str:
    """As it stands in a file: JSON in ASCII, the same for the same recipe."""
    return json.dumps(recipe.model_dump(mode="json"), separators=(",", ":"), allow_nan=False)


def read(text: str, where: Path) -> Recipe:
    """The recipe in a file that anybody may have made; DataError says in one line what is wrong with it."""
    if len(text) > MOST_BYTES:
        raise DataError(
            f"{where}: its recipe is over {MOST_BYTES >> 20} MB, which none of ours is; draw it by a prompt"
        )
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: its recipe is damaged (no JSON); get the picture again") from None
    if not isinstance(told, dict):
        raise DataError(f"{where}: its recipe is damaged (no table); get the picture again")
    form = told.get("format")
    if isinstance(form, int) and form > FORMAT:
        raise DataError(
            f"{where}: its recipe is of a newer sdtune (format {str(form)[:9]}, this one reads {FORMAT}); update sdtune"
        )
    try:
        recipe = Recipe.model_validate(told)
    except (ValidationError, RecursionError, OverflowError, ValueError) as problem:
        raise DataError(f"{where}: its recipe cannot be used: {_first(problem)}; update sdtune") from None
    for one in recipe.loras:
        if any(abs(value) > STRONGEST for value in (one.strength, *one.blocks.values())):
            raise DataError(f"{where}: its recipe cannot be used: a LoRA's strength is over {STRONGEST}")
    return recipe


def file_use(path: Path) -> FileUse:
    """A file as recipes name it: from the working folder where it lies below that, else by its bare name."""
    return FileUse(file=_shown(path), sha256=of_file(path))


def _shown(path: Path) -> str:
    """Without the names of people, as the folders above may have them."""
    here, place = Path(os.getcwd()), Path(os.path.abspath(path))
    is_of_people = here == Path(here.anchor) or here.name.lower() in HOMES
    told = place.relative_to(here) if place.is_relative_to(here) and not is_of_people else Path(place.name)
    return os.fsencode(told.as_posix()).decode("utf-8", "replace")


def _without_names(told: Any) -> Any:
    """The same without the names of files and models, and with one zero."""
    if isinstance(told, dict):
        unnamed = ("file", "name") if "sha256" in told or "weights" in told else ()
        return {name: _without_names(value) for name, value in told.items() if name not in unnamed}
    if isinstance(told, list):
        return [_without_names(value) for value in told]
    return told + 0.0 if isinstance(told, float) else told  # -0.0 + 0.0 is 0.0


def _canonical(told: Any) -> bytes:
    return json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _first(problem: Exception) -> str:
    """The first thing that is wrong, in one line of what can be printed."""
    if not isinstance(problem, ValidationError):
        return "it goes too deep"
    first = problem.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    told = f"{place}: {first['msg']}"[:200]
    return told if told.isprintable() else ascii(told)
