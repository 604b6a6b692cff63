"""LoKr: the Kronecker product of two matrices, each whole or as a product (Yeh et al. 2023, arXiv:2309.14859).

The change is scale x w1 (x) w2, the scale alpha / rank where one of the two is a product, and 1 where both are whole;
of two products w2's rank counts (LyCORIS, lycoris/modules/lokr.py; ComfyUI, comfy/weight_adapter/lokr.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sdtune.core.adapters.base import Adapter, flat
from sdtune.core.adapters.difference import Difference
from sdtune.core.adapters.shapes import Factors, check_fit, check_whole


@dataclass(frozen=True)
class LokrModule(Adapter):
    """What a LoKr adds to one module."""

    kind: ClassVar[str] = "LoKr"

    first: Tensor | Factors
    """[a, b]"""
    second: Tensor | Factors
    """[c, d] or of a convolution [c, d, k, k], so that the weights are [ac, bd, k, k]"""
    alpha: float

    @classmethod
    @override
    def from_tensors(cls, tensors: Mapping[str, Tensor], alpha: float | None) -> LokrModule:
        first, second = (_factor(number, tensors) for number in (1, 2))
        fit = _fits(first, (2,)) and _fits(second, (2, 4))
        ranks = [one.rank for one in (second, first) if isinstance(one, Factors) and fit]
        check_fit(cls.kind, tensors, fit, [*_shape(first), *_shape(second)] if fit else (), ranks)
        usual = ranks[0] if ranks else 1
        return cls(first, second, usual if alpha is None else alpha)

    @property
    @override
    def rank(self) -> int | None:
        """Of the factor that is a product, the second where both are."""
        return next((one.rank for one in (self.second, self.first) if isinstance(one, Factors)), None)

    @property
    @override
    def shape(self) -> tuple[int, int]:
        (a, b), (c, d) = _shape(self.first), _shape(self.second)
        return a * c, b * d

    @override
    def tensors(self) -> dict[str, Tensor]:
        found = {"alpha": torch.tensor(self.alpha, dtype=torch.float64)}
        for name, one in (("lokr_w1", self.first), ("lokr_w2", self.second)):
            if isinstance(one, Factors):
                found |= {f"{name}_a": one.a, f"{name}_b": one.b}
                found |= {} if one.core is None else {"lokr_t2": one.core}
            else:
                found[name] = one
        return found

    @override
    def delta(self, base: Tensor | None = None) -> Tensor:
        scale = 1.0 if self.rank is None else self.alpha / self.rank
        return scale * torch.kron(_matrix(self.first), _matrix(self.second))

    @override
    def share(self, number: int, of: int) -> Difference:
        """A difference, as the factors' outputs are interwoven."""
        return Difference(self.delta()).share(number, of)


def _factor(number: int, tensors: Mapping[str, Tensor]) -> Tensor | Factors:
    """Of the first or second matrix what the file has."""
    name = f"lokr_w{number}"
    if name in tensors:
        twice = {f"{name}_a", f"{name}_b"} & set(tensors)
        if twice:
            raise ValueError(f"has {name} as well as {min(twice)}, which are two tellings of one LoKr")
        return tensors[name]
    check_whole("LoKr", tensors, (f"{name}_a", f"{name}_b"))
    return Factors(tensors[f"{name}_a"], tensors[f"{name}_b"], tensors.get("lokr_t2") if number == 2 else None)


def _fits(factor: Tensor | Factors, dimensions: tuple[int, ...]) -> bool:
    return factor.fits if isinstance(factor, Factors) else factor.ndim in dimensions


def _shape(factor: Tensor | Factors) -> tuple[int, int]:
    return factor.shape if isinstance(factor, Factors) else flat(factor.shape)


def _matrix(factor: Tensor | Factors) -> Tensor:
    return factor.matrix() if isinstance(factor, Factors) else factor.float().flatten(1)
