"""A training that is put back where it was goes on as if nothing had been."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from sdtune.choices.spec import kinds_of
from sdtune.config import TrainLora
from sdtune.core.reports import Step
from sdtune.core.state import State
from sdtune.core.training import Training
from sdtune.errors import SdtuneError
from tests.core.trainings import Bench, losses, must_be_equal

OPTIMIZERS = list(kinds_of(TrainLora.model_fields["optimizer"]))
STEPS = 6
WIDE = {"network": {"rank": 128, "layers": "attention"}}  # of 4096 numbers and more, which 8 bits are used for


def as_file(state: State) -> State:
    """What a checkpoint makes of it."""
    tensors = {file: load(save(dict(one))) for file, one in state.tensors.items()}
    return State(state.step, tensors, json.loads(json.dumps(state.told, allow_nan=False)))


def states(training: Training, of: int = STEPS) -> list[State]:
    """After each step."""
    return [training.state() for report in training.steps(of) if isinstance(report, Step)]


@pytest.mark.parametrize(("accumulate", "ema"), [(1, 0.0), (3, 0.9)])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_saved_and_loaded_at_every_step_it_ends_in_the_same_bits(kind: str, accumulate: int, ema: float) -> None:
    tables: dict[str, Any] = {"accumulate": accumulate, "ema": {"decay": ema}, "optimizer": {"kind": kind}}
    bench = Bench(tables=WIDE | tables, images=4)
    through = states(bench.training())
    again = bench.training()
    for number in range(STEPS):
        (after,) = states_until(again, number + 1)
        must_be_equal(after, through[number])
        again = bench.training()
        again.load(as_file(after))


def states_until(training: Training, step: int) -> list[State]:
    """Of the steps up to that one, with the schedule of all of them."""
    found = []
    work = training.steps(STEPS)
    while training.step < step:
        if isinstance(next(work), Step):
            found.append(training.state())
    work.close()
    return found


def test_eight_bits_stay_eight_bits() -> None:
    training = Bench(tables=WIDE).training()
    list(training.steps(1))
    kept = training.state().tensors["optimizer"]
    assert {value.dtype for name, value in kept.items() if name.endswith("/state1")} == {torch.uint8}
    assert any(name.endswith("/absmax1") for name in kept)


RICH: dict[str, Any] = {
    "text": {"train": True, "lr": 0.01},
    "token": {"word": "sks-disc", "init": "red", "lr": 0.01},
    "network": {"rank": 2, "dropout": 0.2},
    "keep_base": {"weight": 0.5},
    "optimizer": {"kind": "adamw"},
}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_text_encoders_and_new_words_are_part_of_it(family: str) -> None:
    bench = Bench(family, images=3, tables={**RICH, "weighting": "constant"})
    through = bench.training()
    parts = {name.split(".")[0] for name in through.named}
    assert {"token", "text_encoder"} < parts
    expected = losses(through.steps(STEPS))
    cut = bench.training()
    (*_, half) = states_until(cut, 3)
    again = bench.training()
    again.load(as_file(half))
    assert losses(again.steps(STEPS)) == expected[3:]
    must_be_equal(again.state(), through.state())


def test_later_steps_do_not_change_a_state() -> None:
    training = Bench(tables={"ema": {"decay": 0.5}}).training()
    before = training.state()
    kept = as_file(before)
    through = states(training)
    copies = [as_file(one) for one in through]
    must_be_equal(before, kept)
    list(training.steps(STEPS + 3))
    for one, copy in zip(through, copies, strict=True):
        must_be_equal(one, copy)


def test_what_was_learned_meanwhile_is_forgotten() -> None:
    bench = Bench(tables={"optimizer": {"kind": "prodigy"}, "ema": {"decay": 0.9}})
    training = bench.training()
    first = training.state()
    expected = losses(training.steps(STEPS))
    last = training.state()
    training.load(first)
    must_be_equal(training.state(), first)
    assert losses(training.steps(STEPS)) == expected
    must_be_equal(training.state(), last)


def test_settings_of_an_optimizer_are_those_that_it_was_built_with() -> None:
    bench = Bench(tables={"optimizer": {"kind": "adamw", "weight_decay": 0.1}})
    training = bench.training()
    list(training.steps(2))
    other = bench.training({"optimizer": {"kind": "adamw", "weight_decay": 0.2}})
    other.load(training.state())
    assert other._optimizer.param_groups[0]["weight_decay"] == 0.2
    sgd = bench.training({"optimizer": {"kind": "adafactor"}})
    sgd.load(training.state())
    assert not sgd.state().tensors["optimizer"], "another optimizer begins afresh"
    assert len(losses(sgd.steps(STEPS))) == STEPS - 2


@pytest.mark.parametrize("other", [{"network": {"rank": 3}}, {"network": {"rank": 2, "layers": "attention"}}])
def test_a_state_of_another_network_is_refused_in_a_line(other: dict[str, Any]) -> None:
    bench = Bench()
    with pytest.raises(SdtuneError, match="the checkpoint is of another network") as refused:
        bench.training().load(bench.training(other).state())
    assert len(refused.value.problems) == 1
