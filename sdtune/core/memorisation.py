"""Copies of training images are looked for among the directions of an update in which the base does little.

After Base-Anchored Filtering (Zhe et al. 2026, arXiv:2605.10439): the update of a module is taken apart into singular
directions, dW = sum s_i u_i v_i^T; those that lie in the principal subspace of the base's weights are taken for what
generalises, those that do not for what was learned by heart. The paper's abstract says so much; the rule is ours:

    a_i = |P^T u_i| |Q^T v_i|            how much of a direction lies in the subspace, 0 to 1
    w_i = (max a - a_i) / (max a - min a)       how weakly, among the module's own: 0 the most, 1 the least aligned
    s_i' = s_i (1 - x w_i)

with P and Q the first eighth of the singular vectors of the module's weights W, and 0 <= x <= 1 the strength of the
filter. So x = 0 changes nothing, and x = 1 takes away the least aligned direction of each module, all of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdtune.core.low_rank import Spectrum, directions

PRINCIPAL = 1 / 8
"""of the base's singular vectors, the first ones"""
ALIKE = 1e-6
"""difference of alignments that is but rounding"""


def alignment(update: Spectrum, base: Tensor) -> Tensor:
    """a_i [n] of each singular direction of an update to weights [out, in]."""
    principal = directions(base, math.ceil(PRINCIPAL * min(base.shape)))
    left: Tensor = torch.linalg.vector_norm(principal.left.T @ update.left, dim=0)
    right: Tensor = torch.linalg.vector_norm(principal.right @ update.right.T, dim=0)
    return left * right


def filtered(update: Spectrum, base: Tensor, strength: float) -> tuple[Spectrum, Tensor]:
    """The update with weakly aligned directions damped, and what the values were before, in its order."""
    aligned = alignment(update, base)
    apart = aligned.max() - aligned.min()
    weakness = (aligned.max() - aligned) / apart if apart > ALIKE else torch.zeros_like(aligned)
    values = update.values * (1 - strength * weakness)
    order = values.argsort(descending=True, stable=True)
    damped = Spectrum(update.left[:, order], values[order], update.right[order], update.rest)
    return damped, update.values[order]
