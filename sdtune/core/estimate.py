"""Estimates: what a training will need of memory, disk and time, from its settings and its real parts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from sdtune.config import TrainLora
from sdtune.core import disk
from sdtune.core.lora_precision import DTYPES
from sdtune.core.reports import Disk
from sdtune.errors import OutputError
from sdtune.lora_config import Dtype

FACTS = 2000  # bytes of a LoRA's metadata, and of the JSON of a checkpoint
MARGIN = 2  # times what a run writes must be free, as everywhere before a file is written
BACKWARD = 2  # the work of a backward pass, in forward passes
A_PIXEL = 3  # bytes of a PNG, at the most


def optimizer_tensors(config: TrainLora, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What the optimizer will keep on the device, {parameter/key: a tensor of that size}."""
    kept = _optimizer_state(config, named).items()
    return {f"{name}/{key}": one for name, own in kept for key, one in own.items() if isinstance(one, Tensor)}


def _optimizer_state(config: TrainLora, named: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Any]]:
    """What the optimizer will keep of each parameter: found by a step on others of the same shapes.

    So every optimizer tells it itself: 8-bit ones keep small tensors in 32 bits, Prodigy keeps no start that is zero.
    """
    rate = config.optimizer.rate(1)
    kinds = {name: (tuple(one.shape), bool(one.any())) for name, one in named.items()}
    trial = {kind: nn.Parameter(torch.full(kind[0], float(kind[1]))) for kind in kinds.values()}
    optimizer: Any = config.optimizer.build([{"params": list(trial.values()), "lr": rate}], rate)
    for one in trial.values():
        one.grad = torch.full_like(one, 1e-3)
    optimizer.step()
    return {name: dict(optimizer.state[trial[kind]]) for name, kind in kinds.items()}


def known_memory(
    config: TrainLora, named: Mapping[str, nn.Parameter], frozen: Mapping[str, Iterable[nn.Module]]
) -> tuple[tuple[str, float], ...]:
    """GB on the device by what they are for; what the passes through the denoiser need is not among them.

    `frozen`: {what: the modules of it that stay on the device}.
    """
    trained = sum(one.numel() for one in named.values()) * 4  # bytes, in fp32
    moments = sum(value.nbytes for value in optimizer_tensors(config, named).values())
    own = {id(one) for one in named.values()}
    weights = {
        what: sum(one.nbytes for module in modules for one in module.parameters() if id(one) not in own)
        for what, modules in frozen.items()
    }
    parts = {
        **{f"weights of the {what}": size for what, size in weights.items()},
        "what is trained": trained,
        "gradients": trained,
        "optimizer": moments,
        "average of the weights": trained if config.ema.decay else 0,
    }
    return tuple((what, size / 1e9) for what, size in parts.items() if size)


def lora_bytes(named: Mapping[str, nn.Parameter], dtype: Dtype) -> int:
    """About the size of the LoRA's file, and of the new word's beside it."""
    held: dict[str, Tensor] = {}
    for name, one in named.items():
        kept = torch.float32 if name.startswith("token.") else DTYPES[dtype]
        held[name] = torch.empty(one.shape, dtype=kept, device="meta")
        if ".lora_A." in name:
            held[f"{name}.alpha"] = torch.empty((), device="meta")
    return file_bytes(held) + FACTS


def checkpoint_bytes(config: TrainLora, named: Mapping[str, nn.Parameter]) -> int:
    """About the size of a checkpoint: what is trained in fp32, the optimizer's tensors, the average of the weights."""
    adapter = {name: torch.empty(one.shape, device="meta") for name, one in named.items()}
    average = file_bytes(adapter) if config.ema.decay else 0
    state = _optimizer_state(config, named)
    numbers = {
        name: {key: one for key, one in own.items() if not isinstance(one, Tensor)} for name, own in state.items()
    }
    told = len(json.dumps(numbers)) if any(numbers.values()) else 0
    return file_bytes(adapter) + file_bytes(optimizer_tensors(config, named)) + told + average + FACTS


def file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """The size of a safetensors file."""
    entries, end = {}, 0
    for name, one in tensors.items():
        entries[name] = {"dtype": "F32", "shape": list(one.shape), "data_offsets": [end, end := end + one.nbytes]}
    return 8 + len(json.dumps(entries, separators=(",", ":"))) + end


def disk_for(
    config: TrainLora,
    named: Mapping[str, nn.Parameter],
    place: Path,
    *,
    loras: int,
    drawings: int,
    prompts: int,
    cache: int,
) -> Disk:
    """What a run folder at this place will hold, and what is free there."""
    side = config.data.resolution or 0
    pictures = drawings * prompts * 2  # each as a file of its own, and on a sheet
    return Disk(
        lora=lora_bytes(named, config.save.dtype),
        loras=loras,
        checkpoint=checkpoint_bytes(config, named),
        checkpoints=config.save.keep + 1,
        pictures=pictures * side * side * A_PIXEL,
        cache=cache,
        free=free_at(place),
    )


def free_at(place: Path) -> int | None:
    """Bytes that this user may write where a folder is, or will be; None where that cannot be found out."""
    above = Path(os.path.abspath(place))
    try:
        while not above.exists():
            above = above.parent
        return disk.free(above)
    except OSError:
        return None


def check_disk(needs: Disk, place: Path) -> None:
    """Stop where the disk has less than twice what the run will write."""
    if needs.free is not None and needs.free < MARGIN * needs.needed:
        needed, free = (f"{size / 1e9:.1f} GB" for size in (needs.needed, needs.free))
        raise OutputError(
            f"{place}: the run writes about {needed}, and {free} are free there, where twice of that is safe; free "
            "some space, or choose another place with --out"
        )


def memory_of(device: torch.device) -> float:
    """GB that a device has."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory / 1e9)
    return float(psutil.virtual_memory().total / 1e9)


def forward_seconds(config: TrainLora, step: float, images: int) -> float:
    """What one image's pass through the denoiser takes, without its gradients, where a step of so many takes `step`."""
    passes = 1 + BACKWARD + config.memory.gradient_checkpointing
    if config.keep_base.weight:  # the base's answer, and its own with gradients
        passes += 1 + passes
    return step / images / passes
