"""Axes of a grid: settings with the values that they take on it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from sdtune.core.sampling.asked import Asked
from sdtune.core.sampling.axis_settings import EXAMPLES, SETTINGS, Given, Value, name_of, places_of, without_loras
from sdtune.core.sampling.run_of import RunUse
from sdtune.errors import ConfigError, cut, nearest
from sdtune.sample_config import Sample

MOST = 10_000
"""pictures of a grid"""
LONGEST = 100
"""values of an axis: more make cells that nobody can look at, or an animation without an end"""
SIZES = ("width", "height", "size")
TEXTS = ("prompt", "negative", "lora")
"""names of axes whose values may hold a word x between spaces"""
_BETWEEN = re.compile(r"(?<=\s)[x×](?=\s)")


@dataclass(frozen=True)
class Axis:
    """A setting on a grid."""

    name: str
    values: tuple[Value, ...]
    told: bool = False
    """whether they were written, so that they are in the place of what was asked for"""


def axes_of(config: Sample, asked: Sequence[Asked], run: RunUse) -> tuple[Axis, ...]:
    """Those of --grid, --compare or --animate; none where none is given. ConfigError names what cannot be read.

    "prompt" and "seed" without values are those that were asked for anyway.
    """
    if config.compare:
        return (_compared(asked),)
    flag, given = "--grid", config.grid
    if config.animate:
        flag, given = "--animate", (config.animate,)
    pairs = [pair for text in given for pair in _pairs(text, flag)]
    names = tuple(_known(name, flag) for name, _ in pairs)
    if config.init and not any(one.loras for one in asked) and not {"lora", "checkpoint"} & {*names}:
        names = tuple("init-strength" if name == "strength" else name for name in names)
    _must_go_together(names, flag, 1 if config.animate else 2)
    axes = []
    for name, (_, values) in zip(names, pairs, strict=True):
        told = f"{flag} {name}"
        made = SETTINGS[name](Given(told, name, values, names, config, asked, run))
        once = {value.key: value for value in reversed(made)}
        axes.append(Axis(name, tuple(value for value in made if once[value.key] is value), values is not None))
        if config.animate and len(axes[-1].values) < 2:
            raise ConfigError(f"{told}: one value, which does not move; give several, as in {name}={EXAMPLES[name]}")
        if len(axes[-1].values) > LONGEST:
            raise ConfigError(f"{told}: {len(axes[-1].values):,} values, and {LONGEST} is the most; give fewer")
    return tuple(axes)


def crossed(asked: Sequence[Asked], axes: Sequence[Axis]) -> list[Asked]:
    """Every picture at every place on the axes, `cell` being the place; what an axis covers is not asked twice."""
    if not axes:
        return list(asked)
    kept = _uncovered(asked, {axis.name for axis in axes})
    pictures = len(kept) * prod(len(axis.values) for axis in axes)
    if pictures > MOST:
        raise ConfigError(f"these are {pictures:,} pictures, and {MOST:,} is the most on grids; give fewer values")
    known = list(SETTINGS)
    order = sorted(
        range(len(axes)), key=lambda place: known.index(axes[place].name) if axes[place].name in known else 0
    )
    found = []
    for one in kept:
        for cell in product(*(range(len(axis.values)) for axis in axes)):
            changed = one
            for place in order:
                changed = axes[place].values[cell[place]].change(changed)
            found.append(replace(changed, cell=cell))
    return found


def _uncovered(asked: Sequence[Asked], names: Collection[str]) -> list[Asked]:
    """One of those that differ in nothing but what the axes set: the first seed or the first prompt of each."""
    found: dict[tuple[object, ...], Asked] = {}
    for one, (prompt, nth) in zip(asked, places_of(asked), strict=True):
        found.setdefault((None if "prompt" in names else prompt, None if "seed" in names else nth), one)
    return list(found.values())


def _pairs(text: str, flag: str) -> list[tuple[str, str | None]]:
    """(name, what stands behind =) of each of "strength=0,1 x seed"; an x may be a word of a prompt."""
    pieces: list[str] = []
    for piece in _BETWEEN.split(text):
        before, equals, _ = pieces[-1].partition("=") if pieces else ("", "", "")
        if equals and before.strip().lower() in TEXTS and piece.partition("=")[0].strip().lower() not in SETTINGS:
            pieces[-1] += f"x{piece}"
        else:
            pieces.append(piece)
    found = []
    for piece in pieces:
        name, equals, values = (word.strip() for word in piece.partition("="))
        if not name:
            raise ConfigError(f'{flag} "{cut(text)}": names no setting; give one, as in strength=0,0.5,1')
        found.append((name, values if equals else None))
    return found


def _known(name: str, flag: str) -> str:
    name = name.lower().replace("_", "-")
    if name in SIZES:
        raise ConfigError(f"{flag} {name}: pictures of several sizes do not compare on one sheet; draw them one by one")
    if name not in SETTINGS:
        near = nearest(name, SETTINGS)
        remedy = f"did you mean {near}?" if near else f"choose one of {', '.join(SETTINGS)}"
        raise ConfigError(f"{flag} {cut(name)}: no such setting; {remedy}")
    return name


def _must_go_together(names: Sequence[str], flag: str, most: int) -> None:
    if len(names) > most:
        raise ConfigError(
            f"{flag}: {cut(' x '.join(names))} are {len(names)} settings, and {most} is the most; leave some out"
        )
    if len({*names}) < len(names):
        raise ConfigError(f"{flag}: {names[0]} is given twice; give two different settings")
    if {"lora", "checkpoint"} <= {*names}:
        raise ConfigError(f"{flag}: lora and checkpoint both say which LoRA acts; give one of them")


def _compared(asked: Sequence[Asked]) -> Axis:
    if not any(one.loras for one in asked):
        raise ConfigError("--compare: there is no LoRA to set beside the base; give one with --lora or --run")
    if not any(any(lora.acts for lora in one.loras) for one in asked):
        raise ConfigError("--compare: the LoRA has strength 0, which is the base itself; give it another")
    sets = {tuple(f"{name_of(one)} {one.strength.usual:g}" for one in each.loras) for each in asked}
    label = f"with LoRA ({', '.join(sets.pop())})" if len(sets) == 1 else "with LoRA"
    return Axis("compare", (Value("base", without_loras), Value(label, lambda one: one)))
