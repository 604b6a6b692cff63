"""The training: what is learned, step by step, and its state between them."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from sdtune.config import TrainLora
from sdtune.core import dropout, state
from sdtune.core.data.ahead import ahead
from sdtune.core.data.batches import Batch, Batches
from sdtune.core.diffusion import Process
from sdtune.core.draws import Draws
from sdtune.core.ema import Average
from sdtune.core.families import Family
from sdtune.core.mishaps import Guard, Shown, Verdict
from sdtune.core.peers import Peers
from sdtune.core.reports import Pulse, Rewound, Step, Warned
from sdtune.core.room import LESS, Room, free, is_out_of_memory, pieces
from sdtune.core.state import State
from sdtune.core.step_losses import Lessons, image_losses
from sdtune.errors import TrainingError

MEMORY = 0.98  # of the loss average: about the last 50 steps
SPEED_OVER = 50  # steps
BEFORE = "before_"
"""names, in a state, the tensors of the one that it would go back to"""
SNAPSHOT_EVERY = 25  # steps, which is the most that a return to the last good state loses


def accelerator_for(config: TrainLora, precision: str) -> Accelerator:
    """Accelerate's view of this process: its device and its mixed precision ("no", "bf16", "fp16")."""
    if AcceleratorState._shared_state:  # of an earlier training in this process, which may have had other numbers
        AcceleratorState._reset_state(reset_partial_state=AcceleratorState().num_processes == 1)
    return Accelerator(cpu=config.memory.device == "cpu", mixed_precision=precision)


def images_a_step(config: TrainLora, processes: int = 1) -> int:
    """Images that one optimizer step learns from."""
    return config.batch_size * config.accumulate * processes


class Training:
    """A training between two steps or in one: what is trained, and all that the next step depends on."""

    def __init__(
        self,
        config: TrainLora,
        accelerator: Accelerator,
        family: Family,
        process: Process,
        net: nn.Module,
        batches: Batches,
        lessons: Lessons | None = None,
        peers: Peers | None = None,
    ) -> None:
        """What in the denoiser `net` asks for gradients is trained, and what `lessons` brings."""
        self._config, self._accelerator, self._family, self._process = config, accelerator, family, process
        self._net: Any = net
        self._batches = batches
        self._lessons = lessons or Lessons()
        self.peers = peers or Peers()
        """all processes that train it"""
        self._images = images_a_step(config, self.peers.of)
        self.step = 0
        """optimizer steps that are finished"""
        self._parts = {family.denoiser: net, **dict(zip(family.clips, self._lessons.parts, strict=False))}
        self._shown = dropout.Shown()
        dropout.by_counter(self._parts, self._shown)
        own = {f"{family.denoiser}.{name}": one for name, one in net.named_parameters() if one.requires_grad}
        self.named: dict[str, nn.Parameter] = dict(own)
        """everything that is trained, by its part and its path in there"""
        rate = config.optimizer.rate(self._images)
        groups: list[dict[str, Any]] = [{"params": list(own.values()), "lr": rate}]
        for group in self._lessons.groups:
            self.named |= zip(group["names"], group["params"], strict=True)
            groups.append({"params": group["params"], "lr": group["lr"]})
        self._optimizer = config.optimizer.build(groups, rate)
        self._built = state.settings_of(self._optimizer)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._everything = list(self.named.values())
        self._average = Average(self.named, config.ema.decay) if config.ema.decay else None
        self._guard = Guard()
        self._room = Room(checkpointing=config.memory.gradient_checkpointing)
        self._dtype = _weights_dtype(net)
        self._loss, self._losses = 0.0, 0  # their weighted sum, and how many they are
        self._begun: State | None = None  # the state before the first step
        self._good: State | None = None
        self._pass: tuple[tuple[int, ...], int] = ((), 0)  # latents of which size, and how many, are looked at
        self._short: int | None = None  # step at which the optimizer found no memory
        self._began: float | None = None
        self._times, self._counts = deque[float](maxlen=SPEED_OVER + 1), deque[int](maxlen=SPEED_OVER)

    def steps(self, of: int) -> Generator[Step | Pulse | Warned | Rewound]:
        """The steps from where it stands to `of`, which is also what the schedule of rates counts on.

        A Pulse comes after each pass of a step but the last. Closing the iterator drops an unfinished step.
        """
        if self._began is None:
            self._began = time.monotonic()
            self._times.append(self._began)
        self._begun = self._begun or self._state()
        self._good = self._good or self._begun
        try:
            again = True
            while again and self.step < of:
                again = yield from self._stretch(of)
        except GeneratorExit:
            if self.peers.leads and self.step < of:
                self.peers.go_on(False)
            raise
        finally:
            self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> State:
        """Copies of all that the next step depends on; where a weight is no number, those of the last good state.

        What it would go back to is a part of it, so that it goes back as far when it is resumed.
        """
        made = self._state()
        good = self._good or made
        made = made if made.is_sound else good
        told = {"step": good.step, "told": dict(good.told)}
        stored = {} if good.step in (0, made.step) else good.tensors  # what it began with, it begins with again
        before = {f"{BEFORE}{name}": tensors for name, tensors in stored.items()}
        return replace(made, tensors={**made.tensors, **before}, told={**made.told, "before": told})

    def _state(self) -> State:
        optimizer, numbers = state.taken(self._optimizer, self.named, self._built)
        tensors = {"adapter": state.copied(self.named), "optimizer": optimizer}
        told = {
            "optimizer": numbers,
            "loss": self._loss,
            "losses": self._losses,
            "mishaps": self._guard.told(),
            "room": self._room.told(),
        }
        if self._average:
            tensors["ema"] = state.copied(self._average.tensors)
            told["averaged"] = self._average.count
        if self._accelerator.scaler:
            told["scaler"] = self._accelerator.scaler.state_dict()
        return State(self.step, tensors, told)

    def load(self, was: State) -> None:
        """Go on as the training would that this state was taken of."""
        self._begun = self._begun or self._state()
        self._restore(was)
        self._guard.load(was.told["mishaps"])
        self._room.load(was.told["room"])
        self._make_room()
        told = was.told["before"]
        if told["step"] == was.step:
            tensors = was.tensors
        elif told["step"] == 0:
            tensors = self._begun.tensors
        else:
            tensors = {name.removeprefix(BEFORE): one for name, one in was.tensors.items() if name.startswith(BEFORE)}
        self._good = State(told["step"], tensors, told["told"])

    @contextmanager
    def as_used(self) -> Iterator[None]:
        """Meanwhile the weights are those that are saved and drawn with, and modules are in eval mode.

        These are the average, where one is kept, else what the optimizer says that is to be used, else as trained.
        """
        if self._average:
            used = dict(zip(self._everything, self._average.tensors.values(), strict=True))
        else:
            used = self._config.optimizer.in_use(self._optimizer)
        modes = [(module, module.training) for part in self._parts.values() for module in part.modules()]
        trained = [one.detach().clone() for one in used]
        for part in self._parts.values():
            part.eval()
        try:
            _put(used, list(used.values()))
            yield
        finally:
            _put(used, trained)
            for module, mode in modes:
                module.training = mode

    def _stretch(self, of: int) -> Generator[Step | Pulse | Warned | Rewound, None, bool]:
        """Steps until the end, or until they are to be taken again from an earlier one, which is returned."""
        with closing(ahead(self._passes, range(self.step, of))) as fed:
            for passes in fed:
                if not self.peers.go_on():
                    return False
                taken = None
                if self.step not in self._guard.skipped:
                    figures = yield from self._gradients(passes)
                    judged = self._guard.judge(
                        self.step,
                        figures.loss,
                        figures.norm,
                        figures.sound,
                        shown=figures.shown,
                        overflow_is_usual=self._accelerator.scaler is not None,
                    )
                    if judged.verdict is Verdict.REWIND:
                        yield self._rewound(judged.told or "", self._guard.told())
                        return True
                    if judged.told:
                        yield Warned(judged.told)
                    if judged.verdict is Verdict.TAKE:
                        reason = self._update(of)
                        if reason:
                            yield self._rewound(reason)
                            return True
                        taken = figures.loss
                    self._drop()
                    self._counts.append(figures.images)
                    self._times.append(time.monotonic())
                self.step += 1
                if taken is not None:
                    self._loss = MEMORY * self._loss + (1 - MEMORY) * taken
                    self._losses += 1
                if self.step == of and not self._is_sound():
                    judged = self._guard.judge(self.step - 1, 0.0, 0.0, weights=False, shown=tuple)
                    yield self._rewound(judged.told or "", self._guard.told())
                    return True
                assert self._good, "the first state is good"
                if taken is not None and self.step - self._good.step >= SNAPSHOT_EVERY:
                    self._good = self._state()
                yield self._report(of, taken)
        return False

    def _passes(self, step: int) -> list[tuple[Batch, Draws]]:
        """All passes of a step on the device; made ahead of it, in a thread."""
        draws = Draws(self._config.seed, step, range(self._images), self._images)
        share = self.peers.number, self.peers.of
        passes = self._batches.at(step, draws, share=share, most=self._config.batch_size)
        return [(batch.to(self._accelerator.device, self._dtype), here) for batch, here in passes]

    def _gradients(self, passes: Sequence[tuple[Batch, Draws]]) -> Generator[Pulse | Warned, None, _Figures]:
        """Add up the gradients of a step's passes, in smaller ones where the memory does not suffice."""
        for part in self._parts.values():
            if not part.training:
                part.train()
        while True:
            try:
                return (yield from self._gradients_as_far_as_there_is_room(passes))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            told = self._room.too_much(*self._pass)
            self._drop()
            free()
            self._make_room()
            yield Warned(told)

    def _gradients_as_far_as_there_is_room(
        self, passes: Sequence[tuple[Batch, Draws]]
    ) -> Generator[Pulse, None, _Figures]:
        """Each image counts alike, whatever passes they come in: as one of the usual number of a step."""
        small = [one for batch, draws in passes for one in pieces(batch, draws, self._room.most(_size(batch)))]
        losses: list[Tensor] = []
        for number, (batch, draws) in enumerate(small):
            if number:
                yield Pulse()
            self._pass = _size(batch), len(batch.latents)
            self._shown.draws = draws
            with self._accelerator.autocast():
                found = self._image_losses(batch, draws)
            self._scaled(found.sum() / self._images).backward()
            losses.append(found.detach())
        return self._figures(small, losses)

    def _image_losses(self, batch: Batch, draws: Draws) -> Tensor:
        if self._lessons.read:
            read = self._lessons.read(batch.captions)
            batch = replace(batch, conditioning=read | batch.conditioning)
        return image_losses(self._config, self._family, self._process, self._net, batch, draws, self._lessons)

    def _scaled(self, loss: Tensor) -> Tensor:
        scaler = self._accelerator.scaler
        return scaler.scale(loss) if scaler else loss

    def _figures(self, passes: Sequence[tuple[Batch, Draws]], losses: list[Tensor]) -> _Figures:
        """What a step is judged by, over all processes, fetched from the device at once; gradients are clipped."""
        device = self._accelerator.device
        total = torch.cat(losses).sum() if losses else torch.zeros((), device=device)
        images = sum(map(len, losses))
        if self.peers.of > 1:
            images = self._sum(total, images)
        if self._accelerator.scaler:
            self._accelerator.scaler.unscale_(self._optimizer)
        norm = nn.utils.get_total_norm([one.grad for one in self._everything if one.grad is not None])
        if self._config.clip:
            nn.utils.clip_grads_with_norm_(self._everything, self._config.clip, norm)
        summed, norm_, weights = torch.stack([total.float(), norm.to(device), self._weights().to(device)]).tolist()
        return _Figures(
            summed / images, norm_, math.isfinite(weights), images, lambda: self._who_was_shown(passes, losses)
        )

    def _sum(self, total: Tensor, images: int) -> int:
        """Gradients and the loss of all processes; what has no gradient in any of them has none. Returns the images."""
        has = torch.tensor([one.grad is not None for one in self._everything] + [images], dtype=torch.float32)
        has = has.to(total.device)
        for one in self._everything:
            one.grad = torch.zeros_like(one) if one.grad is None else one.grad
        self.peers.sum([total, has, *(one.grad for one in self._everything if one.grad is not None)])
        *told, count = has.tolist()
        for one, known in zip(self._everything, told, strict=True):
            one.grad = one.grad if known else None
        return int(count)

    def _weights(self) -> Tensor:
        """A number that is one only if all weights and all that the optimizer remembers are."""
        remembered = [
            one
            for values in self._optimizer.state.values()
            for one in values.values()
            if isinstance(one, Tensor) and one.ndim and one.is_floating_point()
        ]
        return nn.utils.get_total_norm([*self._everything, *remembered])

    def _is_sound(self) -> bool:
        return math.isfinite(float(self._weights()))

    def _who_was_shown(self, passes: Sequence[tuple[Batch, Draws]], losses: Sequence[Tensor]) -> list[Shown]:
        told: list[Shown] = []
        for (batch, draws), found in zip(passes, losses, strict=True):
            levels = self._process.add_noise(batch.latents, batch.latents, self._config.timesteps.sample(draws))
            told += map(Shown, batch.names, batch.captions, levels.timesteps.tolist(), found.tolist())
        return told

    def _update(self, of: int) -> str | None:
        """The optimizer's step, and the average's; returns why it could not be taken, where the memory did not do."""
        share = self._config.schedule(self.step, of) * self._guard.rate
        for group, own in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = own * share
        scaler = self._accelerator.scaler
        try:
            if scaler:
                scaler.step(self._optimizer)
            else:
                self._optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            if self._average:
                self._average.add()
            return None
        told = f"step {self.step + 1}: out of memory in the optimizer"
        if self._short == self.step or self.peers.of > 1:
            raise TrainingError(f"{told}; {LESS}")
        self._short = self.step
        return f"{told}; tried again"

    def _drop(self) -> None:
        """No gradients."""
        self._optimizer.zero_grad(set_to_none=True)
        scaler = self._accelerator.scaler
        if scaler and scaler._per_optimizer_states:
            scaler.update()

    def _rewound(self, reason: str, mishaps: dict[str, Any] | None = None) -> Rewound:
        """Back to the last good state, from where it goes on knowing of these mishaps, or of those until then."""
        self._drop()
        free()
        assert self._good, "the first state is good"
        if mishaps is not None:
            self._good = replace(self._good, told={**self._good.told, "mishaps": mishaps})
        self._restore(self._good)
        self._guard.load(self._good.told["mishaps"])
        return Rewound(self.step, reason)

    def _restore(self, was: State) -> None:
        adapter, average = was.tensors["adapter"], was.tensors.get("ema")
        state.check(self.named, adapter)
        state.put_back(self._optimizer, self.named, self._built, was.tensors["optimizer"], was.told["optimizer"])
        _put(self._everything, [adapter[name] for name in self.named])
        if self._average:
            self._average.load(average or adapter, was.told.get("averaged", 0))
        if self._accelerator.scaler and "scaler" in was.told:
            self._accelerator.scaler.load_state_dict(dict(was.told["scaler"]))
        self._loss, self._losses = was.told["loss"], was.told["losses"]
        self.step = was.step

    def _make_room(self) -> None:
        if self._room.checkpointing and not self._config.memory.gradient_checkpointing:
            self._net.enable_gradient_checkpointing()

    def _report(self, of: int, loss: float | None) -> Step:
        now = time.monotonic()
        assert self._began is not None, "steps have begun"
        speed = sum(self._counts) / max(self._times[-1] - self._times[0], 1e-9)
        smooth = self._loss / (1 - MEMORY**self._losses) if self._losses else 0.0
        rate = self._rates[0] * self._config.schedule(self.step - 1, of) * self._guard.rate
        return Step(self.step, of, loss, smooth, rate, speed, now - self._began, _memory(self._accelerator.device))


@dataclass(frozen=True)
class _Figures:
    """What a step is judged by."""

    loss: float
    """mean over its images"""
    norm: float
    """of the gradient"""
    sound: bool
    """whether weights and optimizer are numbers"""
    images: int
    shown: Callable[[], list[Shown]]


@torch.no_grad()
def _put(parameters: Mapping[nn.Parameter, Tensor] | Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for one, value in zip(parameters, values, strict=True):
        one.copy_(value)


def _size(batch: Batch) -> tuple[int, ...]:
    return tuple(batch.latents.shape[-2:])


def _memory(device: torch.device) -> float:
    """GB, the most that was in use so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _weights_dtype(net: nn.Module) -> torch.dtype:
    """The type of the frozen weights."""
    return next((p.dtype for p in net.parameters() if not p.requires_grad), torch.float32)
