"""Every sampler, on data whose denoiser is known, ends where the data are; what is random in it is the picture's own.

The data are Gaussian: x_0 = mean + spread * noise, each number by itself. At x_t = alpha x_0 + sigma eps the best
prediction of x_0 is mean + gain (x_t - alpha mean) with gain = alpha spread^2 / (alpha^2 spread^2 + sigma^2).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from functools import cache

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Generator, Tensor

from sdtune.choices.samplers import DDIM, LCM, DPMpp2M, Euler, EulerAncestral, Heun, Sampler, is_flow
from tests.choices.samplers import KINDS, every_sampler, name_of

MEAN, SPREAD = 0.3, 0.6
SD = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "clip_sample": True,
}
BASES = {
    "epsilon": DDIMScheduler(**SD),
    "v": DDIMScheduler(**SD, prediction_type="v_prediction"),
    "v to noise alone": DDIMScheduler(
        **SD | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    ),
    "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
}
EVERY = [pytest.param(sampler, id=name_of(sampler)) for sampler in every_sampler()]


@cache
def log_levels(base: str) -> Tensor:
    """log(sigma / alpha) of each timestep of a discrete process."""
    alpha_squared = BASES[base].alphas_cumprod.double().clamp(min=2**-24)
    return ((1 - alpha_squared) / alpha_squared).sqrt().log()


def levels_at(base: str, timestep: float) -> tuple[float, float]:
    """(alpha, sigma), between timesteps too."""
    if base == "flow":
        return 1 - timestep / 1000, timestep / 1000
    known, low = log_levels(base), int(timestep)
    between = timestep - low
    level = math.exp((1 - between) * float(known[low]) + between * float(known[min(low + 1, len(known) - 1)]))
    return 1 / math.hypot(1, level), level / math.hypot(1, level)


def prediction(base: str, x_t: Tensor, timestep: float, *, distilled: bool) -> Tensor:
    """What a perfect denoiser says; a distilled one tells the end of the deterministic path in place of the mean."""
    alpha, sigma = levels_at(base, timestep)
    variance = (alpha * SPREAD) ** 2 + sigma**2
    gain = SPREAD / math.sqrt(variance) if distilled else alpha * SPREAD**2 / variance
    x_0 = MEAN + gain * (x_t - alpha * MEAN)
    eps = (x_t - alpha * x_0) / sigma
    if base == "flow":
        return eps - x_0
    return eps if base == "epsilon" else alpha * eps - sigma * x_0


def drawn(sampler: Sampler, base: str, steps: int, seeds: Sequence[int] = (1, 2), side: int = 64) -> Tensor:
    """[B, 4, side, side]"""
    scheduler = sampler.build(BASES[base], steps)
    generators = [Generator().manual_seed(seed) for seed in seeds]
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    latents = torch.stack([torch.randn((4, side, side), generator=one) for one in generators])
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    options = sampler.step_options(BASES[base])
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = generators
    for timestep in scheduler.timesteps:
        seen = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
        said = prediction(base, seen, float(timestep), distilled=isinstance(sampler, LCM))
        latents = scheduler.step(said, timestep, latents, return_dict=False, **options)[0]
    return latents


def errors(latents: Tensor) -> tuple[float, float]:
    """How far the mean and the spread are off, as shares of the spread."""
    return abs(float(latents.mean()) - MEAN) / SPREAD, abs(float(latents.std()) / SPREAD - 1)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("sampler", EVERY)
def test_every_sampler_ends_where_the_data_are_and_nearer_with_more_steps(sampler: Sampler, base: str) -> None:
    few, many = (errors(drawn(sampler, base, steps)) for steps in (10, 100))
    assert max(few) < 0.35
    assert many[0] < 0.04
    assert many[1] < (0.14 if getattr(sampler, "churn", 0) > 10 else 0.07)
    assert sum(many) < max(sum(few), 0.03)


@pytest.mark.parametrize("steps", [1, 2, 61, 125, 400, 1000])
@pytest.mark.parametrize("sampler", [pytest.param(kind(), id=name) for name, kind in KINDS.items()])
def test_any_number_of_steps_makes_numbers(sampler: Sampler, steps: int) -> None:
    for base in BASES if steps == 61 else ("epsilon", "flow"):
        latents = drawn(sampler, base, steps, side=8)
        assert latents.isfinite().all()
        assert steps < 60 or max(errors(latents)) < 0.15


@pytest.mark.parametrize("steps", [2, 25, 100, 125, 400, 999])
@pytest.mark.parametrize("sampler", [pytest.param(one, id=name_of(one)) for one in every_sampler() if one.any_spacing])
def test_the_steps_begin_near_noise_alone_and_end_near_none(sampler: Sampler, steps: int) -> None:
    scheduler = sampler.build(BASES["epsilon"], steps)
    scheduler.set_timesteps(steps)
    assert steps < 25 or scheduler.timesteps.max() >= 900
    assert scheduler.timesteps.min() >= 0


@pytest.mark.parametrize("sampler", EVERY)
def test_what_is_random_is_the_pictures_own(sampler: Sampler) -> None:
    for base in BASES:
        together = drawn(sampler, base, 7, seeds=(1, 2, 3), side=8)
        torch.testing.assert_close(drawn(sampler, base, 7, seeds=(2,), side=8)[0], together[1])
        torch.testing.assert_close(drawn(sampler, base, 7, seeds=(3, 2), side=8)[1], together[1])


def test_churn_and_eta_draw_another_picture_on_which_steps_leave_their_mark() -> None:
    for plain, stirred in ((Euler(), Euler(churn=20)), (DDIM(), DDIM(eta=1))):
        assert torch.equal(drawn(plain, "epsilon", 10, side=8), drawn(type(plain)(), "epsilon", 10, side=8))
        assert (drawn(stirred, "epsilon", 10, side=8) - drawn(plain, "epsilon", 10, side=8)).std() > 0.1


def test_as_much_noise_as_ddpm_makes_numbers_from_noise_alone() -> None:
    assert drawn(DDIM(eta=1), "v to noise alone", 25, side=8).isfinite().all()


def test_churn_of_a_hair_is_euler() -> None:
    torch.testing.assert_close(
        drawn(Euler(churn=1e-9), "v", 10, side=8), drawn(Euler(), "v", 10, side=8), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("base", ["epsilon", "v", "v to noise alone"])
@pytest.mark.parametrize("sampler", EVERY)
def test_every_sampler_keeps_the_levels_of_the_base_model_and_clips_nothing(sampler: Sampler, base: str) -> None:
    scheduler = BASES[base]
    built = sampler.build(scheduler)
    torch.testing.assert_close(built.alphas_cumprod, scheduler.alphas_cumprod, atol=1e-6, rtol=1e-3)
    assert built.config.prediction_type == scheduler.config.prediction_type
    reads_it = "clip_sample" in inspect.signature(type(built)).parameters
    assert not (reads_it and built.config.clip_sample)


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_what_a_config_leaves_out_is_as_the_base_model_takes_it(kind: type[Sampler]) -> None:
    base = DDIMScheduler()  # of other levels than LCM's own, and a linear schedule
    built = kind().build(base)
    assert "beta_schedule" in base.config["_use_default_values"]
    torch.testing.assert_close(built.alphas_cumprod, base.alphas_cumprod)


@pytest.mark.parametrize("sampler", EVERY)
def test_what_draws_a_flow_is_said_where_it_is_another(sampler: Sampler) -> None:
    flow, discrete = BASES["flow"], BASES["epsilon"]
    assert is_flow(flow)
    assert not is_flow(discrete)
    assert sampler.note_for(discrete) is None
    own = type(sampler.build(flow)) is type(flow)
    assert sampler.title_for(flow) == ("Euler" if own else sampler.title)
    meant = isinstance(sampler, DPMpp2M) or sampler == Euler()
    assert bool(sampler.note_for(flow)) == (own and not meant)
    assert sampler.schedule_for(flow) == ""
    assert sampler.details_for(flow) == {}
    assert sampler.build(flow).config.get("flow_shift", sampler.build(flow).config.get("shift")) == 3.0


def test_what_is_usual_on_a_flow_is_not_remarked_upon() -> None:
    flow = BASES["flow"]
    assert DPMpp2M().note_for(flow) is None
    assert Euler().note_for(flow) is None
    assert EulerAncestral().note_for(flow) == "SD3 is drawn with its own sampler, Euler on the flow"
    assert Euler(churn=3).note_for(flow) == "SD3 is drawn without churn, which Euler on the flow does not have"
    assert Heun().note_for(flow) is None


def test_a1111_knows_them_by_these_names() -> None:
    base = BASES["epsilon"]
    told = {name_of(one): (one.title_for(base), one.schedule_for(base)) for one in every_sampler()}
    assert told["dpm++2m"] == ("DPM++ 2M", "Karras")
    assert told["dpm++2m-karras-False"] == ("DPM++ 2M", "Uniform")
    assert told["dpm++2m-sde"] == ("DPM++ 2M SDE", "Karras")
    assert told["euler-a"] == ("Euler a", "Automatic")
    assert {kind: told[kind][0] for kind in ("ddim", "euler", "heun", "unipc", "lcm")} == {
        "ddim": "DDIM",
        "euler": "Euler",
        "heun": "Heun",
        "unipc": "UniPC",
        "lcm": "LCM",
    }
    assert Euler(churn=10).details_for(base) == {"Sigma churn": 10}
    assert DDIM(eta=0.5).details_for(base) == {"Eta DDIM": 0.5}
    assert Euler().details_for(base) == DDIM().details_for(base) == {}
