"""The filter of copies: which directions of an update the base's principal ones explain, and which are damped."""

from __future__ import annotations

import torch
from torch import Tensor

from sdtune.core.low_rank import Spectrum, spectrum
from sdtune.core.memorisation import alignment, filtered

SIZE = 32


def axes(*of: int) -> Tensor:
    return torch.eye(SIZE)[list(of)]


def base() -> Tensor:
    """Weights whose principal eighth are the first four axes."""
    return torch.diag(torch.linspace(10, 1, SIZE))


def update(values: Tensor, *of: int) -> Spectrum:
    """Of singular directions along these axes."""
    return spectrum((axes(*of).T * values) @ axes(*of))


def test_directions_in_the_principal_subspace_are_aligned_and_others_are_not() -> None:
    found = alignment(update(torch.tensor([3.0, 2.0, 1.0]), 0, 20, 3), base())
    assert torch.allclose(found[:3].float(), torch.tensor([1.0, 0.0, 1.0]), atol=1e-5)


def test_one_side_alone_is_not_enough() -> None:
    across = spectrum(torch.outer(axes(0)[0], axes(20)[0]))
    assert alignment(across.first(1), base())[0] < 1e-5


def test_more_strength_damps_more_and_only_the_weak() -> None:
    between = (axes(1)[0] + axes(20)[0]) / 2**0.5
    matrix = 4 * torch.outer(axes(0)[0], axes(0)[0]) + 3 * torch.outer(between, between)
    matrix = matrix + 2 * torch.outer(axes(30)[0], axes(30)[0])
    found, last = spectrum(matrix).first(3), torch.full((3,), torch.inf, dtype=torch.float64)
    for strength in (0.0, 0.25, 0.5, 0.75, 1.0):
        damped, before = filtered(found, base(), strength)
        by_size = before.argsort(descending=True)
        values = damped.values[by_size]
        assert torch.allclose(values, torch.tensor([4.0, 3 - 1.5 * strength, 2 - 2 * strength]).double(), atol=1e-4)
        assert (values <= last).all()
        assert (damped.values.diff() <= 0).all(), "the largest first"
        last = values


def test_directions_that_are_all_alike_stay() -> None:
    found = update(torch.tensor([2.0, 1.0]), 0, 1).first(2)
    damped, _ = filtered(found, base(), 1.0)
    assert torch.allclose(damped.values, found.values)
    one, _ = filtered(found.first(1), base(), 1.0)
    assert torch.equal(one.values, found.values[:1])
