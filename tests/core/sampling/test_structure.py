"""Structure: coarse shapes are those of the picture, and all finer ones are left as they were."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

from sdtune.core.sampling.structure import CELL, coarse, hold

KINDS = ["epsilon", "v_prediction", "flow_prediction"]


def scheduler(kind: str) -> SimpleNamespace:
    return SimpleNamespace(config={"prediction_type": kind} if kind != "flow_prediction" else {})


def normal(seed: int, side: int = 8) -> Tensor:
    return torch.randn(2, 4, side, side + 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def says(kind: str, x_0: Tensor, eps: Tensor, level: tuple[float, float]) -> Tensor:
    """What a denoiser answers that knows x_0."""
    alpha, sigma = level
    length = (alpha**2 + sigma**2) ** 0.5
    return {"epsilon": eps, "v_prediction": (alpha * eps - sigma * x_0) / length, "flow_prediction": eps - x_0}[kind]


def in_palette_of(shapes: Tensor, other: Tensor) -> Tensor:
    """Channel by channel, with the other's mean and spread."""
    told = torch.empty_like(shapes)
    for image in range(len(shapes)):
        for channel in range(shapes.shape[1]):
            one, two = shapes[image, channel], other[image, channel]
            told[image, channel] = (one - one.mean()) / one.std() * two.std() + two.mean()
    return told


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(sigma=some.floats(0.01, 0.99), scale=some.sampled_from([1.0, 1.7, 14.0]), seed=some.integers(0, 100))
def test_x_0_has_the_coarse_shapes_of_the_picture_and_its_own_fine_ones(
    kind: str, sigma: float, scale: float, seed: int
) -> None:
    """At levels of flows, of diffusion as it preserves the variance, and as Euler scales it."""
    alpha = 1 - sigma if kind == "flow_prediction" else (1 - sigma**2) ** 0.5
    level = (alpha, sigma) if kind == "flow_prediction" else (alpha * scale, sigma * scale)
    x_0, eps, clean = normal(seed), normal(seed + 1), normal(seed + 2)
    x_t = level[0] * x_0 + level[1] * eps
    held = hold(says(kind, x_0, eps, level), x_t, clean, level, scheduler(kind))
    wanted = x_0 - coarse(x_0) + in_palette_of(coarse(clean), coarse(x_0))
    told = says(kind, wanted, (x_t - level[0] * wanted) / level[1], level)
    assert torch.allclose(held, told, atol=1e-8)


@pytest.mark.parametrize("contrast", [1.0, 0.3])
def test_a_prediction_with_those_shapes_already_stays_whatever_its_colours(contrast: float) -> None:
    clean, eps, level = normal(0), normal(1), (0.6, 0.8)
    x_0 = contrast * clean + 0.7
    said = says("epsilon", x_0, eps, level)
    held = hold(said, level[0] * x_0 + level[1] * eps, clean, level, scheduler("epsilon"))
    assert torch.allclose(held, said)


@pytest.mark.parametrize("size", [(8, 8), (1, 1)])
def test_a_picture_of_one_colour_gives_numbers(size: tuple[int, int]) -> None:
    x_t, even = torch.randn(1, 4, *size), torch.full((1, 4, *size), 0.3)
    assert hold(x_t, x_t, even, (0.6, 0.8), scheduler("epsilon")).isfinite().all()


@pytest.mark.parametrize("side", [1, 7, 8, 16])
def test_coarse_shapes_keep_what_is_even_and_lose_what_is_fine(side: int) -> None:
    even = torch.full((1, 4, side, side), 3.0)
    assert torch.allclose(coarse(even), even)
    if side % CELL == 0:
        fine = torch.ones(1, 4, side, side)
        fine[..., ::2] = -1
        assert coarse(fine).abs().max() < 1e-6
