"""The text that A1111 writes into its pictures and that others read: prompt, negative, settings.

Its names of settings are those of A1111's "PNG Info"; it has none for guidance rescale, which stands as "CFG rescale".
Nothing in it can be taken for what it is not: what would begin another part inside a prompt gets a space before its
colon, and control characters are left out. The recipe has all to the letter.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import PurePosixPath

from sdtune import __version__
from sdtune.core.families import family_named
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
    lines = [" ".join([plain(recipe.prompt), *map(_tag, recipe.loras)]).strip()]
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
    return told | {"Model": recipe.model.name, "Version": f"sdtune {__version__}"}


def _tag(use: LoraUse) -> str:
    blocks = "".join(
        f"{',' if number else ':'}{name}={value:g}" for number, (name, value) in enumerate(use.blocks.items())
    )
    return f"<lora:{name_of(use)}:{use.strength:g}{plain(blocks)}>"


def _is_control(one: str) -> bool:
    return unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") or one in _DIRECTIONS
