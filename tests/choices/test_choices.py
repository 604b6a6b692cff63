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
from sdtune.choices.optimizers import Prodigy
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


# Rates at which each goes down from 3 within 100 steps, and what holds where none is given.
RATES = {
    "adamw8bit": (0.1, 2e-4),
    "adamw": (0.1, 2e-4),
    "prodigy": (1.0, 1.0),
    "adamw-schedulefree": (0.1, 2e-4),
    "lion8bit": (0.1, 4e-5),
    "adafactor": (0.3, 0.01),
}


@pytest.mark.parametrize("cls", CHOICES["optimizer"].values(), ids=lambda cls: cls.__name__)
def test_every_optimizer_goes_downhill(cls: Any, capsys: pytest.CaptureFixture[str]) -> None:
    weights = torch.nn.Parameter(torch.full((64, 128), 3.0))
    rate, usual = RATES[cls().kind]
    optimizer = cls().build([{"params": [weights], "lr": rate}], rate)
    for _ in range(100):
        optimizer.zero_grad()
        (weights**2).sum().backward()
        optimizer.step()
    assert weights.abs().max() < 0.3
    assert cls().rate(4) == pytest.approx(usual)
    assert cls(lr=0.5).rate(4) == 0.5
    assert capsys.readouterr() == ("", ""), "nothing is said past the reports"


def test_weight_decay_reaches_every_optimizer() -> None:
    for cls in CHOICES["optimizer"].values():
        found = []
        for decay in (0.0, 0.5):
            weights = torch.nn.Parameter(torch.ones(64, 128))
            optimizer = cls(weight_decay=decay).build([weights], 0.1)  # type: ignore[call-arg, attr-defined]
            for _ in range(3):
                weights.grad = torch.full_like(weights, 1e-3)
                optimizer.step()
            found.append(float(weights.detach().mean()))
        assert found[1] < found[0], cls


def test_the_same_share_of_the_rate_is_the_same_share_of_the_step() -> None:
    """As schedules take it, for every optimizer."""
    for cls in CHOICES["optimizer"].values():
        moved = []
        for rate in (0.1, 0.05):
            weights = torch.nn.Parameter(torch.full((64, 128), 1e-3))
            optimizer = cls(weight_decay=0).build([weights], 0.1)  # type: ignore[call-arg, attr-defined]
            optimizer.param_groups[0]["lr"] = rate
            weights.grad = torch.full_like(weights, 1e-3)
            optimizer.step()
            moved.append(1e-3 - float(weights.detach().mean()))
        assert moved[0] == pytest.approx(2 * moved[1], rel=0.02), cls


def test_prodigy_has_one_rate_for_all_groups() -> None:
    weights = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
    groups = [{"params": [one], "lr": rate} for one, rate in zip(weights, (1.0, 1e-5), strict=True)]
    optimizer = Prodigy().build(groups, 1.0)
    for one in weights:
        one.grad = torch.ones_like(one)
    optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 1.0]


def test_only_the_schedule_free_one_has_other_weights_in_use_which_are_its_own_average() -> None:
    for cls in CHOICES["optimizer"].values():
        weights = torch.nn.Parameter(torch.ones(64, 128))
        settings: Any = cls()
        optimizer = settings.build([weights], 0.1)
        assert settings.in_use(optimizer) == {}
        for _ in range(3):
            weights.grad = weights.detach().clone()
            optimizer.step()
        used = settings.in_use(optimizer)
        if settings.kind != "adamw-schedulefree":
            assert used == {}
            continue
        optimizer.eval()
        assert torch.allclose(used[weights], weights)
        optimizer.train()
        assert not torch.allclose(used[weights], weights)


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
