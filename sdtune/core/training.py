"""The training step and the loop around it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from sdtune.config import TrainLora
from sdtune.core.data.batches import Batch, Batches
from sdtune.core.diffusion import Process
from sdtune.core.draws import Draws, generator
from sdtune.core.families import Family
from sdtune.core.reports import Step
from sdtune.errors import TrainingError

MEMORY = 0.98  # of the loss average: about the last 50 steps
SPEED_OVER = 50  # steps


def step_loss(
    config: TrainLora, family: Family, process: Process, net: nn.Module, batch: Batch, draws: Draws
) -> Tensor:
    """The loss of one batch: noise it, let the denoiser say what it sees, and weigh its errors."""
    u = config.timesteps.sample(draws)
    noise = config.noise.sample(batch.latents, draws)
    noisy = process.add_noise(batch.latents, noise, u)
    prediction = family.denoise(net, noisy.latents, noisy.timesteps, batch.conditioning)
    errors = config.loss(prediction.float(), noisy.target.float()).mean(dim=(1, 2, 3))
    return (errors * config.weighting(noisy.snr, process.prediction) * batch.weights).mean()


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
) -> Iterator[Step]:
    """Train what in the denoiser asks for gradients, telling each step; closing the iterator stops between steps."""
    rate = config.optimizer.rate(images_a_step(config, accelerator.num_processes))
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    net, optimizer = accelerator.prepare(net, config.optimizer.build(trainable, rate))
    net.train()
    average, began = 0.0, time.monotonic()
    times, counts = deque([began], maxlen=SPEED_OVER + 1), deque[int](maxlen=SPEED_OVER)
    for step in range(steps):
        lr = rate * config.schedule(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss, count = _gradients(config, accelerator, family, process, net, batches, step)
        norm = accelerator.clip_grad_norm_(trainable, config.clip or math.inf)
        # With fp16 a gradient that is too large is usual now and then: the scaler leaves that step out.
        _must_be_finite(step, loss=loss, gradient=1.0 if accelerator.scaler else float(norm))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average = MEMORY * average + (1 - MEMORY) * loss
        times.append(time.monotonic())
        counts.append(count * accelerator.num_processes)
        speed = sum(counts) / (times[-1] - times[0])
        smooth = average / (1 - MEMORY ** (step + 1))
        yield Step(step + 1, steps, loss, smooth, lr, speed, times[-1] - began)


def _gradients(
    config: TrainLora, accelerator: Accelerator, family: Family, process: Process, net: Any, batches: Batches, step: int
) -> tuple[float, int]:
    """Add up the gradients of one step's batches; returns their mean loss, and how many images they hold."""
    processes, total, count = accelerator.num_processes, 0.0, 0
    for micro in range(config.accumulate):
        place = micro * processes + accelerator.process_index
        slots = range(place * config.batch_size, (place + 1) * config.batch_size)
        draws = Draws(config.seed, step, slots, images_a_step(config, processes))
        batch = batches.at(step * config.accumulate * processes + place, draws)
        batch = batch.to(accelerator.device, _weights_dtype(net))
        draws = draws.first(len(batch.latents))
        # LoRA dropout is the one draw that PyTorch makes itself.
        torch.manual_seed(generator(config.seed, "dropout", step, place).initial_seed())
        with accelerator.autocast():
            loss = step_loss(config, family, process, net, batch, draws) / config.accumulate
        accelerator.backward(loss)
        total += loss.item()
        count += len(batch.latents)
    return total, count


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
