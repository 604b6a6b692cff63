"""What a precision holds of a LoRA's numbers: how much of each module's change is lost in it, and what loses less."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sdtune.core.adapters import LoraModule
from sdtune.core.lora import Lora
from sdtune.lora_config import Dtype

DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOLERANCE: dict[Dtype, float] = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1.6e-2}
"""of a module's change: twice what two factors lose whose numbers are neither too large nor too small"""
NOTHING = 1e-30
"""Frobenius norm of a change that no weight in float32 shows"""


def with_alpha(module: LoraModule, alpha: float) -> LoraModule:
    """The same change told with another alpha, the difference in up."""
    return (
        module if module.alpha == alpha else LoraModule(module.down, module.up.float() * (module.alpha / alpha), alpha)
    )


def balanced(module: LoraModule, alpha: float) -> LoraModule:
    """The same change told with another alpha, and numbers in down and up that are about as large.

    Powers of two go from one to the other, which costs no digit.
    """
    down, up = module.down.detach().cpu().double(), module.up.detach().cpu().double() * (module.alpha / alpha)
    largest = [float(one.abs().max()) for one in (down, up)]
    if not all(largest) or not all(map(math.isfinite, largest)):
        return with_alpha(module, alpha)
    shift = round(math.log2(largest[1] / largest[0]) / 2)
    return LoraModule((down * 2.0**shift).float(), (up * 2.0**-shift).float(), alpha)


def fitting(module: LoraModule, alpha: float, dtype: Dtype) -> LoraModule:
    """The same change with this alpha, balanced where this precision would else lose some of it."""
    plain = with_alpha(module, alpha)
    held = narrowed(plain, dtype)
    too_large = not (torch.isfinite(held.down).all() and torch.isfinite(held.up).all())
    return plain if too_large or lost(module, held) <= TOLERANCE[dtype] else balanced(module, alpha)


def narrowed(module: LoraModule, dtype: Dtype) -> LoraModule:
    """With the numbers that this precision has."""
    return LoraModule(
        module.down.detach().cpu().to(DTYPES[dtype]), module.up.detach().cpu().to(DTYPES[dtype]), module.alpha
    )


def lost(module: LoraModule, other: LoraModule) -> float:
    """How far another one is from what a module changes, as a share of it, rank by rank: 0 for the same.

    Each rank adds a matrix u v^T, and two such are |u|^2 |v|^2 + |u'|^2 |v'|^2 - 2 (u u') (v v') apart, squared.
    """
    down, up, scale = *_columns(module), module.alpha / module.rank
    its_down, its_up, its_scale = *_columns(other), other.alpha / other.rank
    mine = scale**2 * up.square().sum(0) * down.square().sum(0)
    whole = float(mine.sum())
    if not math.isfinite(whole):
        return math.inf
    if whole < NOTHING**2:
        return 0.0
    others = its_scale**2 * its_up.square().sum(0) * its_down.square().sum(0)
    both = scale * its_scale * (up * its_up).sum(0) * (down * its_down).sum(0)
    apart = float((mine + others - 2 * both).clamp_min(0).sum())
    return math.sqrt(apart / whole) if math.isfinite(apart) else math.inf


def _columns(module: LoraModule) -> tuple[Tensor, Tensor]:
    """down and up, [in, rank] and [out, rank] in double precision."""
    return module.down.detach().cpu().double().flatten(1).T, module.up.detach().cpu().double().flatten(1)


def is_held(lora: Lora, meant: Lora, dtype: Dtype) -> bool:
    """Whether nothing of a LoRA is too small for a precision, `meant` being the same with other alphas."""
    whole: list[Tensor] = list(lora.biases.values())
    whole += [value for vectors in lora.embeddings.values() for value in vectors.values()]
    for name, value in lora.modules.items():
        if not isinstance(value, LoraModule):
            whole += _weights(value.tensors())
            continue
        told = meant.modules[name]
        assert isinstance(told, LoraModule), "other alphas change no network"
        if not lost(value, narrowed(told, dtype)) <= TOLERANCE[dtype]:
            return False
    return all(_share_lost(value, dtype) <= TOLERANCE[dtype] for value in whole)


def _weights(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return [value for role, value in tensors.items() if role != "alpha"]


def _share_lost(value: Tensor, dtype: Dtype) -> float:
    exact = value.detach().cpu().double()
    norm = float(torch.linalg.vector_norm(exact))
    return float(torch.linalg.vector_norm(exact - exact.to(DTYPES[dtype]).double())) / norm if norm > NOTHING else 0.0
