"""A workshop: trainings in this process, all of one kind, whose every part can be taken hold of."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sdtune.config import Tables, TrainLora
from sdtune.core import making
from sdtune.core.reports import Report
from sdtune.core.state import State
from sdtune.core.train_lora import train_lora
from sdtune.core.training import Training
from tools.torture.ground import Ground, fingerprint


class _Built(Exception):  # noqa: N818 (it ends the preparations, as is wanted)
    """What a training was about to be built of."""

    def __init__(self, *parts: Any, **more: Any) -> None:
        super().__init__()
        self.parts, self.more = parts, more


@dataclass(frozen=True)
class Workshop:
    """What `train-lora` builds a training of; each that is made here has a denoiser of its own."""

    config: TrainLora
    parts: tuple[Any, ...]
    more: dict[str, Any]

    def training(
        self, config: TrainLora | None = None, batches: Callable[[Any], Any] | None = None
    ) -> tuple[Training, nn.Module]:
        """A training that has learned nothing yet, and its denoiser."""
        own, accelerator, family, process, net, given, *others = self.parts
        net = copy.deepcopy(net)
        given = batches(given) if batches else given
        return Training(config or own, accelerator, family, process, net, given, *others, **self.more), net


def workshop(ground: Ground, settings: Tables | None = None) -> Workshop:
    """All that the command line makes before the first step of such a training."""
    config = ground.config(ground.new(), settings)

    def caught(*parts: Any, **more: Any) -> None:
        raise _Built(*parts, **more)

    with patched(making, "Training", caught):
        try:
            for _ in train_lora(config):
                pass
        except _Built as built:
            return Workshop(built.parts[0], built.parts, built.more)
    raise AssertionError("train_lora builds no Training")


@contextlib.contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value in place of an attribute, for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def to_the_end(training: Training, steps: int) -> list[Report]:
    """All that a training tells up to its last step."""
    return list(training.steps(steps))


def state_print(state: State) -> dict[str, str]:
    """The fingerprints of a state's parts, and what is told beside them."""
    parts = {name: fingerprint(tensors) for name, tensors in state.tensors.items()}
    return {"step": str(state.step), "told": repr(_sorted(state.told)), **parts}


def is_finite(state: State) -> bool:
    """Whether there are numbers alone in it."""
    every = (tensor for tensors in state.tensors.values() for tensor in tensors.values())
    return all(bool(torch.isfinite(tensor).all()) for tensor in every if tensor.is_floating_point())


def _sorted(told: Any) -> Any:
    if isinstance(told, dict):
        return {name: _sorted(told[name]) for name in sorted(told)}
    return [_sorted(one) for one in told] if isinstance(told, list | tuple) else told
