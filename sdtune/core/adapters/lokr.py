"""LoKr: the Kronecker product of two matrices, each whole or as a product (Yeh et al. 2023, arXiv:2309.14859).

The change is scale x w1 (x) w2, the scale alpha / rank where one of the two is a product, and 1 where both are whole;
of two products w2's rank counts (LyCORIS, lycoris/modules/lokr.py; ComfyUI, comfy/weight_adapter/lokr.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sdtune.core.adapters.base import Adapter, flat, share_of
from sdtune.core.adapters.difference import WEIGHT
from sdtune.core.adapters.shapes import MOST_MADE, Factors, check_fit, check_whole, is_low


@dataclass(frozen=True)
class LokrModule(Adapter):
    """What a LoKr adds to one module."""

    kind: ClassVar[str] = "LoKr"

    first: Tensor | Factors
    """[a, b]"""
    second: Tensor | Factors
    """[c, d] or of a convolution [c, d, k, k], so that the weights are [ac, bd, k, k]"""
    alpha: float
    part: tuple[int, int] = (0, 1)
    """(number, of): which of so many equal shares of the outputs it is; of such a one no two factors may be left"""

    @classmethod
    @override
    def from_tensors(cls, tensors: Mapping[str, Tensor], alpha: float | None) -> LokrModule:
        first, second = (_factor(number, tensors) for number in (1, 2))
        fit = _fits(first, (2,)) and _fits(second, (2, 4))
        ranks = [one.rank for one in (second, first) if isinstance(one, Factors) and fit]
        made = cls(first, second, 1.0)
        shape, kernel = (made.shape, made.kernel) if fit else ((0,), None)
        check_fit(cls.kind, tensors, fit, shape, ranks, kernel=kernel, most=MOST_MADE)
        usual = ranks[0] if ranks else 1
        return cls(first, second, usual if alpha is None else alpha)

    @property
    @override
    def rank(self) -> int | None:
        """Of the factor that is a product, the second where both are."""
        return next((one.rank for one in (self.second, self.first) if isinstance(one, Factors)), None)

    @property
    def scale(self) -> float:
        """alpha / rank, 1 without a rank."""
        return 1.0 if self.rank is None else self.alpha / self.rank

    @property
    @override
    def shape(self) -> tuple[int, int]:
        (a, b), (c, d) = _shape(self.first), _shape(self.second)
        return a * c // self.part[1], b * d

    @property
    @override
    def kernel(self) -> tuple[int, ...] | None:
        kernel = self.second.kernel if isinstance(self.second, Factors) else tuple(self.second.shape[2:])
        return kernel or None

    @override
    def tensors(self) -> dict[str, Tensor]:
        """A share of the outputs is told whole."""
        if self.part[1] > 1:
            return {WEIGHT: self.delta()}
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
        return self.scale * self._rows(_matrix(self.first), _matrix(self.second))

    @override
    def factors(self) -> tuple[Tensor, Tensor] | None:
        """(a b) (x) (c d) = (a (x) c) (b (x) d); of a whole matrix one of the two is the identity."""
        if not is_low(_inner(self.first) * _inner(self.second), self.shape):
            return None
        (a, b), (c, d) = _sides(self.first), _sides(self.second)
        return self.scale * self._rows(a, c), torch.kron(b, d)

    @override
    def share(self, number: int, of: int) -> LokrModule:
        """Of the first factor's outputs, or where these are no equal shares, of both as they are interwoven."""
        if self.part[1] == 1 and _shape(self.first)[0] % of == 0:
            first = (
                self.first.share(number, of) if isinstance(self.first, Factors) else share_of(self.first, number, of)
            )
            return replace(self, first=first)
        if self.shape[0] % of:
            raise ValueError(f"has {self.shape[0]} outputs, which does not make {of} equal layers")
        return replace(self, part=(self.part[0] * of + number, self.part[1] * of))

    def matrices(self) -> tuple[Tensor, Tensor] | None:
        """The two whose Kronecker product the delta is, None of a share of it."""
        return None if self.part[1] > 1 else (self.scale * _matrix(self.first), _matrix(self.second))

    def _rows(self, first: Tensor, second: Tensor) -> Tensor:
        """The outputs of the share in the Kronecker product, of which no more is made than has to be."""
        each = len(second)
        begin = self.part[0] * self.shape[0]
        above = begin // each
        blocks = first[above : -(-(begin + self.shape[0]) // each)]
        return torch.kron(blocks, second)[begin - above * each :][: self.shape[0]]


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


def _inner(factor: Tensor | Factors) -> int:
    """How wide a product of the matrix is inside."""
    return min(*_shape(factor), *([factor.rank] if isinstance(factor, Factors) else []))


def _sides(factor: Tensor | Factors) -> tuple[Tensor, Tensor]:
    """[out, n] and [n, in] in double, whose product is the matrix, n being its rank at the most."""
    if isinstance(factor, Factors) and factor.rank <= min(factor.shape):
        left, right = factor.sides()
        return left.double(), right.double()
    whole = _matrix(factor).double()
    identity = torch.eye(min(whole.shape), dtype=torch.float64)
    return (identity, whole) if whole.shape[0] <= whole.shape[1] else (whole, identity)
