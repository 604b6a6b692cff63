"""Difference: the change of whole weights, number by number, as it is; LyCORIS' "full", and the scales of norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from sdtune.core.adapters.base import Adapter, flat, share_of
from sdtune.core.adapters.shapes import check_fit

WEIGHT, NORM = "diff", "w_norm"


@dataclass(frozen=True)
class Difference(Adapter):
    """What is added to one module, itself."""

    kind: ClassVar[str] = "difference"

    values: Tensor
    """in the weights' own shape"""
    role: str = WEIGHT
    """diff, or of a norm w_norm"""

    @classmethod
    @override
    def from_tensors(cls, tensors: Mapping[str, Tensor], alpha: float | None) -> Difference:
        if len(tensors) != 1 or not set(tensors) <= {WEIGHT, NORM}:
            raise ValueError(f"has {' and '.join(sorted(tensors)) or 'nothing'}, which is no {cls.kind} of weights")
        ((role, values),) = tensors.items()
        fit = values.ndim in ((1,) if role == NORM else (1, 2, 4))
        check_fit(cls.kind, tensors, fit, flat(values.shape) if fit else (0,), kernel=values.shape[2:])
        return cls(values, role)

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return flat(self.values.shape)

    @property
    @override
    def kernel(self) -> tuple[int, ...] | None:
        return tuple(self.values.shape[2:]) or None

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {self.role: self.values}

    @override
    def delta(self, base: Tensor | None = None) -> Tensor:
        return self.values.float().reshape(self.shape)

    @override
    def share(self, number: int, of: int) -> Difference:
        return Difference(share_of(self.values, number, of), self.role)
