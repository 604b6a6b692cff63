"""What every training stage shares: its pace, averaged weights, a checkpoint that resumes, a log."""

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from tools.mini import parallel


@dataclass(frozen=True)
class Pace:
    """How long a stage trains, and how fast it learns meanwhile."""

    steps: int
    batch: int
    rate: float
    seconds: float = math.inf  # of this call: whichever limit comes first ends the stage
    decay: float = 0.3  # share at the end over which the rate falls to zero
    warmup: int = 40  # steps

    def factor(self, step: int, progress: float) -> float:
        """Share of the rate: up, level, and down; a longer run goes on from any point of the level part."""
        return max(0.0, min(1.0, (step + 1) / self.warmup, (1 - progress) / self.decay))


class Stage:
    """A module, its optimizer and its averaged weights, kept together in one file."""

    def __init__(self, path: Path, module: nn.Module, optimizer: Optimizer, pace: Pace, averaging: float) -> None:
        self.path, self.module, self.optimizer, self.pace, self.averaging = path, module, optimizer, pace, averaging
        self.step, self.progress, self.losses = 0, 0.0, list[float]()
        self.average = {name: value.detach().clone() for name, value in module.state_dict().items()}
        if path.exists():
            saved = torch.load(path, map_location=next(module.parameters()).device, weights_only=True)
            module.load_state_dict(saved["module"])
            optimizer.load_state_dict(saved["optimizer"])
            self.average, self.step = saved["average"], saved["step"]
            self.progress = self.step / pace.steps
        self.began = time.monotonic()

    @property
    def done(self) -> bool:
        """Whether all steps are taken or the time is over."""
        return self.progress >= 1

    @property
    def chief(self) -> bool:
        """Whether this process writes."""
        return parallel.place()[0] == 0

    def learn(self, loss: torch.Tensor) -> None:
        """One optimizer step against `loss`, and its share in the averaged weights."""
        loss.backward()
        elapsed = (time.monotonic() - self.began) / self.pace.seconds
        self.progress = parallel.average(self.module, max(self.step / self.pace.steps, elapsed))
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.pace.rate * self.pace.factor(self.step, self.progress)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.progress = max(self.progress, self.step / self.pace.steps)
        share = 1 - min(self.averaging, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.module.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, share)
        self.losses.append(loss.item())

    def due(self, every: int) -> bool:
        """Whether it is time, every so many steps and at the end; in one process only."""
        return self.chief and (self.step % every == 0 or self.done)

    def save(self) -> None:
        """Everything that a resumed stage needs, in one file that is replaced whole."""
        state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "average": self.average}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        torch.save({**state, "step": self.step}, part)
        os.replace(part, self.path)

    def tell(self, **figures: float) -> None:
        """The mean loss since the last time and other figures, on the screen and in a file beside the checkpoint."""
        if self.losses:
            figures |= {"loss": sum(self.losses) / len(self.losses)}
        self.losses.clear()
        figures |= {"seconds": time.monotonic() - self.began}
        line = json.dumps({"stage": self.path.stem, "step": self.step} | {k: round(v, 4) for k, v in figures.items()})
        print(line, flush=True)
        with self.path.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The module with its averaged weights for a while, to measure it."""
        live = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.average)
        self.module.eval()
        yield
        self.module.load_state_dict(live)
        self.module.train()
