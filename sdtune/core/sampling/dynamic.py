"""Dynamic prompts: {a|b}, {2$$a|b|c} and __wildcards__, by chance or all of them."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from itertools import accumulate, permutations
from random import Random

from sdtune.core.sampling.dynamic_grammar import DEEPEST, Choice, Nodes, Option, Size, Wild, parse
from sdtune.core.sampling.wildcards import Wildcards
from sdtune.errors import ConfigError

LONGEST = 200_000
"""letters of a prompt"""
COUNTED = 10**9
"""combinations beyond which nobody counts; 13 things have more orders than that"""
_ORDERS = 13
NAMED = 8
"""wildcards of a circle, in a message"""


def check(text: str, wildcards: Wildcards, where: str) -> None:
    """Stop at a wildcard that is not there or runs in a circle, and at what would be far too long or too deep."""
    _checked(text, wildcards, where)


def count_of(text: str, wildcards: Wildcards, where: str) -> int:
    """How many combinations there are; COUNTED stands for that many and more."""
    return _checked(text, wildcards, where)[1].count


def chosen(text: str, seed: int, wildcards: Wildcards, where: str) -> str:
    """The text with one choice made for each {} and __ __, the same for the same seed; ConfigError names the column."""
    nodes, _ = _checked(text, wildcards, where)
    digest = blake2b(repr(("dynamic", text, seed)).encode("utf-8", "backslashreplace"), digest_size=8).digest()
    return _drawn(nodes, wildcards, Random(int.from_bytes(digest, "little")))  # noqa: S311 (chance, no secret)


def combinations(text: str, wildcards: Wildcards, where: str) -> Iterator[str]:
    """The text with every combination of choices, in order, the last varying fastest."""
    nodes, _ = _checked(text, wildcards, where)
    return _all(nodes, wildcards)


def _checked(text: str, wildcards: Wildcards, where: str) -> tuple[Nodes, Size]:
    nodes = parse(text, where)
    size = _measured(nodes, wildcards, ())
    if size.length > LONGEST:
        raise ConfigError(f"{where}: may become a prompt of over {LONGEST:,} letters; choose fewer or shorter texts")
    return nodes, size


def _file_of(node: Wild | Choice) -> Wild | None:
    """The file whose lines are chosen from: of __animal__, and of {2$$__animal__}."""
    if isinstance(node, Wild):
        return node
    only = node.options[0].nodes if len(node.options) == 1 else ()
    return only[0] if len(only) == 1 and isinstance(only[0], Wild) else None


def _options(node: Wild | Choice, wildcards: Wildcards) -> tuple[Option, ...]:
    wild = _file_of(node)
    return wildcards.options(wild) if wild else node.options if isinstance(node, Choice) else ()


def _bounds(node: Wild | Choice, options: Sequence[Option]) -> tuple[int, int]:
    """How many are chosen, at least and at most."""
    return (1, 1) if isinstance(node, Wild) else (min(node.low, len(options)), min(node.high, len(options)))


def _measured(nodes: Nodes, wildcards: Wildcards, above: tuple[str, ...]) -> Size:
    """Its bounds; ConfigError where a wildcard leads back to one of those `above` it."""
    count, length, depth = 1, 1, 0
    for node in nodes:
        size = Size(1, len(node), 0) if isinstance(node, str) else _measured_choice(node, wildcards, above)
        count, length = min(count * size.count, COUNTED), min(length + size.length, LONGEST + 1)
        depth = max(depth, size.depth)
    return Size(count, length, depth)


def _measured_choice(node: Wild | Choice, wildcards: Wildcards, above: tuple[str, ...]) -> Size:
    wild = _file_of(node)
    if isinstance(node, Wild) and node.name in wildcards.sizes:
        return wildcards.sizes[node.name]
    if wild and wild.name in above:
        circle = [name for name in (*above[above.index(wild.name) :], wild.name) if name]
        shown = [*circle[:NAMED], "..."] if len(circle) > NAMED + 1 else circle
        raise ConfigError(f"{wild.where}: wildcards in a circle: {' -> '.join(shown)}; take one of them out")
    above = (*above, wild.name if wild else "")
    options = _options(node, wildcards) if len(above) <= DEEPEST or not wild else ()
    low, high = _bounds(node, options)
    sizes = [_measured(one.nodes, wildcards, above) for one in options]
    depth = 1 + max((size.depth for size in sizes), default=DEEPEST)
    if wild and depth > DEEPEST:
        raise ConfigError(f"{wild.where}: more than {DEEPEST} choices within one another; nest fewer")
    joiner = 0 if isinstance(node, Wild) else len(node.joiner)
    longest = min(high * max(size.length for size in sizes), sum(size.length for size in sizes))
    size = Size(_ordered(sizes, low, high), min(longest + high * joiner, LONGEST + 1), depth)
    if isinstance(node, Wild):
        wildcards.sizes[node.name] = size
    return size


def _ordered(sizes: Sequence[Size], low: int, high: int) -> int:
    """In how many ways some can follow one another: n! times the elementary symmetric polynomial of degree n."""
    if high >= _ORDERS:
        return COUNTED
    ways = [1] + [0] * high
    for size in sizes:
        for chosen_so_far in range(high, 0, -1):
            more = ways[chosen_so_far] + ways[chosen_so_far - 1] * size.count
            ways[chosen_so_far] = min(more, COUNTED)
    return min(sum(math.factorial(n) * ways[n] for n in range(low, high + 1)), COUNTED)


def _drawn(nodes: Nodes, wildcards: Wildcards, random: Random) -> str:
    return "".join(node if isinstance(node, str) else _drawn_choice(node, wildcards, random) for node in nodes)


def _drawn_choice(node: Wild | Choice, wildcards: Wildcards, random: Random) -> str:
    """Out of Random.random alone, whose numbers Python promises to keep."""
    options = _options(node, wildcards)
    low, high = _bounds(node, options)
    number = low + int(random.random() * (high - low + 1))
    if number == 1:
        sums = list(accumulate(one.weight for one in options))
        picked = [options[min(bisect(sums, random.random() * sums[-1]), len(options) - 1)]]
    else:  # the order of waiting times that are as short as weights are large is that of drawing one after another
        waits = [-math.log(1 - random.random()) / one.weight for one in options]
        picked = [options[place] for place in sorted(range(len(options)), key=waits.__getitem__)[:number]]
    joiner = "" if isinstance(node, Wild) else node.joiner
    return _together((_drawn(one.nodes, wildcards, random) for one in picked), joiner)


def _all(nodes: Nodes, wildcards: Wildcards) -> Iterator[str]:
    return _product([partial(_all_of, node, wildcards) for node in nodes], "")


def _all_of(node: str | Wild | Choice, wildcards: Wildcards) -> Iterator[str]:
    if isinstance(node, str):
        yield node
        return
    options = _options(node, wildcards)
    low, high = _bounds(node, options)
    joiner = "" if isinstance(node, Wild) else node.joiner
    for number in range(low, high + 1):
        for some in permutations(options, number):
            yield from _product([partial(_all, one.nodes, wildcards) for one in some], joiner)


def _together(texts: Iterable[str], joiner: str) -> str:
    """Nothing is joined to what is empty."""
    return joiner.join(text for text in texts if text)


def _product(makers: Sequence[Callable[[], Iterator[str]]], joiner: str) -> Iterator[str]:
    """Each with each, joined; one of each is held at a time."""
    if not makers:
        yield ""
        return
    running, parts = [makers[0]()], list[str]()
    while running:
        text = next(running[-1], None)
        if text is None:
            running.pop()
            del parts[-1:]
        elif len(running) == len(makers):
            yield _together([*parts, text], joiner)
        else:
            parts.append(text)
            running.append(makers[len(running)]())
