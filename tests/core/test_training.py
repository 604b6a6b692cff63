"""The step's loss is the formula, and it is learned the same however a step is split, disturbed or looked at."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdtune.config import TrainLora, resolve
from sdtune.core import training
from sdtune.core.data.batches import Batch
from sdtune.core.diffusion import Prediction, Process
from sdtune.core.draws import Draws
from sdtune.core.families import family_named
from sdtune.core.reports import Pulse, Rewound, Step, Warned
from sdtune.core.state import State
from sdtune.core.step_losses import image_losses
from sdtune.core.training import SNAPSHOT_EVERY, Training
from sdtune.errors import TrainingError
from tests.core.trainings import Bench, losses, must_be_equal

ALPHAS = torch.linspace(0.999, 0.005, 1000, dtype=torch.float64)


class Half(nn.Module):
    """Answers with half of what it is shown."""

    def forward(self, x_t: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (x_t / 2,)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
def test_step_loss_is_the_weighted_squared_error(prediction: Prediction) -> None:
    weighting = "constant" if prediction == "flow" else "min-snr"
    config = resolve(TrainLora, [{"data": {"folder": "x"}, "weighting": weighting}])
    process = Process(prediction, None if prediction == "flow" else ALPHAS, shift=3.0)
    x_0 = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([1.0, 2.0, 0.5])
    draws = Draws(5, 11, range(3), 3)
    batch = Batch(x_0, {"encoder_hidden_states": torch.zeros(3, 1, 1)}, weights)
    loss = image_losses(config, family_named("sd1"), process, Half(), batch, draws).mean()

    expected = torch.zeros(())
    noise = draws.normal("noise", (4, 8, 8))
    for index, u in enumerate(config.timesteps.sample(draws).tolist()):
        if prediction == "flow":
            sigma = 3 * u / (1 + 2 * u)
            alpha = 1 - sigma
        else:
            square = float(ALPHAS[int(u * 1000)])
            alpha, sigma = square**0.5, (1 - square) ** 0.5
        eps, clean = noise[index], x_0[index]
        target = {"epsilon": eps, "v": alpha * eps - sigma * clean, "flow": eps - clean}[prediction]
        error = (((alpha * clean + sigma * eps) / 2 - target) ** 2).mean()
        snr = (alpha / sigma) ** 2
        weight = {"epsilon": min(snr, 5) / snr, "v": min(snr, 5) / (snr + 1), "flow": 1.0}[prediction]
        expected += error * weight * weights[index] / 3
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_a_step_does_not_depend_on_how_its_batch_is_split() -> None:
    config = resolve(TrainLora, [{"data": {"folder": "x"}, "noise": "offset"}])
    process = Process("epsilon", ALPHAS)
    x_0 = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(2))

    def loss_of(slots: range) -> Tensor:
        part = Batch(
            x_0[slots.start : slots.stop],
            {"encoder_hidden_states": torch.zeros(len(slots), 1, 1)},
            torch.ones(len(slots)),
        )
        return image_losses(config, family_named("sd1"), process, Half(), part, Draws(5, 3, slots, 4)).mean()

    whole = loss_of(range(4))
    parts = [loss_of(range(start, start + 2)) for start in (0, 2)]
    assert float(whole) == pytest.approx(float(sum(parts)) / 2, rel=1e-6)


# Nearly plain descent, which does not blow up rounding.
PLAIN: dict[str, Any] = {"optimizer": {"kind": "adamw", "lr": 1.0, "eps": 0.1, "weight_decay": 0}, "clip": 0}
SPLITS: list[dict[str, Any]] = [
    {"batch_size": 4, "accumulate": 1},
    {"batch_size": 2, "accumulate": 2},
    {"batch_size": 1, "accumulate": 4},
]
LESSONS: dict[str, Bench] = {
    "dropout": Bench(tables={"network": {"rank": 2, "dropout": 0.4}}),
    "masks and noise": Bench(masks=True, tables={"noise": "offset", "captions": {"dropout": 0.3}}),
    "priors": Bench(images=8, priors=3),
    "keep-base": Bench(tables={"keep_base": {"weight": 0.5}}),
    "text": Bench(tables={"text": {"train": True, "lr": 0.01}, "network": {"rank": 2, "dropout": 0.4}}),
}


def near(one: State, other: State, by: float = 1e-6) -> bool:
    pairs = zip(one.tensors["adapter"].values(), other.tensors["adapter"].values(), strict=True)
    return all(torch.allclose(a, b, rtol=by, atol=by) for a, b in pairs)


@pytest.mark.parametrize("bench", LESSONS.values(), ids=LESSONS.keys())
def test_four_at_once_two_twice_and_one_by_one_learn_the_same(bench: Bench) -> None:
    found = []
    for split in SPLITS:
        training = bench.training(PLAIN, split)
        reports = list(training.steps(4))
        found.append((losses(reports), training.state()))
        pulses = sum(isinstance(report, Pulse) for report in reports)
        assert pulses >= 2 * (split["accumulate"] - 1)
    for told, state in found[1:]:
        assert told == pytest.approx(found[0][0], rel=1e-6)
        assert near(state, found[0][1])
    other = bench.training(PLAIN, SPLITS[0], {"seed": 1})
    list(other.steps(4))
    assert not near(other.state(), found[0][1], 1e-4)


def test_gradients_of_two_shares_add_up_to_those_of_the_whole() -> None:
    """As processes share a step, here one after the other."""
    bench = Bench(images=5)
    whole = bench.training(PLAIN, {"batch_size": 4})
    shares = [bench.training(PLAIN, {"batch_size": 2}, processes=2, process=one) for one in range(2)]
    for step in range(3):
        slots = [[slot for _, draws in one._passes(step) for slot in draws.slots] for one in (whole, *shares)]
        assert slots[0] == slots[1] + slots[2]
        assert len(slots[0]) in (4, 1)
        seen = [[name for batch, _ in one._passes(step) for name in batch.names] for one in (whole, *shares)]
        assert seen[0] == seen[1] + seen[2]


def test_with_checkpointing_dropout_leaves_out_the_same() -> None:
    bench = LESSONS["dropout"]
    plain, again = bench.training(PLAIN), bench.training(PLAIN, {"memory": {"gradient_checkpointing": True}})
    assert losses(plain.steps(3)) == pytest.approx(losses(again.steps(3)), rel=1e-6)
    assert near(plain.state(), again.state())


@pytest.mark.parametrize(
    "more", [{"ema": {"decay": 0.9}}, {"optimizer": {"kind": "adamw-schedulefree", "lr": 0.01}}, {}], ids=str
)
def test_what_is_used_is_there_for_a_while_and_leaves_every_bit(more: dict[str, Any]) -> None:
    bench = Bench(tables=more)
    calm, looked = bench.training(), bench.training()
    list(calm.steps(4))
    for report in looked.steps(4):
        if not isinstance(report, Step):
            continue
        before = looked.state()
        with looked.as_used():
            used = {name: one.detach().clone() for name, one in looked.named.items()}
            assert not any(module.training for module in looked._net.modules())
            with torch.no_grad():
                batch, _ = looked._passes(0)[0]
                levels = torch.zeros(len(batch.latents))
                looked._family.denoise(looked._net, batch.latents, levels, batch.conditioning)
        must_be_equal(looked.state(), before)
        same = all(torch.equal(used[name], one) for name, one in before.tensors["adapter"].items())
        if report.number > 1:
            assert same == (not more), "an average is not what is trained"
        if "ema" in more:
            assert all(torch.equal(used[name], one) for name, one in before.tensors["ema"].items())
        if "optimizer" in more:
            copied = bench.training()
            copied.load(before)
            copied._optimizer.eval()
            assert all(torch.allclose(used[name], one, atol=1e-7) for name, one in copied.named.items())
    must_be_equal(looked.state(), calm.state())


def test_what_ends_in_the_middle_of_a_step_has_the_state_of_the_last_whole_one() -> None:
    bench, split = Bench(images=6, tables=PLAIN), {"batch_size": 1, "accumulate": 3}
    through, cut = bench.training(split), bench.training(split)
    expected = losses(through.steps(5))
    for step in range(5):
        work = cut.steps(5)
        assert isinstance(next(work), Pulse)
        assert isinstance(next(work), Pulse)
        before = cut.state()
        work.close()
        must_be_equal(cut.state(), before)
        assert before.step == step
        assert all(one.grad is None for one in cut.named.values())
        work = cut.steps(5)
        assert [next(report.loss for report in work if isinstance(report, Step))] == expected[step : step + 1]
        work.close()
    must_be_equal(cut.state(), through.state())


def test_what_needs_the_most_memory_comes_first() -> None:
    training = Bench(images=7).training({"batch_size": 3})
    largest = [max(batch.latents.numel() for batch, _ in training._passes(step)) for step in range(3)]
    assert largest[0] == max(largest)


def spoilt(training: Training, image: int, value: float) -> None:
    """An image whose latents are no numbers."""
    store = training._batches.store
    kept = store.get(f"latents {image}")
    store.put(f"latents {image}", {"mean": torch.full_like(kept["mean"], value), "std": kept["std"]})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_of_bad_numbers_is_not_taken_and_its_image_is_named(value: float) -> None:
    training = Bench(images=5).training()
    spoilt(training, 3, value)
    before: State | None = None
    missed = []
    for report in training.steps(10):
        if isinstance(report, Warned):
            missed.append(report.text)
        if isinstance(report, Step):
            state = training.state()
            assert state.is_sound
            if report.loss is None:
                assert before is not None
                for file in ("adapter", "optimizer"):
                    assert all(
                        torch.equal(one, before.tensors[file][name]) for name, one in state.tensors[file].items()
                    )
                assert state.step == before.step + 1
            before = state
    assert len(missed) == 2
    assert all("3.png" in line and "not taken" in line for line in missed)


def test_three_in_a_row_go_back_and_pass_over_them_at_half_the_rate() -> None:
    training = Bench(images=6).training({"schedule": "constant"})
    calm = list(training.steps(30))
    assert training._good is not None
    assert training._good.step == SNAPSHOT_EVERY
    first = training.state()
    for image in range(6):
        spoilt(training, image, math.nan)
    told = []
    work = training.steps(40)
    for report in work:
        told.append(report)
        if isinstance(report, Rewound):
            break
    assert isinstance(told[-1], Rewound)
    assert told[-1].step == training.step == SNAPSHOT_EVERY
    assert [report.loss for report in told if isinstance(report, Step)] == [None, None]
    for image in range(6):
        store, fresh = training._batches.store, Bench(images=6).training()._batches.store
        store.put(f"latents {image}", dict(fresh.get(f"latents {image}")))
    later = [report for report in work if isinstance(report, Step)]
    rate = calm[-1].lr
    assert {report.lr for report in later} == {rate / 2}
    assert [report.number for report in later if report.loss is None] == [31, 32, 33]
    assert [report.number for report in later] == list(range(SNAPSHOT_EVERY + 1, 41))
    assert first.is_sound


@pytest.mark.parametrize("where", ["weights", "optimizer"])
@pytest.mark.parametrize("at", [3, 6])
def test_weights_that_go_bad_are_never_kept(where: str, at: int) -> None:
    """The last step's, too, which no later one would notice."""
    training = Bench(images=4).training({"optimizer": {"kind": "adamw", "lr": 0.01}})
    step = training._optimizer.step
    broken: list[int] = []

    def break_once() -> None:
        step()
        if training.step == at - 1 and not broken:
            broken.append(training.step)
            one = next(iter(training.named.values()))
            (one if where == "weights" else training._optimizer.state[one]["exp_avg"]).data.view(-1)[0] = math.nan

    training._optimizer.step = break_once  # type: ignore[method-assign,assignment]
    rewound = []
    for report in training.steps(6):
        assert training.state().is_sound
        if isinstance(report, Rewound):
            rewound.append(report)
    assert [report.step for report in rewound] == [0]
    assert training.step == 6
    assert training.state().is_sound


def test_after_three_returns_it_ends_with_a_line() -> None:
    training = Bench(images=4).training()
    for image in range(4):
        spoilt(training, image, math.nan)
    with pytest.raises(TrainingError, match="again after going back 3 times"):
        list(training.steps(40))
    assert training.state().is_sound


def no_more_than(training: Training, images: int, *, gradient: Callable[[], bool] = lambda: True) -> None:
    """A card on which so many images fit."""

    def too_many(_: nn.Module, arguments: tuple[Any, ...], told: dict[str, Any]) -> None:
        shown = arguments[0] if arguments else told["sample"]
        if len(shown) > images and gradient():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    training._net.register_forward_pre_hook(too_many, with_kwargs=True)


@pytest.mark.parametrize("fits", [3, 1])
def test_where_memory_does_not_suffice_smaller_passes_learn_the_same(fits: int) -> None:
    bench = Bench(images=8, tables={**PLAIN, "network": {"rank": 2, "dropout": 0.4}, "batch_size": 4})
    calm, short = bench.training(), bench.training()
    no_more_than(short, fits)
    reports = list(short.steps(4))
    assert losses(reports) == pytest.approx(losses(calm.steps(4)), rel=1e-6)
    assert near(short.state(), calm.state())
    told = [report.text for report in reports if isinstance(report, Warned)]
    assert told
    assert all(line.startswith("out of memory with ") for line in told)
    again = bench.training()
    no_more_than(again, fits)
    again.load(short.state())
    more = list(again.steps(6))
    assert sum(isinstance(report, Warned) for report in more) == 0, "it is remembered"


def test_where_one_image_is_too_much_checkpointing_is_switched_on_and_then_it_ends() -> None:
    bench = Bench(tables=PLAIN)
    calm, short, never = bench.training(), bench.training(), bench.training()
    no_more_than(short, 0, gradient=lambda: not short._net.is_gradient_checkpointing)
    reports = list(short.steps(3))
    assert losses(reports) == pytest.approx(losses(calm.steps(3)), rel=1e-6)
    assert ["gradient-checkpointing" in report.text for report in reports if isinstance(report, Warned)] == [True]
    no_more_than(never, 0)
    with pytest.raises(TrainingError, match="out of memory with 1 image"):
        list(never.steps(3))


def test_an_optimizer_without_memory_is_tried_again_from_the_last_good_state() -> None:
    bench = Bench(tables=PLAIN)
    calm, short = bench.training(), bench.training()
    list(calm.steps(5))
    step, times = short._optimizer.step, []

    def fail_in_the_middle() -> None:
        times.append(short.step)
        if len(times) == 3:
            next(iter(short.named.values())).data.fill_(7)  # half of it was done
            raise torch.OutOfMemoryError("CUDA out of memory")
        step()

    short._optimizer.step = fail_in_the_middle  # type: ignore[method-assign,assignment]
    reports = list(short.steps(5))
    assert [report.step for report in reports if isinstance(report, Rewound)] == [0]
    assert times == [0, 1, 2, 0, 1, 2, 3, 4]
    must_be_equal(short.state(), calm.state())


@pytest.mark.parametrize("at", [3, 27, 30])
def test_a_resumed_training_goes_back_as_far_as_one_that_was_never_stopped(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, real = Bench(), training.image_losses

    def bad_from_31_on(*given: Any) -> Tensor:
        draws = given[5]
        return real(*given) * (math.nan if 30 <= draws.step < 34 else 1.0)

    monkeypatch.setattr(training, "image_losses", bad_from_31_on)
    whole = bench.training()
    rewound = [report.step for report in whole.steps(36) if isinstance(report, Rewound)]
    assert rewound == [25]
    half = bench.training()
    with closing(half.steps(36)) as steps:
        next(report for report in steps if isinstance(report, Step) and report.number == at)
        state = half.state()
    again = bench.training()
    again.load(state)
    assert [report.step for report in again.steps(36) if isinstance(report, Rewound)] == [25]
    for name, weights in whole.named.items():
        assert torch.equal(weights, again.named[name]), name


def test_a_state_stays_as_small_as_it_was_however_long_the_training() -> None:
    training_ = Bench().training()
    sizes = {}
    for report in training_.steps(120):
        if isinstance(report, Step) and report.number in (30, 110):
            state = training_.state()
            assert state.told["before"]["step"] == report.number // 25 * 25
            sizes[report.number] = (len(json.dumps(state.told["before"])), sorted(state.tensors))
    assert sizes[30][1] == sizes[110][1]
    assert sizes[110][0] < 1.5 * sizes[30][0], "the losses of the last 50 steps are more, and nothing else"
