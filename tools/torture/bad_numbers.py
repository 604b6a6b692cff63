"""R6: a number that is none, wherever it comes from, is caught in its step and never saved."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sdtune.choices.losses import MSE
from sdtune.core.checkpoint import Checkpoints
from sdtune.core.reports import Rewound, Step, Warned
from sdtune.core.training import Training
from sdtune.errors import TrainingError
from tools.torture.ground import Ground
from tools.torture.outcome import Outcome, Tally
from tools.torture.workshop import Workshop, is_finite, workshop

STEPS = 30
Due = Callable[[], bool]
"""whether the number goes bad now"""
Held = Iterator[Callable[[], None]]
"""what is done between reports"""


@dataclass(frozen=True)
class Place:
    """Where a number goes bad."""

    name: str
    hold: Callable[[Training, nn.Module, Due, float], contextlib.AbstractContextManager[Callable[[], None]]] | None = (
        None
    )
    batch: Callable[[Any, float], Any] | None = None
    """what becomes of a batch"""
    loss: bool = False
    first: int = 0
    """step before which there is nothing to spoil, or nothing good to go back to"""
    lasts: bool = False
    """whether no later step can be taken, either"""


class _Spoilt(MSE):
    """A loss that is no number, when it is due."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The errors."""
        due, value = _SPOILT[0]
        errors = super().__call__(prediction, target)
        return errors * value if due() else errors


_SPOILT: list[tuple[Due, float]] = []


@contextlib.contextmanager
def _gradient(training: Training, _net: nn.Module, due: Due, value: float) -> Held:
    parameter = [*training.named.values()][-1]
    handle = parameter.register_hook(lambda gradient: torch.full_like(gradient, value) if due() else gradient)
    yield lambda: None
    handle.remove()


@contextlib.contextmanager
def _activation(_training: Training, net: nn.Module, due: Due, value: float) -> Held:
    middle: Any = net.get_submodule("mid_block")
    handle = middle.register_forward_hook(lambda _module, _given, out: out * value if due() else out)
    yield lambda: None
    handle.remove()


@contextlib.contextmanager
def _lora(training: Training, _net: nn.Module, due: Due, value: float) -> Held:
    def spoil() -> None:
        if due():
            with torch.no_grad():
                next(iter(training.named.values())).view(-1)[0] = value

    yield spoil


@contextlib.contextmanager
def _base(_training: Training, net: nn.Module, due: Due, value: float) -> Held:
    frozen = next(one for name, one in net.named_parameters() if "conv_in" in name and not one.requires_grad)

    def spoil() -> None:
        if due():
            frozen.view(-1)[0] = value

    yield spoil


@contextlib.contextmanager
def _optimizer(training: Training, _net: nn.Module, due: Due, value: float) -> Held:
    seen: list[Any] = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer) if not seen else None)

    def spoil() -> None:
        if seen and due():
            moments = seen[0].state[next(iter(training.named.values()))]
            moments["exp_avg"].view(-1)[0] = value

    yield spoil
    handle.remove()


def _latents(batch: Any, value: float) -> Any:
    latents = batch.latents.clone()
    latents[0, 0, 0, 0] = value
    return replace(batch, latents=latents)


def _conditioning(batch: Any, value: float) -> Any:
    told = {name: one.clone() for name, one in batch.conditioning.items()}
    told["encoder_hidden_states"][0, 0, 0] = value
    return replace(batch, conditioning=told)


PLACES = (
    Place("latents", batch=_latents),
    Place("conditioning", batch=_conditioning),
    Place("LoRA", hold=_lora, first=1),
    Place("optimizer state", hold=_optimizer, first=1),
    Place("loss", loss=True),
    Place("gradient", hold=_gradient),
    Place("activations", hold=_activation),
    Place("base weights", hold=_base, lasts=True),
)


def bad_numbers(ground: Ground, share: float) -> Outcome:
    """NaN or infinity in every place at each of 30 steps."""
    tally = Tally("R6", "NaN or infinity in eight places x 30 steps: caught in the same step, none saved")
    shop = workshop(ground, {"steps": STEPS})
    every = max(1, round(1 / share))
    for turn, place in enumerate(PLACES):
        for step in range(place.first + turn % min(every, STEPS), STEPS, every):
            value = math.nan if (step + turn) % 2 else math.inf
            tally.count(
                *[f"{place.name}, step {step + 1}, {value}: {told}" for told in _trial(shop, place, step, value)]
            )
    return tally.outcome()


def _trial(shop: Workshop, place: Place, step: int, value: float) -> list[str]:
    """What is wrong with how a training takes it."""
    once = [True]
    config, batches = shop.config, None

    def due() -> bool:
        now = training.step == step and once[0]
        if now and (place.hold or place.loss):
            once[0] = False
        return now

    if place.loss:
        _SPOILT[:] = [(due, value)]
        config = config.model_copy(update={"loss": _Spoilt()})
    if place.batch:
        spoil, batches = place.batch, lambda given: _Batches(given, step, lambda batch: spoil(batch, value))
    training, net = shop.training(config, batches)
    problems, caught, told = [], False, ""
    with contextlib.ExitStack() as stack:
        between = stack.enter_context(place.hold(training, net, due, value)) if place.hold else lambda: None
        between()
        try:
            for report in training.steps(STEPS):
                if isinstance(report, Warned | Rewound):
                    caught = True
                    told += report.text if isinstance(report, Warned) else report.reason
                if isinstance(report, Step) and report.number == step + 1 and not caught and report.loss is not None:
                    problems.append("not caught in its step")
                if isinstance(report, Step):
                    if place.lasts and report.number > step and report.loss is not None:
                        problems.append(f"step {report.number} was taken on a broken base")
                    problems += _never_saved(training)
                    between()
        except TrainingError as error:
            told += str(error)
            if not place.lasts:
                problems.append(f"ended: {error}")
        else:
            if training.step != STEPS:
                problems.append(f"ended after {training.step} steps")
    problems += _never_saved(training)
    if not caught:
        problems.append("nothing was said")
    if place.batch and ".png" not in told:
        problems.append(f"no image is named: {told}")
    return problems[:3]


def _never_saved(training: Training) -> list[str]:
    """A state that is not all numbers, and that can be saved all the same."""
    if is_finite(training.state()):
        return []
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(TrainingError):
        Checkpoints(Path(folder)).save(training.state(), keep=1)
        return [f"saved after step {training.step} with numbers that are none"]
    return [f"the state after step {training.step} is refused, so that a stop there could not save"]


@dataclass(frozen=True)
class _Batches:
    """Batches of which those of one step are spoilt, whenever they are asked for."""

    given: Any
    step: int
    spoil: Callable[[Any], Any]

    def at(self, number: int, *told: Any, **more: Any) -> list[Any]:
        """The passes of a step."""
        passes: list[Any] = self.given.at(number, *told, **more)
        return [(self.spoil(batch), draws) for batch, draws in passes] if number == self.step else passes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.given, name)
