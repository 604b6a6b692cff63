"""Every choice is tested by being there: it has its words, its kind, and does what its sentence says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdtune.choices.losses import MSE, Huber
from sdtune.choices.networks import LoRA
from sdtune.choices.noises import Gaussian, Offset
from sdtune.choices.schedules import Constant, Cosine
from sdtune.choices.spec import Spec, kinds_of
from sdtune.choices.timesteps import LogitNormal, Stratified, Uniform
from sdtune.choices.weightings import Flat, MinSNR
from sdtune.config import Sample, TrainLora
from sdtune.core.draws import Draws

CHOICES: dict[str, dict[str, type[Spec]]] = {
    name: kinds
    for spec in (TrainLora, Sample)
    for name, field in spec.model_fields.items()
    if (kinds := kinds_of(field))
}
EVERY = [pytest.param(name, cls, id=f"{name}-{kind}") for name, kinds in CHOICES.items() for kind, cls in kinds.items()]


@pytest.mark.parametrize(("name", "cls"), EVERY)
def test_every_kind_says_what_it_is(name: str, cls: Any) -> None:
    settings = cls()
    assert CHOICES[name][settings.kind] is cls
    assert settings.kind == settings.kind.lower()
    assert cls.__doc__.strip().endswith(".")
    assert all(field.description for key, field in cls.model_fields.items() if key != "kind")


def draws(count: int, step: int = 0) -> Draws:
    return Draws(5, step, range(count), count)


@pytest.mark.parametrize("cls", CHOICES["optimizer"].values(), ids=lambda cls: cls.__name__)
def test_every_optimizer_goes_downhill(cls: Any) -> None:
    weights = torch.nn.Parameter(torch.full((64, 128), 3.0))
    optimizer = cls().build([weights], 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (weights**2).sum().backward()
        optimizer.step()
    assert weights.abs().max() < 0.3
    assert cls().rate(4) == pytest.approx(2e-4)
    assert cls(lr=0.5).rate(4) == 0.5


def test_weight_decay_reaches_every_optimizer() -> None:
    for cls in CHOICES["optimizer"].values():
        weights = torch.nn.Parameter(torch.ones(64, 128))
        optimizer = cls(weight_decay=0.5).build([weights], 0.1)  # type: ignore[call-arg, attr-defined]
        weights.grad = torch.zeros_like(weights)
        optimizer.step()
        assert torch.allclose(weights, torch.tensor(0.95))


steps = st.integers(1, 5000)
shares = st.floats(0, 0.99)


@given(steps, shares, st.floats(0, 1), st.data())
def test_schedules_rise_once_and_stay_in_range(of: int, warmup: float, floor: float, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, of - 1))
    rising = min(warmup * of, 100)
    for schedule in (Constant(warmup=warmup), Cosine(warmup=warmup, floor=floor)):
        factor = schedule(step, of)
        assert 0 < factor <= 1 or (factor >= floor and isinstance(schedule, Cosine))
        if step + 1 < rising:
            assert factor == pytest.approx((step + 1) / rising)
    assert step + 1 < rising or Constant(warmup=warmup)(step, of) == 1
    falling = [Cosine(warmup=warmup, floor=floor)(one, of) for one in range(math.ceil(rising), of)]
    assert falling == sorted(falling, reverse=True)


def test_the_cosine_begins_full_and_ends_at_its_floor() -> None:
    schedule = Cosine(warmup=0, floor=0.1)
    assert schedule(0, 1000) == 1
    assert schedule(500, 1000) == pytest.approx(0.55)
    assert schedule(999, 1000) == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("cls", [Stratified, Uniform, LogitNormal])
def test_timesteps_stay_in_range_whatever_the_split(cls: Any) -> None:
    whole = cls().sample(draws(8))
    assert whole.shape == (8,)
    assert 0 <= whole.min() <= whole.max() < 1
    parts = [cls().sample(Draws(5, 0, slots, 8)) for slots in (range(3), range(3, 8))]
    assert torch.equal(torch.cat(parts), whole)


def test_stratified_timesteps_leave_no_gap() -> None:
    told = torch.cat([Stratified().sample(draws(4, step)) for step in range(50)]).sort().values
    gaps = torch.diff(torch.cat([told, told[:1] + 1]))
    assert gaps.max() < 3 / 200


def test_logit_normal_timesteps_lean_as_told() -> None:
    middle = LogitNormal().sample(draws(2000))
    assert abs(middle.median() - 0.5) < 0.05
    assert 0.6 < ((middle > 0.27) & (middle < 0.73)).double().mean() < 0.76  # one standard deviation
    assert LogitNormal(mean=1.0).sample(draws(2000)).median() > 0.7
    assert LogitNormal(mean=100.0).sample(draws(9)).max() < 1


def test_noises_have_the_spread_that_they_should() -> None:
    latents = torch.zeros(200, 4, 8, 8)
    noise = Gaussian().sample(latents, draws(200))
    assert noise.shape == latents.shape
    assert abs(noise.std() - 1) < 0.02
    shifts = Offset(strength=0.5).sample(latents, draws(200)).mean(dim=(2, 3))
    assert abs(shifts.std() - math.hypot(0.5, 1 / 8)) < 0.05


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0.01, 10))
def test_losses_are_zero_where_nothing_is_wrong_and_grow(prediction: float, target: float, c: float) -> None:
    one, other = torch.tensor(prediction, dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    for loss in (MSE(), Huber(c=c)):
        assert loss(one, one) == 0
        assert loss(one, other) == pytest.approx(float(loss(other, one)))
        assert loss(one, other) >= 0
    assert Huber(c=c)(one, other) <= MSE()(one, other) + 1e-9
    near = other + c / 1000
    assert Huber(c=c)(near, other) == pytest.approx(float(MSE()(near, other)), rel=1e-4)


def test_min_snr_caps_the_easy_levels() -> None:
    snr = torch.tensor([0.0, 1.0, 5.0, 50.0])
    assert MinSNR(gamma=5)(snr, "epsilon").tolist() == pytest.approx([0, 1, 1, 0.1])
    assert MinSNR(gamma=5)(snr, "v").tolist() == pytest.approx([0, 0.5, 5 / 6, 5 / 51])
    assert Flat()(snr, "flow").tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("cls", CHOICES["sampler"].values(), ids=lambda cls: cls.__name__)
def test_every_sampler_keeps_the_levels_of_the_base_model(cls: Any) -> None:
    from diffusers import DDIMScheduler

    base = DDIMScheduler(beta_start=0.001, beta_end=0.02, prediction_type="v_prediction", clip_sample=True)
    built = cls().build(base)
    assert type(built).__name__ == cls.scheduler
    assert torch.allclose(built.alphas_cumprod, base.alphas_cumprod)
    assert built.config.prediction_type == "v_prediction"


def test_the_adapter_begins_as_nothing() -> None:
    told = LoRA(rank=4, alpha=2.0).peft_config("to_q")
    assert (told.r, told.lora_alpha, told.target_modules) == (4, 2.0, "to_q")
    with pytest.raises(AssertionError, match="family"):
        LoRA().peft_config("to_q")
