"""Blocks of a model, by which LoRAs are weighted and told of, and the strength of a LoRA in each.

A block is named by as much of a module's path as it shares, `unet.up_blocks.1`, with or without the pipeline's part;
`text` is every text encoder. U-Nets also have A1111's letters, which count the blocks of the first publication:
BASE     the text encoders
IN00     conv_in; IN01 to IN11 the blocks on the way down: three a level, two of layers and one that makes it smaller
M00      mid_block
OUT00    and so on to OUT11 the blocks on the way up: three a level, of which the last also makes it larger
SDXL's end at IN08 and OUT08.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

from sdtune.core import lora_names

TEXT = "text"
"""every text encoder"""
TOGETHER = 8
"""blocks of a transformer that are told of as one"""
_EIGHT = re.compile(r"(\w*transformer_blocks)\.(\d+)\.")
_LEVEL = re.compile(r"(?:down_blocks|up_blocks)\.\d+\.\w+")
_ROW = re.compile(r"down_blocks|up_blocks|\w*transformer_blocks")
_LETTERS = re.compile(r"(in|out)(0[0-9]|1[01])|m00|base", re.IGNORECASE)


@dataclass(frozen=True)
class Strength:
    """How strongly a LoRA acts on each module."""

    usual: float = 1.0
    blocks: Mapping[str, float] = field(default_factory=dict)
    """{"text_encoder": 0.0, "unet.up_blocks.1": 0.5, "mid_block": 1.2}: the longest that fits a module counts, in place
    of the usual one"""

    def __call__(self, module: str) -> float:
        """Of a module by part and diffusers' path: unet.mid_block.attentions.0.proj_in."""
        depths = {name: depth_in(name, module) for name in self.blocks}
        deepest = max(depths, key=depths.__getitem__, default=None)
        return self.blocks[deepest] if deepest is not None and depths[deepest] else self.usual

    def __str__(self) -> str:
        apart = ", ".join(f"{name} at {value:g}" for name, value in self.blocks.items())
        return f"{self.usual:g}" + (f" ({apart})" if apart else "")


def block_of(module: str) -> str:
    """What a module is told under: "down_blocks.1.attentions", "transformer_blocks.0-7", "text_encoder"."""
    part, path = lora_names.split(module)
    if part.startswith("text_encoder"):
        return part
    if eight := _EIGHT.match(path):
        first = int(eight[2]) // TOGETHER * TOGETHER
        return f"{eight[1]}.{first}-{first + TOGETHER - 1}"
    level = _LEVEL.match(path)
    return level[0] if level else path.partition(".")[0]


def depth_in(block: str, module: str) -> int:
    """How precisely the name of a block fits a module: 0 not at all, and the more the longer it is."""
    part, path = lora_names.split(module)
    depth = int(_is_text(block) and part.startswith("text_encoder"))
    for start in _paths(block):
        if f"{module}.".startswith(f"{start}."):
            depth = max(depth, 1 + len(start.split(".")))
        elif f"{path}.".startswith(f"{start}."):
            depth = max(depth, 2 + len(start.split(".")))
    return depth


def is_general(block: str, modules: Iterable[str]) -> bool:
    """Whether a name may be given of any LoRA with such modules, even where none of them is in that block."""
    of_unet = any(module.startswith("unet.") for module in modules)
    return _is_text(block) or block in lora_names.PARTS or (of_unet and bool(_LETTERS.fullmatch(block)))


def names_of(modules: Iterable[str]) -> list[str]:
    """Every name that blocks of these modules have, with and without the part, letters left out."""
    found: dict[str, None] = {}
    for module in modules:
        words = module.split(".")
        for start in (0, 1):
            found.update(dict.fromkeys(".".join(words[start:end]) for end in range(start + 1, len(words) + 1)))
    return list(found)


def known_blocks(modules: Iterable[str]) -> str:
    """The names by which blocks of these modules are best given, in words; those of a row with its first and last."""
    rows: dict[str, list[int]] = {}
    for part, path in map(lora_names.split, modules):
        words = path.split(".")
        name = part if part.startswith("text_encoder") else words[0]
        rows.setdefault(name, []).extend(int(word) for word in words[1:2] if _ROW.fullmatch(name) and word.isdecimal())
    told = []
    for name, numbers in sorted(rows.items()):
        first, last = min(numbers, default=None), max(numbers, default=None)
        told.append(name if first is None else f"{name}.{first}" + (f" to {name}.{last}" if last != first else ""))
    letters = "; or letters: IN00 to IN11, M00, OUT00 to OUT11" if "mid_block" in rows else ""
    return ", ".join(told) + letters


def _is_text(block: str) -> bool:
    return block == TEXT or block.upper() == "BASE"


@cache
def _paths(block: str) -> tuple[str, ...]:
    """The paths that a name stands for: itself, or those that a letter counts."""
    letters = _LETTERS.fullmatch(block)
    if not letters or _is_text(block):
        return (block,)
    if not letters[1]:
        return ("unet.mid_block",)
    way, number = letters[1].lower(), int(letters[2])
    if way == "in" and number == 0:
        return ("unet.conv_in",)
    level, layer = divmod(number - (way == "in"), 3)
    start = f"unet.{'down' if way == 'in' else 'up'}_blocks.{level}"
    layers = (f"{start}.resnets.{layer}", f"{start}.attentions.{layer}")
    if way == "out":
        return (*layers, f"{start}.upsamplers") if layer == 2 else layers
    return (f"{start}.downsamplers",) if layer == 2 else layers
