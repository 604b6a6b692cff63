"""Several processes that train one model on shares of a batch: on a CPU two single threads beat a pair of threads."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

# glibc gives large blocks back at once, and getting them anew costs page faults; read when a process starts.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "20000000000", "MALLOC_TOP_PAD_": "268435456"}


def device() -> torch.device:
    """A CUDA card where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def spread(work: Callable[..., None], *arguments: Any) -> None:
    """Run `work` once on a card, or in one process a core."""
    processes = 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    if processes == 1:
        work(*arguments)
        return
    os.environ.update(KEEP_MEMORY)
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        spawn(_joined, (processes, meeting, work, arguments), nprocs=processes)


def _joined(rank: int, processes: int, meeting: Path, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=processes)
    work(*arguments)
    dist.destroy_process_group()


def place() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def average(module: nn.Module, progress: float) -> float:
    """Give every process the mean of all gradients; returns the mean of their progress, so that they stop together."""
    if not dist.is_initialized():
        return progress
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([*(g.flatten() for g in gradients), torch.tensor([progress])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    *means, shared = flat.split([*(g.numel() for g in gradients), 1])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))
    return float(shared)
