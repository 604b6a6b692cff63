"""The noise process: what is mixed can be taken apart again, and its levels are those of diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from sdtune.core.diffusion import Process

PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}
LEVELS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def process(prediction: str, shift: float = 3.0) -> Process:
    if prediction == "flow":
        return Process.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=shift))
    return Process.from_scheduler(DDPMScheduler(**LEVELS, prediction_type=PREDICTIONS[prediction]))


def draws(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_0, noise = torch.randn(2, 2, 4, 8, 8, generator=generator, dtype=torch.float64)
    return x_0, noise


@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
@settings(max_examples=25, deadline=None)
@given(
    levels=st.lists(st.floats(0, 0.999, allow_subnormal=False), min_size=2, max_size=2),
    seed=st.integers(0, 100),
    shift=st.floats(0.5, 6),
)
def test_clean_latents_and_noise_come_back_from_noisy_latents_and_target(
    prediction: str, levels: list[float], seed: int, shift: float
) -> None:
    one = process(prediction, shift)
    x_0, noise = draws(seed)
    noisy = one.add_noise(x_0, noise, torch.tensor(levels))
    back, noise_back = one.recover(noisy, noisy.target)
    torch.testing.assert_close(back, x_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(noise_back, noise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_discrete_noise_and_targets_are_those_of_diffusers(prediction: str) -> None:
    x_0, noise = draws(0)
    noisy = process(prediction).add_noise(x_0, noise, torch.tensor([0.1, 0.9999]))
    assert noisy.timesteps.tolist() == [100, 999]
    theirs = DDPMScheduler(**LEVELS, prediction_type=PREDICTIONS[prediction])
    expected = theirs.add_noise(x_0, noise, noisy.timesteps)
    torch.testing.assert_close(noisy.latents, expected, rtol=1e-6, atol=1e-6)
    target = noise if prediction == "epsilon" else theirs.get_velocity(x_0, noise, noisy.timesteps)
    torch.testing.assert_close(noisy.target, target, rtol=1e-6, atol=1e-6)


def test_flow_is_a_straight_line_shifted_towards_noise() -> None:
    x_0, noise = draws(0)
    noisy = process("flow").add_noise(x_0, noise, torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(noisy.latents[0], x_0[0])
    sigma = 3 * 0.5 / (1 + 2 * 0.5)
    torch.testing.assert_close(noisy.latents[1], (1 - sigma) * x_0[1] + sigma * noise[1])
    torch.testing.assert_close(noisy.target, noise - x_0)
    assert noisy.timesteps.tolist() == [0, 1000 * sigma]


@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
def test_levels_run_from_clean_to_noise(prediction: str) -> None:
    alpha, sigma, _ = process(prediction).levels(torch.linspace(0, 0.9999, 50))
    assert bool((alpha.diff() < 0).all())
    assert bool((sigma.diff() > 0).all())
    if prediction != "flow":
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
