"""The training step and the loop around it."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from sdtune.config import TrainLora
from sdtune.core.data.ahead import ahead
from sdtune.core.data.batches import Batch, Batches
from sdtune.core.data.conditioning import Conditioning, stack
from sdtune.core.data.masks import weights_of
from sdtune.core.diffusion import Noisy, Process
from sdtune.core.draws import Draws, generator
from sdtune.core.families import Family
from sdtune.core.lora import at_strength
from sdtune.core.reports import Step
from sdtune.errors import TrainingError

MEMORY = 0.98  # of the loss average: about the last 50 steps
SPEED_OVER = 50  # steps
NOTHING = 1e-6  # of a mask's sum, whose least other value is a 255th of a pixel in a latent one


@dataclass(frozen=True)
class Lessons:
    """What a training learns from, beside the batches."""

    generic: Sequence[Conditioning] = ()
    """what everyday prompts tell the base's denoiser; one is drawn for each image"""
    everyday: Sequence[str] = ()
    """these prompts, where text encoders that are trained read them anew"""
    read: Callable[[Sequence[str]], Conditioning] | None = None
    """captions as text encoders read them that are trained too; None: batches bring their conditioning"""
    groups: tuple[dict[str, Any], ...] = ()
    """what is trained beside the denoiser: {"params": parameters, "lr": rate} each"""
    parts: tuple[nn.Module, ...] = ()
    """the modules that these belong to"""


def image_losses(
    config: TrainLora,
    family: Family,
    process: Process,
    net: nn.Module,
    batch: Batch,
    draws: Draws,
    lessons: Lessons | None = None,
) -> Tensor:
    """The loss of each image of a batch, [B]: noise it, let the denoiser say what it sees, and weigh its errors."""
    u = config.timesteps.sample(draws)
    noise = config.noise.sample(batch.latents, draws)
    noisy = process.add_noise(batch.latents, noise, u)
    prediction = family.denoise(net, noisy.latents, noisy.timesteps, batch.conditioning)
    errors = config.loss(prediction.float(), noisy.target.float())
    weighting = config.weighting(noisy.snr, process.prediction)
    losses = mean_over(errors, batch.masks, config.mask.floor) * batch.weights
    if lessons and lessons.generic:
        losses = losses + config.keep_base.weight * _drift(family, net, noisy, batch, draws, lessons)
    return losses * weighting


def mean_over(errors: Tensor, masks: Tensor | None, floor: float) -> Tensor:
    """The mean of each image's errors [B, C, h, w] over its mask [B, 1, h, w], of which 0 counts as `floor`; [B]."""
    if masks is None:
        return errors.mean(dim=(1, 2, 3))
    counts = weights_of(masks, floor)
    # A crop may hold nothing of what counts: then there is nothing to learn from it.
    whole = counts.sum(dim=(1, 2, 3)).clamp(min=NOTHING)
    return (errors.mean(dim=1, keepdim=True) * counts).sum(dim=(1, 2, 3)) / whole


def _drift(family: Family, net: nn.Module, noisy: Noisy, batch: Batch, draws: Draws, lessons: Lessons) -> Tensor:
    """How far the denoiser has gone from the base model where other prompts are given, [B]."""
    drawn = [int(u * len(lessons.generic)) for u in draws.uniform("generic prompt").tolist()]
    like = batch.conditioning
    texts = stack([lessons.generic[number] for number in drawn])
    told = like | {name: value.to(like[name]) for name, value in texts.items()}
    with torch.no_grad(), at_strength(net, 0.0):
        base = family.denoise(net, noisy.latents, noisy.timesteps, told)
    if lessons.read and lessons.everyday:
        told = told | lessons.read([lessons.everyday[number] for number in drawn])
    now = family.denoise(net, noisy.latents, noisy.timesteps, told)
    return ((now.float() - base.float()) ** 2).mean(dim=(1, 2, 3))


def accelerator_for(config: TrainLora, precision: str) -> Accelerator:
    """Accelerate's view of this process: its device, its mixed precision ("no", "bf16", "fp16"), its peers."""
    if AcceleratorState._shared_state:  # of an earlier training in this process, which may have had other numbers
        AcceleratorState._reset_state(reset_partial_state=AcceleratorState().num_processes == 1)
    return Accelerator(cpu=config.memory.device == "cpu", mixed_precision=precision)


def images_a_step(config: TrainLora, processes: int = 1) -> int:
    """Images that one optimizer step learns from."""
    return config.batch_size * config.accumulate * processes


def train(
    config: TrainLora,
    accelerator: Accelerator,
    family: Family,
    process: Process,
    net: nn.Module,
    batches: Batches,
    steps: int,
    lessons: Lessons | None = None,
) -> Iterator[Step]:
    """Train what in the denoiser asks for gradients, telling each step; closing the iterator stops between steps."""
    lessons = lessons or Lessons()
    rate = config.optimizer.rate(images_a_step(config, accelerator.num_processes))
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [{"params": trainable, "lr": rate}, *lessons.groups]
    net, optimizer = accelerator.prepare(net, config.optimizer.build(groups, rate))
    everything = [parameter for group in groups for parameter in group["params"]]
    rates = [group["lr"] for group in groups]
    for part in (net, *lessons.parts):
        part.train()
    learner = _Learner(config, accelerator, family, process, net, lessons)
    average, began = 0.0, time.monotonic()
    times, counts = deque([began], maxlen=SPEED_OVER + 1), deque[int](maxlen=SPEED_OVER)
    feed = _Feed(config, accelerator, batches, _weights_dtype(net))
    with closing(ahead(feed, range(steps))) as fed:
        for step, passes in enumerate(fed):
            share = config.schedule(step, steps)
            for group, own in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = own * share
            loss, count = learner.gradients(passes, step)
            norm = accelerator.clip_grad_norm_(everything, config.clip or math.inf)
            # With fp16 a gradient that is too large is usual now and then: the scaler leaves that step out.
            _must_be_finite(step, loss=loss, gradient=1.0 if accelerator.scaler else float(norm))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average = MEMORY * average + (1 - MEMORY) * loss
            times.append(time.monotonic())
            counts.append(count * accelerator.num_processes)
            speed = sum(counts) / (times[-1] - times[0])
            smooth = average / (1 - MEMORY ** (step + 1))
            yield Step(step + 1, steps, loss, smooth, rate * share, speed, times[-1] - began)


@dataclass(frozen=True)
class _Feed:
    """All passes of a step on the device; made ahead of it, in a thread."""

    config: TrainLora
    accelerator: Accelerator
    batches: Batches
    dtype: torch.dtype

    def __call__(self, step: int) -> list[tuple[Batch, Draws]]:
        config, processes = self.config, self.accelerator.num_processes
        passes = []
        for micro in range(config.accumulate):
            place = micro * processes + self.accelerator.process_index
            slots = range(place * config.batch_size, (place + 1) * config.batch_size)
            draws = Draws(config.seed, step, slots, images_a_step(config, processes))
            number = step * config.accumulate * processes + place
            passes += [
                (batch.to(self.accelerator.device, self.dtype), here) for batch, here in self.batches.at(number, draws)
            ]
        return passes


@dataclass(frozen=True)
class _Learner:
    """What the passes of a step are learned with."""

    config: TrainLora
    accelerator: Accelerator
    family: Family
    process: Process
    net: Any
    lessons: Lessons

    def gradients(self, passes: Sequence[tuple[Batch, Draws]], step: int) -> tuple[float, int]:
        """Add up the gradients of one step's passes; returns the mean loss of its images, and how many they are.

        Each image counts alike, whatever passes they come in: the gradient is that of the sum over the usual number.
        """
        usual = self.config.batch_size * self.config.accumulate
        total, count = 0.0, 0
        for number, (batch, draws) in enumerate(passes, 1):
            # LoRA dropout is the one draw that PyTorch makes itself.
            _seed(generator(self.config.seed, "dropout", step, draws.slots.start).initial_seed(), batch.latents.device)
            last = number == len(passes)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.net):
                with self.accelerator.autocast():
                    loss = self._losses(batch, draws).sum()
                self.accelerator.backward(loss / usual)
            total += loss.item()
            count += len(batch.latents)
        return total / count, count

    def _losses(self, batch: Batch, draws: Draws) -> Tensor:
        if self.lessons.read:
            read = self.lessons.read(batch.captions)
            batch = Batch(
                batch.latents, read | batch.conditioning, batch.weights, batch.masks, batch.captions, batch.names
            )
        return image_losses(self.config, self.family, self.process, self.net, batch, draws, self.lessons)


def _seed(seed: int, device: torch.device) -> None:
    """What `torch.manual_seed` does, which on a machine without CUDA takes ten times as long to note who asked."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _must_be_finite(step: int, **values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            cause = (
                "lower --lr" if step else "the settings, the model or an image is out of any range; try the defaults"
            )
            raise TrainingError(f"step {step + 1}: the {name} is {value}, so nothing more can be learned; {cause}")


def _weights_dtype(net: nn.Module) -> torch.dtype:
    """The type of the frozen weights."""
    return next((p.dtype for p in net.parameters() if not p.requires_grad), torch.float32)
