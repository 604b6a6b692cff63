"""Layout: which picture stands where on a sheet or a page, and what is written beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sdtune.core.sampling.axes import Axis
from sdtune.errors import cut

ROWS, COLUMNS = 24, 16
"""of a sheet whose pictures lie on one axis, or on none; what is more makes further sheets"""
NUMBERS = ("strength", "init-strength", "seed", "steps", "guidance")
"""axes whose values say little without the name"""
NOTHING = "(no prompt)"
LETTERS = 300  # of a prompt beside its pictures
SAID = 100  # letters of a setting that is written below
READ = 4000  # letters of a prompt that are compared with those of others
FOR_PROGRAMS = ("Lora hashes",)
_SETTING = re.compile(r'([^:,"]{1,60}): ("(?:[^"\\]|\\.)*"|[^,]*)(?:, |$)')
"""of the last line of A1111's parameters"""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shown:
    """A picture on disk, with its place."""

    path: Path
    prompt: str
    seed: int
    line: int
    cell: tuple[int, ...]
    said: str
    """its A1111 parameters"""
    loras: Mapping[str, str] = field(default_factory=dict)
    """how strongly which acted, {"cats": "0.8"}"""


@dataclass(frozen=True)
class Table:
    """Pictures in rows and columns."""

    heading: str
    """the prompt, where all have one"""
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[int, int], Shown]
    """{(row, column): picture}"""
    settings: Mapping[str, str]
    """what all of them have, {"Steps": "25"}"""
    captions: Mapping[tuple[int, int], str]
    """what neither row nor column tells of a picture: its choices in a prompt, its seed"""


def tables_of(pictures: Sequence[Shown], axes: Sequence[Axis]) -> list[Table]:
    """All pictures of a command: the first axis goes down, the second across.

    One axis goes across, with prompts and seeds down, but prompts go down. Without axes prompts go down, seeds across.
    """
    return [_table(part, axes) for part in parts_of(pictures, axes)]


def parts_of(pictures: Sequence[Shown], axes: Sequence[Axis]) -> list[list[Shown]]:
    """Those of one sheet together: of one prompt and seed where there are two axes, as far as no axis is of these."""
    groups = list(groups_of(pictures, axes).values())
    if len(axes) == 2:
        return groups
    if axes:
        most = COLUMNS if _goes_down(axes) else ROWS
        return [[one for group in some for one in group] for some in _by(groups, most)]
    seeds = [_by(some, COLUMNS) for some in _by_prompt(pictures)]
    across = max((len(some) for some in seeds), default=0)
    parts = [
        [one for chunks in rows for some in chunks[place : place + 1] for one in some]
        for rows in _by(seeds, ROWS)
        for place in range(across)
    ]
    return [part for part in parts if part]


def groups_of(pictures: Sequence[Shown], axes: Sequence[Axis]) -> dict[tuple[object, ...], list[Shown]]:
    """Those that differ in nothing but their places on the axes, each group in the order of these."""
    names = {axis.name for axis in axes}
    found: dict[tuple[object, ...], list[Shown]] = {}
    again: dict[tuple[object, ...], int] = {}
    for one in pictures:
        key = (None if "prompt" in names else one.line, None if "seed" in names else one.seed)
        number = again.get((*key, one.cell), 0)  # a line may make several prompts
        again[(*key, one.cell)] = number + 1
        found.setdefault((*key, number), []).append(one)
    return {key: sorted(group, key=lambda one: one.cell) for key, group in found.items()}


def settings_of(one: Shown) -> dict[str, str]:
    """Its LoRAs, and what its A1111 parameters say below the prompt: {"LoRA cats": "0.8", "Steps": "25"}."""
    last = one.said.rpartition("\n")[2]
    loras = {_lora(name): strength for name, strength in one.loras.items()}
    return loras | {found[1].strip(): found[2].strip()[:SAID] for found in _SETTING.finditer(last)}


def own_settings(table: Table, one: Shown) -> str:
    """What it has and others of the table have not, in one line."""
    own = {name: value for name, value in settings_of(one).items() if table.settings.get(name) != value}
    if any(table.captions.values()) and table.settings.get("Seed") is None:
        own.pop("Seed", None)
    return told(own)


def told(settings: Mapping[str, str]) -> str:
    """Settings in one line, but for those that are for programs."""
    return ", ".join(f"{name} {value}".strip() for name, value in settings.items() if name not in FOR_PROGRAMS)


def label_of(axis: Axis, place: int) -> str:
    """A value of an axis as it stands beside pictures."""
    label = axis.values[place].label
    if axis.name == "strength" and label == "0":
        return "strength 0 (base)"
    if axis.name == "prompt" and not label.strip():
        return NOTHING
    return short(f"{axis.name} {label}" if axis.name in (*NUMBERS, "negative") else label)


def short(text: str) -> str:
    """As much of a text as stands beside pictures."""
    return cut(text, LETTERS)


def prompt_of(one: Shown) -> str:
    """As much of its prompt."""
    return short(one.prompt) if one.prompt.strip() else NOTHING


def _table(pictures: Sequence[Shown], axes: Sequence[Axis]) -> Table:
    by_seed = True
    if not axes:
        prompts = _by_prompt(pictures)
        rows = [_prompts_of(some) or f"prompt {some[0].line}" for some in prompts]
        across = max(prompts, key=len)
        by_seed = all(one.seed == other.seed for some in prompts for one, other in zip(some, across, strict=False))
        columns = [f"seed {one.seed}" if by_seed else "" for one in across]
        cells = {(row, column): one for row, some in enumerate(prompts) for column, one in enumerate(some)}
    elif len(axes) == 2:
        rows, columns = [[label_of(axis, place) for place in range(len(axis.values))] for axis in axes]
        cells = {(one.cell[0], one.cell[1]): one for one in pictures}
    else:
        rows, columns, cells = _along(pictures, axes)
    names = [axis.name for axis in axes]
    of_prompts = names.index("prompt") if "prompt" in names else 0 if len(axes) < 2 else None
    choices = _choices(cells, of_prompts)
    if "prompt" in names:
        _name_prompts((rows, columns)[of_prompts or 0], cells, choices, of_prompts or 0)
    captions = {
        place: ": ".join(filter(None, ("" if by_seed else f"seed {one.seed}", choices.get(place))))
        for place, one in cells.items()
    }
    heading = _prompts_of(pictures) if of_prompts is None or len(rows) == 1 else ""
    if len({one.prompt for one in pictures}) == 1:
        heading = prompt_of(pictures[0])
    if heading and not axes:
        rows = [""] * len(rows)
    return Table(heading, tuple(rows), tuple(columns), cells, _shared(pictures), captions)


def _choices(cells: Mapping[tuple[int, int], Shown], of_prompts: int | None) -> dict[tuple[int, int], str]:
    """{place: what its prompt has and others beside it have not}, where rows or columns of one prompt differ in that.

    `of_prompts` is 0 where rows are of prompts, 1 where columns are, None where all of the table is of one.
    """
    beside: dict[int, list[tuple[int, int]]] = {}
    for place in cells:
        beside.setdefault(0 if of_prompts is None else place[of_prompts], []).append(place)
    found = {}
    for places in beside.values():
        texts = [cells[place].prompt for place in places]
        if len({*texts}) > 1:
            before, behind = _shared_words(texts)
            for place, text in zip(places, texts, strict=True):
                words = text[:READ].split()
                own = " ".join(words[before : len(words) - behind]).strip(",.; ")
                found[place] = short(own) or NOTHING
    return found


def _name_prompts(
    labels: list[str], cells: Mapping[tuple[int, int], Shown], choices: Mapping[tuple[int, int], str], side: int
) -> None:
    """Rows or columns of prompts with choices are called by what these share."""
    for place in {place[side] for place in choices}:
        some = [one for cell, one in cells.items() if cell[side] == place]
        labels[place] = _prompts_of(some) or labels[place]


def _prompts_of(pictures: Sequence[Shown]) -> str:
    """Their prompt; of several what they share: "a ... apple"; nothing where they share nothing."""
    texts = [one.prompt for one in pictures]
    if len({*texts}) == 1:
        return prompt_of(pictures[0])
    before, behind = _shared_words(texts)
    words = texts[0][:READ].split()
    return short(" ".join([*words[:before], "...", *words[len(words) - behind :]])) if before or behind else ""


def _shared_words(texts: Sequence[str]) -> tuple[int, int]:
    """How many words all begin with, and how many of the rest all end with."""
    told = [text[:READ].split() for text in {*texts}]
    least = min(map(len, told))
    before = next((place for place in range(least) if len({words[place] for words in told}) > 1), least)
    most = least - before
    behind = next((place for place in range(most) if len({words[-1 - place] for words in told}) > 1), most)
    return before, behind


def _along(
    pictures: Sequence[Shown], axes: Sequence[Axis]
) -> tuple[list[str], list[str], dict[tuple[int, int], Shown]]:
    """(rows, columns, cells) of pictures on one axis."""
    groups = list(groups_of(pictures, axes).values())
    values = [label_of(axes[0], place) for place in range(len(axes[0].values))]
    firsts = [group[0] for group in groups]
    prompts, seeds = {_prompts_of(group) for group in groups}, {one.seed for one in firsts}
    if _goes_down(axes):
        columns = [f"seed {one.seed}" for one in firsts]
        return values, columns, {(one.cell[0], place): one for place, group in enumerate(groups) for one in group}
    apart = "seed" not in {axis.name for axis in axes} and (len(seeds) > 1 or len(prompts) == 1)
    rows = [
        ": ".join(
            [f"seed {group[0].seed}"] * apart + [_prompts_of(group) or f"prompt {group[0].line}"] * (len(prompts) > 1)
        )
        for group in groups
    ]
    return rows, values, {(place, one.cell[0]): one for place, group in enumerate(groups) for one in group}


def _goes_down(axes: Sequence[Axis]) -> bool:
    return len(axes) == 1 and axes[0].name == "prompt"


def _by_prompt(pictures: Sequence[Shown]) -> list[list[Shown]]:
    """Pictures without axes in rows: those of one line of prompts, and where that makes several, of one of these."""
    lines: dict[int, list[Shown]] = {}
    for one in pictures:
        lines.setdefault(one.line, []).append(one)
    found = []
    for some in lines.values():
        if len({one.seed for one in some}) == len(some):
            found.append(some)
            continue
        prompts: dict[str, list[Shown]] = {}
        for one in some:
            prompts.setdefault(one.prompt, []).append(one)
        found += prompts.values()
    return found


def _shared(pictures: Sequence[Shown]) -> dict[str, str]:
    """What all have; of a LoRA that acts on all but the base, and not on all as strongly, the name."""
    acting = [{*one.loras} for one in pictures if one.loras]
    names = set[str].intersection(*acting) if acting else set()
    every = {_lora(name): "" for one in pictures for name in one.loras if name in names}
    shared: dict[str, str] | None = None
    for one in pictures:
        own = settings_of(one)
        shared = own if shared is None else {name: value for name, value in shared.items() if own.get(name) == value}
    return every | (shared or {})


def _lora(name: str) -> str:
    return f"LoRA {name}"


def _by(items: Sequence[Item], most: int) -> list[list[Item]]:
    """In pieces of so many."""
    return [list(items[start : start + most]) for start in range(0, len(items), most)]
