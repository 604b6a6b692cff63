"""R7: a training that runs out of memory somewhere learns what it would have learned with enough of it."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sdtune.config import Tables
from sdtune.core.reports import Step
from sdtune.core.train_lora import train_lora
from sdtune.errors import SdtuneError
from tools.torture.ground import Ground, apart, weights
from tools.torture.outcome import Outcome, Tally, scaled

MOST = 1e-6
BATCH = 4
POINTS = {"forward": 35, "backward": 25, "too many": 3, "optimizer": 10, "encoding": 10, "drawing": 10, "decoding": 7}
SETTINGS: Tables = {
    "steps": 20,
    "batch_size": BATCH,
    "save": {"dtype": "fp32"},
    "cache": {"place": "memory"},
    "samples": {"off": False, "every": 10, "steps": 4, "prompts": ["a red disc", "a blue disc"]},
}


@dataclass
class Hooks:
    """Counts what is computed, and runs out of memory at one point of it."""

    where: str = ""
    at: int = -1
    seen: Counter[str] = field(default_factory=Counter)

    def come(self, where: str) -> None:
        """One more of these; out of memory, if it is the one."""
        self.seen[where] += 1
        if where == self.where and self.seen[where] - 1 == self.at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")

    def before(self, module: Any, given: Any) -> None:
        """A module is about to work."""
        if isinstance(module, UNet2DConditionModel) and torch.is_grad_enabled():
            self.come("forward")
            if self.where == "too many" and len(given[0]) > self.at:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        for kind, where in ((UNet2DConditionModel, "drawing"), (Encoder, "encoding"), (Decoder, "decoding")):
            if isinstance(module, kind) and not torch.is_grad_enabled():
                self.come(where)

    def after(self, module: Any, _given: Any, out: Any) -> None:
        """A module has worked; its gradient comes later."""
        if isinstance(module, UNetMidBlock2DCrossAttn) and torch.is_grad_enabled():
            out.register_hook(lambda _gradient: self.come("backward"))


def no_room(ground: Ground, share: float) -> Outcome:
    """Out of memory at 100 points: the same steps, and weights within 1e-6."""
    tally = Tally("R7", f"out of memory at 100 points: as many steps, final weights within {MOST:g}")
    whole = Hooks()
    wanted, steps, problem = _trained(ground, whole)
    assert not problem, problem
    chance, largest, refused = random.Random(7), 0.0, 0
    points = [where for where, count in POINTS.items() for _ in range(count)]
    for number, where in enumerate(chance.sample(points, scaled(len(points), share))):
        at = 1 + number % (BATCH - 1) if where == "too many" else chance.randrange(whole.seen[where])
        found, taken, problem = _trained(ground, Hooks(where, at))
        name = f"{where}, {at + 1} of {whole.seen[where]}"
        if found is None and not taken and "out of memory" in problem:
            refused += 1  # one image alone, which nothing can be taken off, and before there is anything to lose
            tally.count()
            continue
        if problem or found is None:
            tally.count(f"{name}: {problem}")
            continue
        distance = apart(found, wanted or {})
        largest = max(largest, distance)
        problems = [f"{name}: {taken} steps, not {steps}"] if taken != steps else []
        tally.count(*problems, *([f"{name}: {distance:.1e} apart"] if distance > MOST else []))
    return tally.outcome(f"at most {largest:.0e} apart; {refused} ended with a line before the first step")


def _trained(ground: Ground, hooks: Hooks) -> tuple[dict[str, torch.Tensor] | None, int, str]:
    """The weights of a training with these hooks, the steps that were taken, and what went wrong."""
    out, numbers = ground.new(), set[int]()
    with _hooked(hooks):
        try:
            for report in train_lora(ground.config(out, SETTINGS)):
                if isinstance(report, Step) and report.loss is not None:
                    numbers.add(report.number)
        except (SdtuneError, torch.OutOfMemoryError) as error:
            return None, len(numbers), f"{type(error).__name__}: {error}"
    return weights(Path(out)), len(numbers), ""


@contextlib.contextmanager
def _hooked(hooks: Hooks) -> Iterator[None]:
    handles = [
        register_module_forward_pre_hook(hooks.before),
        register_module_forward_hook(hooks.after),
        register_optimizer_step_pre_hook(lambda *_: hooks.come("optimizer")),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
