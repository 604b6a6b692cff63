"""One module of several LoRAs: their changes made one, exactly where that is asked for, else with what is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdtune.choices.blends import Blend, OfFactors, OfUpdates
from sdtune.core.adapters import Adapter, LoraModule
from sdtune.core.adapters.difference import Difference
from sdtune.core.adapters.shapes import MAX_RANK
from sdtune.core.draws import generator
from sdtune.core.lora_updates import inside_of, is_matrix, update_of
from sdtune.core.low_rank import Limits, Product, Spectrum, spectrum
from sdtune.core.truncation import Loss
from sdtune.errors import LoraError

USUAL = 64
"""rank of sums of low rank nowhere, where none is asked for"""


@dataclass(frozen=True)
class Part:
    """What one of the LoRAs does to the module."""

    told: str
    """the LoRA, for messages"""
    adapter: Adapter
    strength: float
    base: Tensor | None
    """the module's weights, where the change depends on them"""

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in)"""
        return tuple(self.adapter.shape if self.base is None else self.base.shape)

    def update(self) -> Product | Tensor:
        """What it adds at strength 1."""
        return update_of(self.adapter, self.base)


def blended(blend: Blend, module: str, parts: Sequence[Part], rank: int | None) -> tuple[Adapter, Loss]:
    """What these make of a module together, in `rank` at the most where one is given, and what that loses.

    Norms have no rank: their changes are added as they are, and so are differences of whole weights where no rank is
    asked for.
    """
    adapters = [part.adapter for part in parts]
    _must_be_alike(module, parts)
    by_factors = isinstance(blend, OfFactors)
    whole = any(isinstance(one, Difference) for one in adapters) and by_factors and rank is None
    if whole or not is_matrix(adapters[0]):
        return _added(parts)
    if isinstance(blend, OfUpdates):
        total: Product | Tensor = _summed(blend, module, parts)
        most = rank or max((one.rank or 0 for one in adapters), default=0) or USUAL
    else:
        if blend.of_one_rank:
            _must_be_plain(module, parts)
        total = _exactly(blend, parts)
        most = min(rank or MAX_RANK, *total.shape)
    return lowered(total, module, adapters, most)


def lowered(update: Product | Tensor, module: str, adapters: Sequence[Adapter], most: int) -> tuple[LoraModule, Loss]:
    """An update as a plain LoRA of this rank at the most, and what that loses; one of lower rank stays what it is."""
    inside = inside_of(module, adapters, update.shape[1])
    if isinstance(update, Product) and update.rank <= most:
        return update.module(inside), Loss(update.rank, update.rank, update.norm(), 0.0)
    found = spectrum(update, most)
    kept = found.first(Limits(rank=most).count(found))
    return kept.product().module(inside), Loss(rank_of(update, found), len(kept.values), found.norm, kept.rest)


def rank_of(update: Product | Tensor, found: Spectrum) -> int:
    """How many singular values an update has; of one of which the largest alone were looked for, the most possible."""
    if isinstance(update, Product):
        return update.rank
    return min(update.shape) if found.rest else found.significant()


def _added(parts: Sequence[Part]) -> tuple[Difference, Loss]:
    """All of it, number by number."""
    total = torch.stack([part.strength * part.adapter.delta(part.base) for part in parts]).sum(0)
    norm = float(torch.linalg.vector_norm(total))
    for part in parts:
        if isinstance(part.adapter, Difference):
            return Difference(total.reshape(part.adapter.values.shape), part.adapter.role), Loss(0, 0, norm, 0.0)
    return Difference(total), Loss(0, 0, norm, 0.0)


def _exactly(blend: OfFactors, parts: Sequence[Part]) -> Product | Tensor:
    """The sum: its factors side by side where all of them have some, else all of it, in double."""
    updates = [part.update() for part in parts]
    strengths = [part.strength for part in parts]
    products = [one for one in updates if isinstance(one, Product)]
    if len(products) == len(updates):
        return Product(*blend.factors([one.left for one in products], [one.right for one in products], strengths))
    total = torch.zeros(updates[0].shape, dtype=torch.float64)
    for update, strength in zip(updates, strengths, strict=True):
        total += strength * (update.left @ update.right if isinstance(update, Product) else update)
    return total


def _summed(blend: OfUpdates, module: str, parts: Sequence[Part]) -> Tensor:
    updates = [one.matrix() if isinstance(one := part.update(), Product) else one for part in parts]
    drawn = [generator("blend", blend.start, module, number) for number in range(len(parts))]
    return blend.summed(updates, [part.strength for part in parts], drawn)


def _must_be_alike(module: str, parts: Sequence[Part]) -> None:
    """Stop where LoRAs change the module as if it had several shapes."""
    shapes = {part.told: part.shape for part in parts}
    for told, shape in shapes.items():
        first, expected = next(iter(shapes.items()))
        if shape != expected:
            raise LoraError(f"{told}: changes {module} as {shape}, but {first} as {expected}; give LoRAs for one model")


def _must_be_plain(module: str, parts: Sequence[Part]) -> None:
    """Stop at LoRAs whose matrices cannot be added."""
    first = parts[0]
    for part in parts:
        if not isinstance(part.adapter, LoraModule):
            raise LoraError(
                f"{part.told}: {module} is {part.adapter.one}, whose matrices cannot be added; use --method concat"
            )
        if part.adapter.rank != first.adapter.rank:
            raise LoraError(
                f"{part.told}: {module} has rank {part.adapter.rank}, but {first.told} has {first.adapter.rank}, so "
                "their matrices cannot be added; use --method concat"
            )
