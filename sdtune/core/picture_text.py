"""The text that A1111 writes into its pictures and that others read: prompt, negative, settings.

Its names of settings are those of A1111's "PNG Info"; it has none for guidance rescale, which stands as "CFG rescale".
A LoRA stands as A1111 reads it: <lora:cats:0.8> or, where the text encoders have another strength, theirs in front of
the denoiser's: <lora:cats:0.5:0.8>. A1111 has no form for strengths of other blocks, which the recipe alone has.
Nothing in it can be taken for what it is not: what would begin another part inside a prompt gets a space before its
colon, and control characters are left out. The recipe has all to the letter.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from sdtune import __version__
from sdtune.core.blocks import Strength
from sdtune.core.families import family_named

if TYPE_CHECKING:
    from sdtune.core.sampling.recipe import LoraUse, Recipe

_PARTS = re.compile(r"(Negative prompt|^[ \t]*Steps)[ \t]*:", re.IGNORECASE | re.MULTILINE)
_DIRECTIONS = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""characters that turn what follows around"""
_AUTO_V2 = 10
"""digits of a file's SHA-256 that sites know it by"""


class _Flow:
    """A base model's scheduler, as far as names of samplers depend on it: that of a flow."""


class _Levels:
    """The same: that of a discrete process."""

    alphas_cumprod = ()


def parameters(recipe: Recipe) -> str:
    """The text for a picture."""
    tags = [_tag(use, recipe.model.family) for use in recipe.loras]
    lines = [" ".join([plain(recipe.prompt), *tags]).strip()]
    if recipe.negative.strip():
        lines.append(f"Negative prompt: {plain(recipe.negative)}")
    return "\n".join([*lines, ", ".join(f"{name}: {quoted(value)}" for name, value in _settings(recipe).items())])


def plain(text: str) -> str:
    """A prompt as it can stand there."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    kept = "".join(one for one in lines if one == "\n" or not _is_control(one))
    return _PARTS.sub(r"\1 :", kept).strip()


def quoted(value: object) -> str:
    """A value as A1111 writes it: in quotes where it has commas, colons or line ends."""
    text = "".join(" " if _is_control(one) else one for one in str(value))
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:]", text) else text


def name_of(use: LoraUse) -> str:
    """What prompts call a LoRA."""
    return re.sub(r'[<>:,"\\]', "_", plain(PurePosixPath(use.file).stem).replace("\n", " "))


def _settings(recipe: Recipe) -> dict[str, object]:
    base: object = _Flow() if "flow" in family_named(recipe.model.family).predictions else _Levels()
    schedule = recipe.sampler.schedule_for(base)
    told: dict[str, object] = {"Steps": recipe.steps, "Sampler": recipe.sampler.title_for(base)}
    told |= {"Schedule type": schedule} if schedule else {}
    told |= {"CFG scale": f"{recipe.guidance:g}", "Seed": recipe.seed, "Size": f"{recipe.width}x{recipe.height}"}
    if recipe.strength is not None:
        told["Denoising strength"] = f"{recipe.strength:g}"
    if recipe.clip_skip is not None:
        told["Clip skip"] = recipe.clip_skip
    if recipe.mask:
        told["Mask blur"] = recipe.feather
    if recipe.hires.scale > 1:
        told["Denoising strength"] = f"{recipe.hires.strength:g}"
        told["Hires upscale"] = f"{recipe.hires.scale:g}"
        told["Hires steps"] = recipe.hires.steps or recipe.steps
        told["Hires upscaler"] = "Lanczos"
    told |= {name: f"{value:g}" for name, value in recipe.sampler.details_for(base).items()}
    if recipe.guidance_rescale:
        told["CFG rescale"] = f"{recipe.guidance_rescale:g}"
    if recipe.loras:
        hashes = {name_of(use): use.sha256[:_AUTO_V2] for use in recipe.loras}
        told["Lora hashes"] = ", ".join(f"{name}: {digits}" for name, digits in hashes.items())
    if recipe.model.single:
        told["Model hash"] = recipe.model.weights[:_AUTO_V2]
    return told | {"Model": recipe.model.name, "Version": f"sdtune {__version__}"}


def _tag(use: LoraUse, family: str) -> str:
    usual = Strength(use.strength, use.blocks)
    encoders = {usual(f"{part}.text_model") for part in family_named(family).text_encoders}
    of_text = encoders.pop() if len(encoders) == 1 else use.strength
    pair = [of_text, use.strength] if of_text != use.strength else [use.strength]
    return f"<lora:{name_of(use)}:{':'.join(f'{value:g}' for value in pair)}>"


def _is_control(one: str) -> bool:
    return unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") or one in _DIRECTIONS
