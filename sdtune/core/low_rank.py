"""Singular values of what a LoRA adds: W changes by U diag(s) V, of which the largest s are kept.

The best change of rank n are the first n terms, and what is lost is the root of the sum of the others' squares (Eckart
& Young 1936). A product up @ down is taken apart without being made out: both are Q R, and R R' is rank x rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdtune.core.adapters import LoraModule
from sdtune.core.adapters.shapes import MAX_RANK
from sdtune.core.draws import generator

NOTHING = 1e-6
"""singular values that are so many times smaller than the largest are rounding"""
MORE = 32
"""directions that are drawn beyond those asked for"""
LARGE = 2048
"""shorter side of a matrix of which even half of the values are found sooner by drawn directions than all of them"""
POWERS = 4
"""times that drawn directions are put through the matrix and back"""


@dataclass(frozen=True)
class Product:
    """An update that is not made out: left @ right."""

    left: Tensor
    """[out, n], double"""
    right: Tensor
    """[n, in], double, of a convolution [n, in x k x k]"""

    @property
    def rank(self) -> int:
        """The inner width."""
        return self.right.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)"""
        return self.left.shape[0], self.right.shape[1]

    def matrix(self) -> Tensor:
        """Made out after all, [out, in] in float32."""
        return (self.left @ self.right).float()

    def norm(self) -> float:
        """Frobenius norm, by matrices of n x n: |L R|^2 = tr(L^T L R R^T)."""
        return math.sqrt(max(float(((self.left.T @ self.left) * (self.right @ self.right.T)).sum()), 0.0))

    def module(self, inside: tuple[int, ...]) -> LoraModule:
        """The same as a plain LoRA of alpha = rank, in float32.

        `inside` is the shape of an input: (in,), of a convolution (in, k, k).
        """
        outside = (1, 1) if len(inside) == 3 else ()
        down = self.right.float().reshape(self.rank, *inside).contiguous()
        up = self.left.float().reshape(-1, self.rank, *outside).contiguous()
        return LoraModule(down, up, float(self.rank))


@dataclass(frozen=True)
class Spectrum:
    """An update as U diag(s) V, in double precision."""

    left: Tensor
    """U [out, n]; of each column the largest number is positive, so that the same update has the same U"""
    values: Tensor
    """s [n], the largest first"""
    right: Tensor
    """V [n, in]"""
    rest: float = 0.0
    """Frobenius norm of what is not in it"""

    @property
    def norm(self) -> float:
        """Frobenius norm of the whole update."""
        return math.hypot(float(torch.linalg.vector_norm(self.values)), self.rest)

    def first(self, count: int) -> Spectrum:
        """The largest alone; the others are in the rest."""
        gone = float(torch.linalg.vector_norm(self.values[count:]))
        return Spectrum(self.left[:, :count], self.values[:count], self.right[:count], math.hypot(gone, self.rest))

    def significant(self) -> int:
        """How many of the values are more than rounding; 1 at the least."""
        return max(1, int((self.values > NOTHING * self.values[0]).sum()))

    def product(self) -> Product:
        """The root of s on both sides."""
        roots = self.values.sqrt()
        return Product(self.left * roots, self.right * roots[:, None])


@dataclass(frozen=True)
class Limits:
    """How many singular values are kept; what is None does not limit."""

    rank: int | None = None
    share: float | None = None
    """of the Frobenius norm"""
    ratio: float | None = None
    """of the largest to the smallest that is kept"""

    def count(self, spectrum: Spectrum) -> int:
        """How many of an update's; 1 at the least, and never what is but rounding."""
        values = spectrum.values
        counts = [spectrum.significant(), self.rank or MAX_RANK, MAX_RANK]
        if self.share is not None:
            squares = values.square().cumsum(0)
            enough = self.share**2 * spectrum.norm**2 * (1 - 1e-12)  # rounding of a sum of squares
            counts.append(int((squares < enough).sum()) + 1)
        if self.ratio is not None:
            counts.append(int((values * self.ratio >= values[0]).sum()))
        return max(1, min(counts))


def spectrum(update: Product | Tensor, most: int | None = None) -> Spectrum:
    """The singular values of an update, all of them, or the largest `most` at least; a matrix is [out, in]."""
    if isinstance(update, Product):
        left, upper = torch.linalg.qr(update.left)
        right, lower = torch.linalg.qr(update.right.T)
        inner, values, outer = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        return _signed(left @ inner, values, outer @ right.T)
    if most is not None and (4 if min(update.shape) < LARGE else 2) * (most + MORE) <= min(update.shape):
        return _largest(update, most + MORE)
    matrix = update.double()
    if matrix.shape[0] > matrix.shape[1]:
        turned = _wide(matrix.T)
        return _signed(turned.right.T, turned.values, turned.left.T)
    found = _wide(matrix)
    return _signed(found.left, found.values, found.right)


def singular_values(update: Product | Tensor) -> Tensor:
    """All of them alone, which takes a third of the time; of a matrix those under 1e-8 of the largest are rounding."""
    if isinstance(update, Product):
        upper = torch.linalg.qr(update.left, mode="r").R
        lower = torch.linalg.qr(update.right.T, mode="r").R
        values: Tensor = torch.linalg.svdvals(upper @ lower.T)
        return values
    matrix = update.double()
    squares = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    found: Tensor = torch.linalg.eigvalsh(squares)
    return found.flip(0).clamp_min(0).sqrt()


def directions(matrix: Tensor, count: int) -> Spectrum:
    """The largest `count` singular values of a matrix, near enough to say where most of it lies."""
    return spectrum(matrix, count).first(count)


def _wide(matrix: Tensor) -> Spectrum:
    """Of a matrix with no more rows than columns by the eigenvectors of M M^T, five times as fast as by its own SVD.

    In double precision that tells values of 1e-8 of the largest from nothing, and float32 has no finer ones.
    """
    _, left = torch.linalg.eigh(matrix @ matrix.T)
    left = left.flip(1)
    right = left.T @ matrix  # exact whatever left's own error, since left is orthogonal
    values = torch.linalg.vector_norm(right, dim=1)
    order = values.argsort(descending=True, stable=True)
    values = values[order]
    return Spectrum(left[:, order], values, right[order] / values.clamp_min(torch.finfo(values.dtype).tiny)[:, None])


def _largest(matrix: Tensor, count: int) -> Spectrum:
    """The largest by random directions (Halko et al. 2011, arXiv:0909.4061, algorithms 4.4 and 5.1).

    The same matrix draws the same directions. What they miss is measured, not estimated.
    """
    matrix = matrix.float()
    drawn = torch.randn(matrix.shape[1], count, generator=generator("low rank", *matrix.shape, count))
    found = torch.linalg.qr(matrix @ drawn)[0]
    for _ in range(POWERS):
        found = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ found)[0])[0]
    inside = found.T @ matrix
    rest = float(torch.linalg.vector_norm(matrix - found @ inside, dtype=torch.float64))
    part = _wide(inside.double())
    signed = _signed(found.double() @ part.left, part.values, part.right)
    return Spectrum(signed.left, signed.values, signed.right, rest)


def _signed(left: Tensor, values: Tensor, right: Tensor) -> Spectrum:
    """With the largest number of each column of U positive."""
    signs = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()
    signs = torch.where(signs == 0, torch.ones_like(signs), signs)
    return Spectrum(left * signs, values, right * signs.T)
