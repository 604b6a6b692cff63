"""The command `sdtune lora diff`: how far apart what two LoRAs add is, by block, and what else they say.

|A - B| is taken of A - B itself, as a product of ranks side by side, brought to a small matrix by Q R: of the sum of
squares |A|^2 + |B|^2 - 2 <A, B> nothing would be left where both are nearly the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sdtune.core.adapters import Adapter, LoraModule
from sdtune.core.lora import Lora
from sdtune.core.lora_facts import by_block
from sdtune.core.lora_place import lora_at
from sdtune.core.lora_reader import read
from sdtune.core.lora_reports import Apart, Differing
from sdtune.core.lora_updates import Bases, family_for
from sdtune.core.low_rank import Product
from sdtune.core.reports import Progress, Telling
from sdtune.errors import LoraError
from sdtune.inspect_config import LoraDiff

EQUAL = 1e-6
"""of the larger update; what float32 rounds is less"""
Update = Product | Tensor
"""what is added to weights: a product, or itself in float32"""


@dataclass(frozen=True)
class Between:
    """Two updates of one module."""

    first: float
    """Frobenius norm"""
    second: float
    difference: float
    """|first - second|"""
    together: float
    """<first, second>"""

    @property
    def equal(self) -> bool:
        """But for rounding."""
        return self.difference <= EQUAL * max(self.first, self.second)


def diff_loras(config: LoraDiff) -> Telling[None]:
    """Compares what two files add, whatever their forms, ranks and networks."""
    places = lora_at(config.first), lora_at(config.second)
    first, second = read(places[0]), read(places[1])
    bases = Bases(config.model)
    if (first.family and second.family) or bases.family:
        family_for({str(places[0]): first, str(places[1]): second}, bases)
    ours, theirs = entries_of(first), entries_of(second)
    both = [name for name in ours if name in theirs]
    between: dict[str, Between] = {}
    for number, name in enumerate(both, 1):
        one = _update(name, ours[name], bases, places[0])
        other = _update(name, theirs[name], bases, places[1])
        if _shape(one) != _shape(other):
            told = f"{places[1]}: changes {name} as {_shape(other)}, and {places[0]} as {_shape(one)}"
            raise LoraError(f"{told}; compare LoRAs for the same model")
        between[name] = compared(one, other)
        yield Progress("modules", number, len(both))
    only_first = tuple(name for name in ours if name not in theirs)
    only_second = tuple(name for name in theirs if name not in ours)
    whole = _apart("", list(between.values()))
    yield Differing(
        first=places[0],
        second=places[1],
        equal=not only_first and not only_second and all(one.equal for one in between.values()),
        difference=whole.difference,
        cosine=whole.cosine,
        blocks=tuple(_apart(block, [between[name] for name in names]) for block, names in by_block(both).items()),
        only_first=only_first,
        only_second=only_second,
        metadata=said_apart(first.metadata, second.metadata),
    )


def entries_of(lora: Lora) -> dict[str, Adapter | Tensor]:
    """All that a LoRA adds, by name: modules, biases, and the vectors of new words."""
    entries: dict[str, Adapter | Tensor] = dict(lora.modules)
    entries |= {f"{name}.bias": value for name, value in lora.biases.items()}
    for word, parts in lora.embeddings.items():
        entries |= {f"{part}.new_word.{word}": vectors for part, vectors in parts.items()}
    return entries


def compared(first: Update, second: Update) -> Between:
    """Two updates of the same shape."""
    if isinstance(first, Product) and isinstance(second, Product):
        left = torch.cat([first.left, -second.left], dim=1)
        right = torch.cat([first.right, second.right])
        both = (first.left.T @ second.left) * (first.right @ second.right.T)
        return Between(first.norm(), second.norm(), small(Product(left, right)), float(both.sum()))
    one, other = whole(first), whole(second)
    norms = [float(torch.linalg.vector_norm(update)) for update in (one, other, one - other)]
    return Between(norms[0], norms[1], norms[2], float((one * other).sum()))


def small(update: Product) -> float:
    """Frobenius norm of an update that may be next to nothing beside its factors: that of R R' of their Q R."""
    upper = torch.linalg.qr(update.left, mode="r").R
    lower = torch.linalg.qr(update.right.T, mode="r").R
    return float(torch.linalg.vector_norm(upper @ lower.T))


def whole(update: Update) -> Tensor:
    """All of it, in double."""
    return update.left @ update.right if isinstance(update, Product) else update.double()


def said_apart(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """What each says of a thing of which the other says something else, or nothing."""
    names = sorted({*first, *second})
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}


def _update(name: str, entry: Adapter | Tensor, bases: Bases, place: Path) -> Update:
    if isinstance(entry, Tensor):
        return entry.float()
    base = bases.fitting(name, entry, str(place))
    return Product(*entry.factors()) if isinstance(entry, LoraModule) else entry.delta(base)


def _shape(update: Update) -> tuple[int, ...]:
    return (update.left.shape[0], update.right.shape[1]) if isinstance(update, Product) else tuple(update.shape)


def _apart(block: str, between: Sequence[Between]) -> Apart:
    """Several modules as one long update."""
    first, second, difference = (
        math.hypot(*(getattr(one, name) for one in between)) for name in ("first", "second", "difference")
    )
    larger, product = max(first, second), first * second
    cosine = sum(one.together for one in between) / product if product else float(first == second)
    return Apart(
        block, len(between), first, second, difference / larger if larger else 0.0, max(-1.0, min(1.0, cosine))
    )
