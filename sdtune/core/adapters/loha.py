"""LoHa: the product, number by number, of two LoRAs (Hyeon-Woo et al. 2021, FedPara, arXiv:2108.06098).

The change is alpha / rank x (w1_a @ w1_b) * (w2_a @ w2_b); of convolutions the two may be in Tucker's form, t1 and t2
being their cores (LyCORIS, lycoris/functional/loha.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sdtune.core.adapters.base import Adapter
from sdtune.core.adapters.shapes import MOST_MADE, Factors, check_fit, check_whole, is_low

ROLES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
CORES = ("hada_t1", "hada_t2")


@dataclass(frozen=True)
class LohaModule(Adapter):
    """What a LoHa adds to one module."""

    kind: ClassVar[str] = "LoHa"

    first: Factors
    second: Factors
    alpha: float

    @classmethod
    @override
    def from_tensors(cls, tensors: Mapping[str, Tensor], alpha: float | None) -> LohaModule:
        has_cores = any(role in tensors for role in CORES)
        check_whole(cls.kind, tensors, ROLES + (CORES if has_cores else ()))
        first, second = (
            Factors(tensors[f"hada_w{n}_a"], tensors[f"hada_w{n}_b"], tensors.get(f"hada_t{n}")) for n in (1, 2)
        )
        fit = first.fits and second.fits and first.shape == second.shape and first.kernel == second.kernel
        shape, ranks = (first.shape, (first.rank, second.rank)) if fit else ((0, 0), (0,))
        check_fit(cls.kind, tensors, fit, shape, ranks, kernel=first.kernel, most=MOST_MADE)
        return cls(first, second, first.rank if alpha is None else alpha)

    @property
    @override
    def rank(self) -> int:
        """Of the first of the two; that of the change is up to the product of both."""
        return self.first.rank

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return self.first.shape

    @property
    @override
    def kernel(self) -> tuple[int, ...] | None:
        return self.first.kernel or None

    @override
    def tensors(self) -> dict[str, Tensor]:
        found = {"alpha": torch.tensor(self.alpha, dtype=torch.float64)}
        for number, one in ((1, self.first), (2, self.second)):
            found |= {f"hada_w{number}_a": one.a, f"hada_w{number}_b": one.b}
            found |= {} if one.core is None else {f"hada_t{number}": one.core}
        return found

    @override
    def delta(self, base: Tensor | None = None) -> Tensor:
        return self.alpha / self.rank * self.first.matrix() * self.second.matrix()

    @override
    def factors(self) -> tuple[Tensor, Tensor] | None:
        """sum_r a_r b_r * sum_s c_s d_s = sum_rs (a_r * c_s) (b_r * d_s)"""
        if not is_low(self.first.rank * self.second.rank, self.shape):
            return None
        (a, b), (c, d) = ([side.double() for side in one.sides()] for one in (self.first, self.second))
        left = (a[:, :, None] * c[:, None, :]).flatten(1)
        return self.alpha / self.rank * left, (b[:, None] * d[None]).flatten(0, 1)

    @override
    def share(self, number: int, of: int) -> LohaModule:
        return LohaModule(self.first.share(number, of), self.second.share(number, of), self.alpha)
