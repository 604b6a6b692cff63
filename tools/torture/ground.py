"""The ground of all trials: a tiny random model, pictures and a cache on disk, and processes that train on them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import tomli_w
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor

from sdtune.choices.spec import kinds_of
from sdtune.config import Tables, TrainLora, merge, resolve
from sdtune.core.checkpoint import Checkpoints
from tests import pictures, tiny
from tools.torture.nursery import LONG, Nursery, Process, nursery

PICTURES = 14  # from 12 on some are held out
SIZES = ((64, 64), (96, 32), (64, 64), (32, 96))
STEPS = 60
USUAL: Mapping[str, Any] = {
    "data": {"resolution": 64},
    "buckets": {"step": 32},
    "network": {"rank": 4},
    "optimizer": {"kind": "adamw"},
    "batch_size": 2,
    "ema": {"decay": 0.9},
    "save": {"every": 7},
    "validation": {"every": 20, "timesteps": 4, "noises": 1, "images": 2},
    "stop": {"early": False},
    "samples": {"off": True},
    "steps": STEPS,
}
"""of a training that is over in a second or two"""
IN_8_BITS = {"network": {"rank": 128}}
"""bitsandbytes keeps tensors under 4096 numbers in 32 bits; the tiny model's layers are 32 wide"""


@dataclass
class Ground:
    """Where trials are made."""

    folder: Path
    model: Path
    pictures: Path
    nursery: Nursery
    _numbers: Iterator[int] = field(default_factory=count)

    def new(self) -> Path:
        """A place for a run, where nothing is yet."""
        return self.folder / f"run-{next(self._numbers):05d}"

    def words(self, out: Path, settings: Tables | None = None, *more: str) -> list[str]:
        """The command line of a training."""
        preset = out.with_suffix(".toml")
        preset.write_text(tomli_w.dumps(merge(TrainLora, dict(USUAL), settings or {})), encoding="utf-8")
        where = ["--model", str(self.model), "--out", str(out), "--preset", str(preset)]
        return ["train-lora", str(self.pictures), *where, *(more or ["--json"])]

    def config(self, out: Path, settings: Tables | None = None) -> TrainLora:
        """The same settings, for a training in this process."""
        tables = merge(TrainLora, dict(USUAL), settings or {})
        where: Tables = {"model": str(self.model), "out": str(out), "data": {"folder": str(self.pictures)}}
        return resolve(TrainLora, [tables, where])

    def train(self, out: Path, settings: Tables | None = None, **environment: str) -> Process:
        """Start a training."""
        return self.nursery.start(self.words(out, settings), **environment)

    def resume(self, out: Path, settings: Tables | None = None, **environment: str) -> Process:
        """Go on with one: begin it, where nothing of it is there."""
        words = self.words(out, settings)
        if out.exists():
            place = words.index("--out")
            words[place : place + 2] = ["--resume", str(out)]
        return self.nursery.start(words, **environment)

    def finished(self, settings: Tables | None = None) -> Path:
        """The run of a training that nothing disturbed."""
        out = self.new()
        process = self.train(out, settings)
        assert process.wait() == 0, process.told()
        return out


@contextlib.contextmanager
def ground(folder: Path | None = None) -> Iterator[Ground]:
    """A ground that is gone after the block, unless it has a folder."""
    with contextlib.ExitStack() as stack:
        where = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="torture-")))
        where.mkdir(parents=True, exist_ok=True)
        own = {"SDTUNE_CACHE": str(where / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
        before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        stack.callback(_restore, before)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        stack.callback(torch.set_num_threads, threads)
        opened = stack.enter_context(nursery(where / "told", **own))
        yield Ground(
            where,
            _model(where / "model"),
            pictures.folder(where / "discs", PICTURES, SIZES),
            opened,
        )


def _model(folder: Path) -> Path:
    """The tests' tiny Stable Diffusion 1.x with a denoiser of one level, which takes half as long."""
    pipe = tiny.pipeline("sd1")
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    shape = blocks | {"block_out_channels": (tiny.WIDTH,), "layers_per_block": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe.unet = UNet2DConditionModel.from_config(pipe.unet.config, **shape).eval()
    return tiny.saved_pipeline(pipe, folder)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def result(out: Path) -> dict[str, str]:
    """The fingerprints of what a finished run has left: its LoRA, and all parts of its newest checkpoint."""
    state, lines = Checkpoints(out / "checkpoints").newest()
    assert state is not None, f"{out}: no checkpoint"
    assert not lines, lines
    parts = {name: fingerprint(tensors) for name, tensors in state.tensors.items()}
    return {"step": str(state.step), "lora": fingerprint(weights(out)), **parts}


def weights(out: Path) -> dict[str, Tensor]:
    """The tensors of a run's LoRA."""
    (path,) = (path for path in out.glob("*.safetensors") if "-step-" not in path.name and "-best" not in path.name)
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)


def metrics(out: Path) -> list[tuple[int, float]]:
    """Steps and their losses, as metrics.jsonl has them."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [(told["number"], told["loss"]) for told in map(json.loads, lines)]


def unlike(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """The names of what differs."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """How far tensors are from each other, relative to their norm."""
    assert one.keys() == other.keys()
    difference = sum(float((one[name].double() - other[name].double()).square().sum()) for name in one)
    norm = sum(float(other[name].double().square().sum()) for name in other)
    return float((difference / norm) ** 0.5) if norm else float(difference)


def watch(process: Process, until: Callable[[list[dict[str, Any]]], bool], seconds: float = LONG) -> bool:
    """Look at what a process tells until it has told what is waited for; False where it ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        over = process.poll() is not None
        if until(process.reports()):
            return True
        if over:
            return False
        time.sleep(0.001)
    process.kill(signal.SIGKILL)
    return False


def _restore(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def kinds() -> dict[str, Tables]:
    """The settings of every optimizer that there is, by its kind."""
    found = kinds_of(TrainLora.model_fields["optimizer"])
    assert found
    return {kind: {"optimizer": {"kind": kind}} | (IN_8_BITS if "8bit" in kind else {}) for kind in sorted(found)}
