"""LoRAs as users name them: a file or a run folder, with a strength, and strengths of blocks.

    cats.safetensors
    cats.safetensors:0.8
    runs/cats-1:0.8:text_encoder=0,unet.up_blocks.1=0.5
    cats.safetensors:mid_block=1.2,OUT03=0

What lies on the disk under the whole name is meant by it, whatever colons it has.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sdtune.core import lora_file
from sdtune.core.blocks import Strength, depth_in, is_general, known_blocks, names_of
from sdtune.core.home import expanded
from sdtune.core.lora import Lora
from sdtune.core.lora_place import lora_in, nearest_lora
from sdtune.earlier import RUN_SETTINGS
from sdtune.errors import LoraError, nearest

STRONGEST = 100
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE)
STYLE = "style.safetensors:0.8"
BLOCK_STYLE = "style.safetensors:0.8:text_encoder=0,mid_block=0.5"


@dataclass(frozen=True)
class Applied:
    """A LoRA with the strength at which it is used."""

    path: Path
    lora: Lora
    strength: Strength

    @property
    def shown(self) -> str:
        """What people are told of it, without a path: cats.safetensors, or the run folder that it stands in, cats-1.

        Another file of that folder than the one it stands for has both names: cats-1/cats-step-000100.safetensors.
        """
        folder = Path(os.path.abspath(self.path)).parent
        if not (folder / RUN_SETTINGS).is_file():
            return self.path.name
        with contextlib.suppress(LoraError):  # the folder may hold several
            if lora_in(folder).name == self.path.name:
                return folder.name
        return f"{folder.name}/{self.path.name}"

    @property
    def acts(self) -> bool:
        """Whether it has a strength anywhere."""
        return bool(self.strength.usual or any(self.strength.blocks.values()))

    def idle(self) -> Iterator[str]:
        """A line for each block that has a strength of its own, but nothing of the LoRA in it."""
        for block, value in self.strength.blocks.items():
            if value and not any(depth_in(block, name) for name in (*self.lora.modules, *self.lora.biases)):
                yield f"{self.path}: {block}={value:g} changes nothing, as the LoRA has nothing there"


@dataclass(frozen=True)
class Named:
    """What a user has called a LoRA, before it is read."""

    place: Path
    """a file or a run folder, or nothing at all"""
    usual: str | None = None
    blocks: str | None = None


def named(text: str) -> Named:
    """The place and the strengths in FILE, FILE:0.8, FILE:0.8:mid_block=0.5 or FILE:mid_block=0.5."""
    whole = Named(expanded(Path(text)))
    if _exists(whole.place):
        return whole
    place, blocks = _cut(text, of_blocks=True)
    if blocks is not None and _exists(expanded(Path(place))):
        return Named(expanded(Path(place)), blocks=blocks)
    place, usual = _cut(place, of_blocks=False)
    return Named(expanded(Path(place)), usual, blocks) if usual is not None else whole


def exists(one: Named) -> bool:
    """Whether anything lies at its place."""
    return _exists(one.place)


def read(text: str, told: str = "--lora") -> Applied:
    """The LoRA that a user names by a setting of which messages tell."""
    if not text.strip():
        raise LoraError(f"{told}: is empty; give a LoRA file or a run folder")
    one = named(text)
    if not exists(one):
        for place, behind in _cuts(text):
            if _exists(expanded(Path(place))):
                raise LoraError(f'{text}: "{behind}" is no strength behind a LoRA; give it as in {BLOCK_STYLE}')
        place = str(one.place) if one.usual is None or _number(one.usual) is not None else text
        near = nearest_lora(Path(place))
        raise LoraError(
            f"{place}: no such LoRA file or run folder; {f'did you mean {near}?' if near else f'check {told}'}"
        )
    path = lora_in(one.place) if one.place.is_dir() else one.place
    return at_strengths(path, partial(lora_file.read, path), one.usual, one.blocks, text)


def at_strengths(path: Path, load: Callable[[], Lora], usual: str | None, blocks: str | None, text: str) -> Applied:
    """A LoRA with the strengths that a user has written, which are looked at before it is loaded."""
    strength = 1.0 if usual is None else _strength(usual, text, STYLE)
    of_blocks = _blocks(blocks, text) if blocks is not None else {}
    lora = load()
    _must_be_there(of_blocks, {*lora.modules, *lora.biases}, text)
    return Applied(path, lora, Strength(strength, of_blocks))


def _cut(text: str, *, of_blocks: bool) -> tuple[str, str | None]:
    """What stands before and behind the last colon; nothing is behind it where that tells something else."""
    place, colon, told = text.rpartition(":")
    return (place, told) if colon and ("=" in told) == of_blocks else (text, None)


def _cuts(text: str) -> Iterator[tuple[str, str]]:
    """What stands before and behind each colon, from the last to the first."""
    place, colon, behind = text.rpartition(":")
    while colon:
        yield place, behind
        place, colon, more = place.rpartition(":")
        behind = f"{more}:{behind}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long to be one, or no name at all
        return False


def _number(text: str) -> float | None:
    """As people write strengths: 0.8, -1 or 5e-1."""
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    is_lost = not number and bool(re.search(r"[1-9]", text.lower().partition("e")[0]))
    return number if abs(number) <= STRONGEST and not is_lost else None


def _strength(told: str, text: str, style: str) -> float:
    number = _number(told)
    if number is None:
        raise LoraError(f"{text}: its strength should be a number from -{STRONGEST} to {STRONGEST}, as in {style}")
    return number


def _blocks(told: str, text: str) -> dict[str, float]:
    """{"mid_block": 0.5} of mid_block=0.5."""
    found: dict[str, float] = {}
    for piece in told.split(","):
        name, equals, strength = (word.strip() for word in piece.partition("="))
        if not name or not equals:
            raise LoraError(f"{text}: {piece.strip() or 'nothing'} is no block with its strength, as in {BLOCK_STYLE}")
        if name in found:
            raise LoraError(f"{text}: {name} is given twice; give it once")
        found[name] = _strength(strength, f"{text}: {name}", BLOCK_STYLE)
    return found


def _must_be_there(blocks: Collection[str], modules: Collection[str], text: str) -> None:
    """Stop at names of blocks that the LoRA has not, and at two that mean the same."""
    for name in blocks:
        if not any(depth_in(name, module) for module in modules) and not is_general(name, modules):
            near = nearest(name, names_of(modules))
            remedy = f"did you mean {near}?" if near else f"it has {known_blocks(modules)}"
            raise LoraError(f"{text}: the LoRA has no block {name}; {remedy}")
    for module in sorted(modules):
        depths = {name: depth_in(name, module) for name in blocks}
        deepest = [name for name, depth in depths.items() if depth and depth == max(depths.values())]
        if len(deepest) > 1:
            raise LoraError(f"{text}: {' and '.join(deepest)} name the same block; give one of them")
