"""Again: a picture drawn once more by what its file tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdtune.choices.spec import words_of
from sdtune.core import hub, lora_file, model
from sdtune.core.applied import Applied
from sdtune.core.blocks import Strength
from sdtune.core.picture_notes import SUFFIXES, Notes, notes_in
from sdtune.core.sampling import recipe as recipes
from sdtune.core.sampling.fingerprint import of_file
from sdtune.core.sampling.recipe import FileUse, LoraUse, Recipe
from sdtune.core.sampling.search import find, plain_parts
from sdtune.errors import ConfigError, DataError, LoraError, ModelError, why
from sdtune.sample_config import Sample

BESIDE = frozenset(
    {
        *("again", "model", "lora", "lora_folder", "init", "mask"),
        *("out", "name", "format", "overwrite", "memory", "batch_size"),
    }
)
"""settings that may be given beside --again; a picture tells all others"""
DIGITS = 12
"""of a hash, in messages"""


def recipe_in(path: Path) -> Recipe:
    """What a picture of ours was made of; DataError where it is none, or tells nothing."""
    try:
        notes = notes_in(path)
    except (OSError, ValueError) as problem:
        raise DataError(f"{path}: cannot be read ({why(problem)}); give a picture that sdtune has drawn") from None
    if notes is None:
        raise DataError(f"{path}: is no PNG, JPEG or WebP; give a picture that sdtune has drawn")
    if notes.recipe is None:
        raise DataError(f"{path}: holds no recipe of sdtune: {_whose(notes)}; give the file as sdtune wrote it")
    return recipes.read(notes.recipe, path)


def loras_of(
    recipe: Recipe, picture: Path, given: Sequence[Applied], folder: Path | None = None
) -> tuple[Applied, ...]:
    """The LoRAs of the recipe by their SHA-256: among those given, where they lay, beside the picture, under runs/.

    `folder` is looked into, too. LoraError names one that is not found, and one that is given and not of the picture.
    """
    by_hash = {of_file(one.path): one for one in given}
    for digits, one in by_hash.items():
        if digits not in {use.sha256 for use in recipe.loras}:
            raise LoraError(f"{one.path}: is none of the LoRAs that {picture} was drawn with; leave it out")
    read: dict[str, Applied] = {}
    for use in recipe.loras:
        if use.sha256 not in read:
            read[use.sha256] = by_hash.get(use.sha256) or _found(use, picture, folder)
    as_then = [(read[use.sha256], Strength(use.strength, dict(use.blocks))) for use in recipe.loras]
    return tuple(replace(one, strength=strength) for one, strength in as_then)


def config_of(recipe: Recipe, picture: Path, config: Sample) -> Sample:
    """The settings that draw it once more, over those that may be given beside --again (--model, --init, --out ...)."""
    for name in sorted(config.model_fields_set - BESIDE):
        flags = words_of(type(config).model_fields[name]).flags
        flag = flags[0] if flags else "--" + name.replace("_", "-")
        raise ConfigError(f"{flag}: stands in the picture that --again names; leave out one of them")
    for flag, given, use in (("--init", config.init, recipe.init), ("--mask", config.mask, recipe.mask)):
        if given and not use:
            raise ConfigError(f"{flag} {given}: {picture} was drawn without one; leave it out")
    if config.out.exists() and config.out.is_file() and config.out.samefile(picture):
        raise ConfigError(f"--out {config.out}: is the picture itself; give another name for the second one")
    told: dict[str, Any] = {name: getattr(recipe, name) for name in _SHARED}
    told |= {
        "prompt": (recipe.prompt,),
        "model": config.model or _model(recipe, picture),
        "init": config.init or _image(recipe.init, picture, "--init"),
        "mask": config.mask or _image(recipe.mask, picture, "--mask"),
        "feather": recipe.feather if recipe.mask else None,
        "add_trigger": False,
    }
    if "format" not in config.model_fields_set and config.out.suffix.lower() not in SUFFIXES:
        notes = notes_in(picture)
        told["format"] = notes.kind if notes else "png"
    return config.model_copy(update=told)


_SHARED = (
    "negative",
    "syntax",
    "seed",
    "width",
    "height",
    "steps",
    "guidance",
    "guidance_rescale",
    "sampler",
    "clip_skip",
    "strength",
    "structure",
    "hires",
    "tiles",
)
"""what a recipe and the settings have by the same name"""


def as_recorded(recipe: Recipe, now: Recipe) -> Recipe:
    """What is drawn now, its files and model called as they were then where they are the same."""
    return now.model_copy(
        update={
            "model": recipe.model if now.model.weights == recipe.model.weights else now.model,
            "loras": _as_called(recipe.loras, now.loras),
            "words": _as_called(recipe.words, now.words),
            "init": next(iter(_as_called(_some(recipe.init), _some(now.init))), None),
            "mask": next(iter(_as_called(_some(recipe.mask), _some(now.mask))), None),
        }
    )


def _as_called(then: Sequence[FileUse], now: Sequence[FileUse]) -> tuple[FileUse, ...]:
    if [use.sha256 for use in then] != [use.sha256 for use in now]:
        return tuple(now)
    return tuple(use.model_copy(update={"file": was.file}) for was, use in zip(then, now, strict=True))


def _some(use: FileUse | None) -> tuple[FileUse, ...]:
    return (use,) if use else ()


def _found(use: LoraUse, picture: Path, folder: Path | None) -> Applied:
    """A LoRA that is not given."""
    path = find(use, picture, folder)
    if path is None:
        raise LoraError(f"{picture}: was drawn with {_called(use)}, which is not found; give it with --lora FILE")
    return Applied(path, lora_file.read(path), Strength())


def _image(use: FileUse | None, picture: Path, flag: str) -> Path | None:
    if use is None:
        return None
    path = find(use, picture, None)
    if path is None:
        raise DataError(f"{picture}: was drawn on {_called(use)}, which is not found; give it with {flag} FILE")
    return path


def _model(recipe: Recipe, picture: Path) -> str:
    """What --model has to be: a name that the program knows, or of what lies here; nothing is fetched by others'."""
    name = recipe.model.name
    if name in model.SHORT_NAMES:
        return name
    if hub.could_name(name) and hub.cached(name):
        return name
    parts = plain_parts(name)
    for place in (Path(), Path("models"), picture.parent, picture.parent.parent / "models"):
        for ending in ("", ".safetensors") if parts else ():
            found = place.joinpath(*parts[:-1], parts[-1] + ending)
            if (found / "model_index.json").is_file() or (found.suffix == ".safetensors" and found.is_file()):
                return str(found)
    raise ModelError(f"{picture}: was drawn with the model {_printable(name)}, which is not here; give it with --model")


def _called(use: FileUse) -> str:
    return f"{_printable(use.file)} (SHA-256 {use.sha256[:DIGITS]}...)"


def _printable(text: str) -> str:
    told = text if text.isprintable() else ascii(text)
    return told if len(told) <= 100 else f"...{told[-100:]}"


def _whose(notes: Notes) -> str:
    """By what it was drawn, as far as that can be told."""
    if notes.parameters is None:
        return "another program wrote it, or what it told was removed on the way"
    _, told, version = notes.parameters.rpartition("Version: ")
    name = version.split(",")[0].strip()[:40] if told else ""
    if name.startswith("sdtune"):
        return f"{name} wrote none into it"
    return f"it was drawn by another program ({_printable(name)})" if name else "it was drawn by another program"
