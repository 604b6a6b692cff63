"""Fitting the card: where to work, in which numbers, and with which attention."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Any, Literal

import torch

from sdtune.errors import ConfigError
from sdtune.tables import Machine

WANTING = {
    "cuda": "CUDA card; use --device cpu, or install a CUDA build",
    "mps": "Apple GPU (mps); use --device cpu",
}
MIXED = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "no"}


def device_for(memory: Machine, *, mps: bool = False) -> torch.device:
    """The device asked for, else what there is: the CUDA card, Apple's where the caller works on `mps`, the CPU.

    The CPU's threads are set with it. Drawing alone works on mps; nothing there has been measured.
    """
    if memory.threads:
        torch.set_num_threads(memory.threads)
    if memory.device == "mps" and not mps:
        raise ConfigError("memory.device (--device): mps is for sample alone, all else is not tested on it; use cpu")
    found = [name for name, there in _cards() if there and (mps or name != "mps")]
    if memory.device not in ("auto", "cpu", *found):
        raise ConfigError(f"memory.device (--device): PyTorch finds no {WANTING[memory.device]}")
    return torch.device(memory.device if memory.device != "auto" else (*found, "cpu")[0])


def _cards() -> list[tuple[str, bool]]:
    """Devices beside the CPU, the best first, and whether there is one."""
    return [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())]


def pictures_at_once(batch_size: int, device: torch.device) -> int:
    """How many are drawn together: on a CPU as many as there are cores for, each with the threads that it may have."""
    if device.type != "cpu":
        return batch_size
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(batch_size, cores // torch.get_num_threads()))


def make_deterministic(memory: Machine, device: torch.device) -> None:
    """Where --deterministic asks it of a card, an operation that has no form with the same bits each time is an error.

    For the rest of the process. The CPU's have none other.
    """
    if not memory.deterministic or device.type != "cuda":
        return
    if memory.attention == "xformers":
        raise ConfigError("memory.attention: xformers is not the same bits each time; use sdpa with --deterministic")
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # PyTorch's notes on reproducibility; read as CUDA starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_flash_sdp(False)  # their gradients are summed in an order of chance
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_math_sdp(True)


def dtype_for(memory: Machine, device: torch.device) -> torch.dtype:
    """Numbers of the frozen weights: as asked, else bf16 or fp16 by what the card has, fp16 on mps, fp32 on the CPU."""
    if memory.precision != "auto":
        if memory.precision == "fp16" and device.type == "cpu":
            raise ConfigError("memory.precision: fp16 does not run on the CPU; use fp32 or bf16")
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[memory.precision]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16


def maker_of(device: torch.device) -> tuple[str, ...]:
    """What the last digits of a result depend on, beside what is computed: the card, or the CPU's threads."""
    if device.type == "cuda":
        return "cuda", torch.cuda.get_device_name(device)
    return device.type, str(torch.get_num_threads())


@dataclass(frozen=True)
class Attention:
    """The attention that works on a device."""

    used: Literal["sdpa", "xformers"]
    told: str
    """a sentence on it"""


def attention_for(asked: str, device: torch.device, dtype: torch.dtype) -> Attention:
    """What is asked for, or else the other one, by a trial on the device."""
    if torch.are_deterministic_algorithms_enabled():
        return Attention("sdpa", "attention: sdpa (plain arithmetic, the same bits each time)")
    if asked == "sdpa" or (asked == "auto" and _sdpa_saves_memory(device, dtype)):
        return Attention("sdpa", "attention: sdpa (PyTorch's memory-efficient kernels)")
    reason = _why_xformers_fails(device, dtype)
    if reason is None:
        return Attention("xformers", "attention: xformers")
    return Attention("sdpa", f"attention: sdpa, since xformers {reason}" if asked == "xformers" else "attention: sdpa")


def use_attention(net: Any, asked: str, device: torch.device, dtype: torch.dtype) -> str:
    """Sets the denoiser's attention by a trial on the device and returns the sentence that tells of it."""
    found = attention_for(asked, device, dtype)
    if found.used == "xformers":
        try:
            net.enable_xformers_memory_efficient_attention()
        except Exception as error:  # as in the trial
            return f"attention: sdpa, since xformers does not take this model ({type(error).__name__})"
    return found.told


def _sdpa_saves_memory(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a fused kernel runs here, forwards and backwards."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if device.type == "cpu":
        return True  # the CPU's flash kernel is part of every PyTorch since 2.1
    if device.type == "mps":
        return False  # PyTorch tells nothing of its kernels there
    query = torch.randn(1, 2, 64, 32, device=device, dtype=dtype, requires_grad=True)
    try:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
            torch.nn.functional.scaled_dot_product_attention(query, query, query).sum().backward()
    except RuntimeError:
        return False
    return True


def _why_xformers_fails(device: torch.device, dtype: torch.dtype) -> str | None:
    """None where xformers works, forwards and backwards; else the reason in a few words."""
    if device.type == "mps":
        return "is for CUDA cards"
    if importlib.util.find_spec("xformers") is None:
        return "is not installed (pip install 'sdtune[gpu]')"
    try:
        import xformers.ops

        query = torch.randn(1, 64, 2, 32, device=device, dtype=dtype, requires_grad=True)
        xformers.ops.memory_efficient_attention(query, query, query).sum().backward()
    except Exception as error:  # a mismatched build fails in many ways: ImportError, OSError, NotImplementedError
        return f"has no working operator for {dtype} on {device.type} ({type(error).__name__})"
    return None
