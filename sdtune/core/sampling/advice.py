"""Advice: what is drawn as it stands, though people surely meant something else by it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from sdtune.core.applied import Applied
from sdtune.core.sampling import grammar
from sdtune.core.sampling.asked import Asked
from sdtune.core.sampling.axes import Axis
from sdtune.core.sampling.prompt_lines import FLAGS, Line
from sdtune.errors import cut
from sdtune.sample_config import Sample

SHOWN = 40
"""letters of a prompt that a line holds"""
_BRACES = re.compile(r"\\.|[{}|]", re.DOTALL)
_INNERMOST = re.compile(r"\{([^{}]*)\}")
_NO_WEIGHT = re.compile(r"\s*([^\s:|$]{1,30})::")
_NUMBER = re.compile(r"[0-9]*\.?[0-9]*")
_AND = re.compile(r"(?<!\S)(\S++)\s+AND\s+(?=(\S+))")
_EMBEDDING = re.compile(r"\bembedding:\w[\w.-]*")
_LORA = re.compile(r"(?<!\\)<(?:lora|lyco):[^<>]*>", re.IGNORECASE)
_OPEN_LORA = re.compile(r"(?<!\\)<(?:lora|lyco):[^<>]*(?=<|\Z)", re.IGNORECASE)
_LONG_DASH = re.compile(rf"(?:^|\s)([—–](?:{'|'.join(FLAGS)}) +\S+)")


def advice(config: Sample, lines: Sequence[Line], asked: Sequence[Asked], axes: Sequence[Axis]) -> Iterator[str]:
    """A line for each thing that is most likely not meant, told where it first stands."""
    given = lines if config.prompt or config.prompts else ()
    looks = _LOOKS if config.syntax == "a1111" else (_plain,)
    if config.syntax == "a1111" and not any(axis.name == "steps" for axis in axes):
        looks = (*looks, lambda line: _late(line.text, line.where, line.steps or config.steps))
    for look in looks:
        found = [told for line in given if (told := look(line))]
        yield from found[:1]
    negatives = [(config.negative, "--negative"), *((line.negative or "", line.where) for line in given)]
    if config.syntax == "a1111":
        yield from [told for text, where in negatives if (told := _negative(text, where))][:1]
    yield from _twice(asked)
    yield from _covered(config, given, axes)
    for axis in axes:
        if len(axis.values) == 1 and (axis.told or axis.name not in ("prompt", "seed")):
            value = cut(axis.values[0].label, SHOWN)
            yield f"--grid {axis.name}: has one value alone, {value}, so that there is nothing to compare"


def _open_brace(line: Line) -> str | None:
    opened: list[tuple[int, bool]] = []
    for found in _BRACES.finditer(line.text):
        if found[0] == "{":
            opened.append((found.start(), False))
        elif found[0] == "|" and opened:
            opened[-1] = (opened[-1][0], True)
        elif found[0] == "}" and opened:
            opened.pop()
    for place, has_bar in opened:
        if has_bar:
            told = (
                f"{line.where}, column {place + 1}: {_quoted(line.text[place:])}: the {{ is not closed, so it is text"
            )
            return f"{told}; close it, or write \\{{"
    return None


def _no_weight(line: Line) -> str | None:
    for choice in _INNERMOST.finditer(line.text) if "::" in line.text else ():
        for option in choice[1].split("|") if "|" in choice[1] else ():
            found = _NO_WEIGHT.match(option)
            if found and not _NUMBER.fullmatch(found[1]):
                return (
                    f"{line.where}: {_quoted(choice[0])}: {found[1]}:: is no weight, so it is text; write it as in 3::"
                )
    return None


def _and(line: Line) -> str | None:
    for found in _AND.finditer(line.text) if "AND" in line.text else ():
        if not any(word.isupper() for word in found.groups()):
            return (
                f"{line.where}: AND is a word as any other, as sdtune draws no prompts together; write a comma for it"
            )
    return None


def _embedding(line: Line) -> str | None:
    found = _EMBEDDING.search(line.text)
    return f"{line.where}: {cut(found[0])} is text, as sdtune reads no embeddings by name" if found else None


def _open_lora(line: Line) -> str | None:
    found = _OPEN_LORA.search(line.text) if "<" in line.text else None
    if found is None:
        return None
    return (
        f"{line.where}, column {found.start() + 1}: {_quoted(found[0])}: the < is not closed, so it is text; close it"
    )


def _named_twice(line: Line) -> str | None:
    if line.text.count("<") < 2:
        return None
    names: set[str] = set()
    for tag in grammar.without_loras(line.text, line.where)[1]:
        if tag.name in names:
            return f"{line.where}: <lora:{cut(tag.name)}> is named twice; the last counts alone, at {tag.strength}"
        names.add(tag.name)
    return None


def _long_dash(line: Line) -> str | None:
    found = _LONG_DASH.search(line.text)
    return f"{line.where}: {_quoted(found[1])}: one long dash is text; write two short ones, --" if found else None


def _plain(line: Line) -> str | None:
    found = _LORA.search(line.text)
    return f"{line.where}: {_quoted(found[0])}: is text with --syntax plain; give it with --lora" if found else None


def _negative(text: str, where: str) -> str | None:
    found = _LORA.search(text)
    return f"{where}: {_quoted(found[0])}: is text in a negative prompt; put it into the prompt" if found else None


def _late(text: str, where: str, steps: int) -> str | None:
    when = next(grammar.too_late(text, steps), None) if "[" in text else None
    if when is None:
        return None
    told = f"{where}: [...:{when}]: nothing changes, since that is beyond its {steps} steps"
    return f"{told}; a share of them is written with a point, as in 0.5"


_Look = Callable[[Line], str | None]
_LOOKS: tuple[_Look, ...] = (_open_brace, _no_weight, _and, _embedding, _open_lora, _named_twice, _long_dash)


def _twice(asked: Iterable[Asked]) -> Iterator[str]:
    """Of the same file given twice for all prompts, or for one."""
    told: set[str] = set()
    sets = {tuple(map(id, one.loras)): one.loras for one in asked if len(one.loras) > 1}
    for loras in sets.values():
        acting: dict[str, list[Applied]] = {}
        for lora in loras:
            acting.setdefault(os.path.realpath(lora.path), []).append(lora)
        for place, several in acting.items():
            if len(several) > 1 and place not in told:
                told.add(place)
                strengths = " and ".join(str(lora.strength) for lora in several)
                yield f"{several[0].shown}: is given {len(several)} times and acts each time, at {strengths}"


def _covered(config: Sample, given: Sequence[Line], axes: Sequence[Axis]) -> Iterator[str]:
    """What an axis sets in the place of what was asked for."""
    flag = "--animate" if config.animate else "--grid"
    for axis in axes:
        if not axis.told:
            continue
        if axis.name == "prompt" and given:
            yield f"{flag} prompt: its prompts are drawn in the place of those of --prompt and --prompts"
        if axis.name == "seed" and config.count > 1:
            yield f"--count {config.count}: has no effect, since {flag} seed says which seeds are drawn"
        for name, one in FLAGS.items():
            own = [line for line in given if one.field == axis.name and getattr(line, one.field) is not None]
            if own:
                yield f"{own[0].where}: --{name} has no effect, since {flag} {axis.name} sets it"


def _quoted(text: str) -> str:
    return f'"{cut(text, SHOWN)}"'
