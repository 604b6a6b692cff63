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
MAX_KERNEL = 7
"""side of a convolution's kernel, that of the families is 3 at the most"""
SHORTER, LONGER = 2**12, 2**16
"""sides of one weight [out, in]: the shorter is 4,096 in T5, the longer 49,408 in the words of CLIP"""
MOST = 2**28
"""numbers in one weight: the largest of the families are the words of T5, 32,128 x 4,096, half of it"""
MOST_MADE = 2**26
"""in one that is made out of far fewer: the largest of the families' layers is 4,096 x 10,240, in T5"""


def check_whole(kind: str, tensors: Mapping[str, Tensor], needed: Collection[str]) -> None:
    """Raises ValueError where a network lacks one of its tensors."""
    missing = sorted(set(needed) - set(tensors))
    if missing:
        told = " and ".join(sorted(tensors)) or "nothing"
        raise ValueError(f"has {told} without {' and '.join(missing)}, which is no whole {kind}")


def check_fit(
    kind: str,
    tensors: Mapping[str, Tensor],
    fit: bool,
    shape: Sequence[int],
    ranks: Sequence[int] = (),
    *,
    kernel: Sequence[int] | None = None,
    most: int = MOST,
) -> None:
    """Raises ValueError that names all shapes, unless they fit, make weights that can be and have ranks that can be.

    `shape` is that of the weights, flat, `most` how many numbers they may have, `kernel` that of a convolution.
    """
    possible = fit and all(1 <= rank <= MAX_RANK for rank in ranks) and 0 < math.prod(shape) <= most
    possible = possible and min(shape) <= SHORTER and max(shape) <= LONGER
    if kernel:
        possible = possible and min(kernel) == max(kernel) <= MAX_KERNEL
    if not possible:
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in tensors.values())
        of_rank = f" of rank 1 to {MAX_RANK}" if ranks else ""
        raise ValueError(f"has shapes {shapes}, which make no {kind}{of_rank}")


def is_low(rank: int, shape: Sequence[int]) -> bool:
    """Whether a product of this inner width takes less work than the weights that it makes."""
    return 4 * rank <= min(shape)


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

    def sides(self) -> tuple[Tensor, Tensor]:
        """[out, rank] and [rank, in], flat, in float32, whose product is the matrix."""
        a, b = self.a.float(), self.b.float()
        if self.core is None:
            return a, b
        return a.T.contiguous(), torch.einsum("rskl,si->rikl", self.core.float(), b).flatten(1)

    def matrix(self) -> Tensor:
        """[out, in], flat, in float32."""
        left, right = self.sides()
        return left @ right

    def share(self, number: int, of: int) -> Factors:
        """One of so many equal shares of the outputs."""
        return Factors(share_of(self.a, number, of, 0 if self.core is None else 1), self.b, self.core)
