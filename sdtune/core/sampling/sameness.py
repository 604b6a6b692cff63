"""Sameness: whether a picture that is drawn again has the same bytes, or what differs and why it may."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy
from PIL import Image, ImageChops

from sdtune.core.reports import Note, Telling, Warned
from sdtune.core.sampling.recipe import FileUse, Recipe, WordUse, key_of
from sdtune.errors import SdtuneError

_MADE = ("sdtune", "torch", "diffusers", "device", "precision", "threads", "attention")


@dataclass(frozen=True)
class Verdict:
    """How a picture that was drawn again compares with the first."""

    same: Literal["bytes", "pixels", "neither"]
    told: str
    """one line"""


def compared(picture: Path, drawn: Path, recipe: Recipe, now: Recipe) -> Telling[None]:
    """Tells the verdict; SdtuneError where the pixels are others, so that a script hears of it."""
    found = verdict(picture, drawn, recipe, now)
    if found.same == "neither":
        raise SdtuneError(found.told)
    yield Note(found.told) if found.same == "bytes" else Warned(found.told)


def verdict(picture: Path, drawn: Path, recipe: Recipe, now: Recipe) -> Verdict:
    """Whether two files have the same bytes, or the same pixels, or by how much they differ and why they may."""
    reasons = differences(recipe, now)
    why = f": {'; '.join(reasons)}" if reasons else ""
    try:
        if picture.read_bytes() == drawn.read_bytes():
            return Verdict("bytes", f"{drawn}: the same bytes as {picture}")
        first, second = _pixels(picture), _pixels(drawn)
    except OSError as problem:
        return Verdict("neither", f"{drawn}: cannot be compared with {picture} ({problem.strerror or 'damaged'})")
    if first is None or second is None:
        return Verdict("neither", f"{drawn}: cannot be compared with {picture}, whose pixels are damaged{why}")
    if first.size != second.size:
        sizes = [f"{one.width} x {one.height}" for one in (second, first)]
        return Verdict(
            "neither",
            f"{drawn}: {sizes[0]} pixels, but {picture} has {sizes[1]}, so it was scaled or cut since it was drawn",
        )
    apart = numpy.asarray(ImageChops.difference(first, second)).max(axis=2)
    if not apart.any():
        return Verdict("pixels", f"{drawn}: the same pixels as {picture}, other metadata{why}")
    return Verdict(
        "neither",
        f"{drawn}: differs from {picture} in {_percent(float((apart > 0).mean()))} of the pixels, by {apart.max()} of "
        f"255 at most{why or ': it was changed since it was drawn, or this machine or sdtune itself is another'}",
    )


def differences(recipe: Recipe, now: Recipe) -> list[str]:
    """In a few words each: what is otherwise now than when the picture was drawn."""
    told = []
    if recipe.model.weights != now.model.weights:
        told.append(f"the model has other weights than {_printable(recipe.model.name)} had")
    for what, before, after in (
        ("the LoRAs are", recipe.loras, now.loras),
        ("the new words are", recipe.words, now.words),
        ("--init is", (recipe.init,), (now.init,)),
        ("--mask is", (recipe.mask,), (now.mask,)),
    ):
        if [_content(use) for use in before] != [_content(use) for use in after]:
            told.append(f"{what} not the same")
    same_files = not told
    if same_files and key_of(recipe) != key_of(now.model_copy(update={"made": recipe.made})):
        told.append("its settings are not the same")
    for name in _MADE:
        before, after = getattr(recipe.made, name), getattr(now.made, name)
        if before != after:
            told.append(f"{name} {_printable(before)} then, {_printable(after)} now")
    return told


def _content(use: FileUse | None) -> tuple[str, ...]:
    """What tells a file from another, and what it is taken for."""
    return (use.sha256, use.word if isinstance(use, WordUse) else "") if use else ()


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "under 0.1 %"


def _printable(value: object) -> str:
    text = str(value)[:60]
    return text if text.isprintable() else ascii(text)


def _pixels(path: Path) -> Image.Image | None:
    """RGB; None where they cannot be read."""
    try:
        with Image.open(path, formats=["PNG", "JPEG", "WEBP"]) as image:
            return image.convert("RGB")
    except (SyntaxError, ValueError, OSError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
