r"""The grammar of dynamic prompts: {a|b} and __animal__ stand for choices, as in sd-dynamic-prompts.

    {a|b|c}                one of them
    {3::a|b}               a three times as often
    {2$$a|b|c}             two of them, none twice, "a, c"; {1-2$$ }, {2-$$ } and {-2$$ } are from so many to so many
    {2$$ and $$a|b|c}      "a and c"
    __set/animal__         a line of set/animal.txt; __set/*__ one of any file there

Choices nest. Braces with neither | nor $$ between them, or without their other half, are text, and so are \{ \} \| and
\_ wherever they stand. Syntax: github.com/adieyal/sd-dynamic-prompts, docs/SYNTAX.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

from sdtune.errors import ConfigError

DEEPEST = 50
"""choices within one another, those of wildcard files among them"""
ANY = 10**9
JOINER = ", "
_MARKS = re.compile(
    r"""
      \\(?P<literal>[{}|_])
    | (?P<pair>\\.?)                                                        # any other escape is someone else's
    | \{(?P<bound>\s*(?:(?P<exact>\d{1,6})|(?P<low>\d{0,6})-(?P<high>\d{0,6}))\$\$(?:(?P<joiner>[^{}$]*)\$\$)?)?
    | (?P<close>\})
    | (?P<bar>\|)
    | __(?P<name>(?!_)(?:[^\W_]|_(?!_)|[-./*?])+)__
    | (?P<text>[^\\{}|_]+|_)
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_WEIGHT = re.compile(r"\s*(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})::", re.ASCII)


@dataclass(frozen=True)
class Wild:
    """A line of a wildcard file."""

    name: str
    where: str = field(compare=False)
    """for messages, with its column"""


@dataclass(frozen=True)
class Choice:
    """Some of several options."""

    options: tuple[Option, ...]
    """none twice"""
    low: int = 1
    high: int = 1
    joiner: str = JOINER
    depth: int = field(default=1, compare=False)
    """choices within one another, itself among them"""


Nodes = tuple[str | Wild | Choice, ...]


@dataclass(frozen=True)
class Option:
    """One of the options of a choice."""

    nodes: Nodes
    weight: float = 1.0


@dataclass(frozen=True)
class Size:
    """Bounds for all that a template may become."""

    count: int
    """combinations, up to some number"""
    length: int
    """letters at most; what is empty counts one, as it is work, too"""
    depth: int
    """choices within one another"""


@dataclass(slots=True)
class _Brace:
    """An open one."""

    start: int
    """its place among the marks"""
    found: re.Match[str]
    bars: list[int]


def parse(text: str, where: str) -> Nodes:
    """What a template holds; ConfigError names the column where choices are too deep, or all of one have weight 0."""
    marks: list[str | Wild | Choice] = []
    opened: list[_Brace] = []
    for found in _MARKS.finditer(text):
        kind = found.lastgroup
        if kind in (None, "bound"):  # an open brace
            opened.append(_Brace(len(marks), found, []))
            marks.append(found[0])
        elif kind == "literal":
            marks.append(found["literal"])
        elif kind == "name":
            marks.append(Wild(found["name"], f"{where}, column {found.start() + 1}"))
        elif kind == "bar" and opened:
            opened[-1].bars.append(len(marks))
            marks.append("|")
        elif kind == "close" and opened and (opened[-1].bars or opened[-1].found["bound"] is not None):
            brace = opened.pop()
            marks[brace.start :] = [_choice(brace, marks, f"{where}, column {brace.found.start() + 1}")]
        else:
            if kind == "close":
                del opened[-1:]
            marks.append(found[0])
    return _joined(marks)


def merged(options: Iterable[Option]) -> tuple[Option, ...]:
    """Each once, as often as all that are equal to it; without those of weight 0."""
    weights: dict[Nodes, float] = {}
    for one in options:
        weights[one.nodes] = weights.get(one.nodes, 0.0) + one.weight
    return tuple(Option(nodes, weight) for nodes, weight in weights.items() if weight)


def option_of(marks: Iterable[str | Wild | Choice]) -> Option:
    """What stands between two bars, or on a line: its weight is written before ::, blanks at its front do not count."""
    first, *others = [*marks] or [""]
    if not isinstance(first, str):
        return Option((first, *_joined(others)))
    found = _WEIGHT.match(first)
    begin = first[found.end() :] if found else first
    return Option(_joined([begin.lstrip(), *others]), float(found[1]) if found else 1.0)


def _choice(brace: _Brace, marks: list[str | Wild | Choice], where: str) -> Choice:
    ends = [*brace.bars, len(marks)]
    starts = [brace.start, *brace.bars]
    options = merged(option_of(marks[start + 1 : end]) for start, end in zip(starts, ends, strict=True))
    if not options:
        raise ConfigError(f"{where}: all choices have weight 0; give one of them more")
    depth = 1 + max((node.depth for one in options for node in one.nodes if isinstance(node, Choice)), default=0)
    if depth > DEEPEST:
        raise ConfigError(f"{where}: more than {DEEPEST} choices within one another; nest fewer")
    found = brace.found
    if found["bound"] is None:
        return Choice(options, depth=depth)
    if found["exact"]:
        low = high = int(found["exact"])
    else:
        low, high = sorted((int(found["low"] or 1), int(found["high"] or ANY)))
    return Choice(options, low, high, JOINER if found["joiner"] is None else found["joiner"], depth)


def _joined(marks: Iterable[str | Wild | Choice]) -> Nodes:
    """The same with text in one piece."""
    nodes: list[str | Wild | Choice] = []
    for is_text, run in groupby(marks, key=lambda mark: isinstance(mark, str)):
        found = list(run)
        nodes += ["".join(map(str, found))] if is_text else found
    return tuple(node for node in nodes if node != "")
