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
    average, times, began = 0.0, deque([time.monotonic()], maxlen=50), time.monotonic()
    for step in range(steps):
        lr = rate * config.schedule(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = _gradients(config, accelerator, family, process, net, batches, step)
        if not math.isfinite(loss):
            raise TrainingError(f"step {step + 1}: the loss is {loss}, so nothing more can be learned; lower --lr")
        if config.clip:
            accelerator.clip_grad_norm_(trainable, config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average = MEMORY * average + (1 - MEMORY) * loss
        times.append(time.monotonic())
        speed = images_a_step(config, accelerator.num_processes) * (len(times) - 1) / (times[-1] - times[0])
        smooth = average / (1 - MEMORY ** (step + 1))
        yield Step(step + 1, steps, loss, smooth, lr, speed, times[-1] - began)


def _gradients(
    config: TrainLora, accelerator: Accelerator, family: Family, process: Process, net: Any, batches: Batches, step: int
) -> float:
    """Add up the gradients of one step's batches; returns their mean loss."""
    processes, total = accelerator.num_processes, 0.0
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
    return total


def _weights_dtype(net: nn.Module) -> torch.dtype:
    """The type of the frozen weights."""
    return next((p.dtype for p in net.parameters() if not p.requires_grad), torch.float32)
