"""Which shapes make a network at all, and the two factors that LoHa and LoKr are made of."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdtune.core.adapters.base import share_of

MAX_RANK = 1024
"""the largest that files may have"""
MOST = 2**28
"""numbers in one weight: the largest of the families are the words of T5, 32,128 x 4,096, half of it"""


def check_whole(kind: str, tensors: Mapping[str, Tensor], needed: Collection[str]) -> None:
    """Raises ValueError where a network lacks one of its tensors."""
    missing = sorted(set(needed) - set(tensors))
    if missing:
        told = " and ".join(sorted(tensors)) or "nothing"
        raise ValueError(f"has {told} without {' and '.join(missing)}, which is no whole {kind}")


def check_fit(
    kind: str, tensors: Mapping[str, Tensor], fit: bool, shape: Sequence[int], ranks: Sequence[int] = ()
) -> None:
    """Raises ValueError that names all shapes, unless they fit, make weights that can be and have ranks that can be."""
    possible = fit and all(1 <= rank <= MAX_RANK for rank in ranks) and 0 < math.prod(shape) <= MOST
    if not possible:
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in tensors.values())
        of_rank = f" of rank 1 to {MAX_RANK}" if ranks else ""
        raise ValueError(f"has shapes {shapes}, which make no {kind}{of_rank}")


@dataclass(frozen=True)
class Factors:
    """A matrix as a @ b, or for a convolution in Tucker's form with a core between the two."""

    a: Tensor
    """[out, rank], with a core [rank, out]"""
    b: Tensor
    """[rank, in], with a core [rank, in channels]"""
    core: Tensor | None = None
    """[rank, rank, k, k]"""

    @property
    def fits(self) -> bool:
        """Whether the shapes fit one another; the other properties are of those that do."""
        if self.a.ndim != 2 or self.b.ndim != 2:
            return False
        if self.core is None:
            return self.a.shape[1] == self.rank
        return self.core.ndim == 4 and self.core.shape[:2] == (self.rank, self.rank) and self.a.shape[0] == self.rank

    @property
    def rank(self) -> int:
        """Inner width."""
        return self.b.shape[0]

    @property
    def kernel(self) -> tuple[int, ...]:
        """(k, k) where there is a core."""
        return () if self.core is None else tuple(self.core.shape[2:])

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), flat."""
        return self.a.shape[0 if self.core is None else 1], self.b.shape[1] * math.prod(self.kernel)

    def matrix(self) -> Tensor:
        """[out, in], flat, in float32."""
        a, b = self.a.float(), self.b.float()
        if self.core is None:
            return a @ b
        return torch.einsum("rskl,ro,si->oikl", self.core.float(), a, b).flatten(1)

    def share(self, number: int, of: int) -> Factors:
        """One of so many equal shares of the outputs."""
        return Factors(share_of(self.a, number, of, 0 if self.core is None else 1), self.b, self.core)
