"""Networks other than the plain LoRA, of random numbers, for some of its modules."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sdtune.core.adapters import Adapter, adapters
from sdtune.core.families.base import Shapes
from sdtune.core.lora_file import Lora
from tools.interop.subject import ALPHA, RANK, Made

Random = Callable[..., Tensor]


def _lora(shape: tuple[int, ...], random: Random) -> dict[str, Tensor]:
    ones = (1,) * (len(shape) - 2)
    return {"lora_down.weight": random(RANK, *shape[1:]), "lora_up.weight": random(shape[0], RANK, *ones)}


def _dora_of_inputs(shape: tuple[int, ...], random: Random) -> dict[str, Tensor]:
    return _lora(shape, random) | {"dora_scale": random(1, shape[1], *(1,) * (len(shape) - 2)).abs() + 1}


def _dora_of_outputs(shape: tuple[int, ...], random: Random) -> dict[str, Tensor]:
    return _lora(shape, random) | {"dora_scale": random(shape[0], 1, *(1,) * (len(shape) - 2)).abs() + 1}


def _loha(shape: tuple[int, ...], random: Random) -> dict[str, Tensor]:
    wide = math.prod(shape[1:])
    first = {"hada_w1_a": random(shape[0], RANK), "hada_w1_b": random(RANK, wide)}
    return first | {"hada_w2_a": random(shape[0], RANK), "hada_w2_b": random(RANK, wide)}


def _lokr(shape: tuple[int, ...], random: Random) -> dict[str, Tensor]:
    wide = math.prod(shape[1:]) // 4
    whole = {"lokr_w1": random(4, 4)}
    if len(shape) > 2:
        return whole | {"lokr_w2": random(shape[0] // 4, shape[1] // 4, *shape[2:])}
    return whole | {"lokr_w2_a": random(shape[0] // 4, RANK), "lokr_w2_b": random(RANK, wide)}


def _oft(shape: tuple[int, ...], random: Random) -> dict[str, Tensor]:
    return {"oft_blocks": random(shape[0] // 8, 8, 8)}


NETWORKS: dict[str, tuple[str, Any, float]] = {
    "DoRA of inputs": ("DoRA", _dora_of_inputs, ALPHA),
    "DoRA of outputs": ("DoRA", _dora_of_outputs, ALPHA),
    "LoHa": ("LoHa", _loha, ALPHA),
    "LoKr": ("LoKr", _lokr, ALPHA),
    "OFT": ("OFT", _oft, 0.0),
}
"""network -> kind, what makes its tensors of a weight's shape, alpha"""


SOME = re.compile(r"\.(mid_block|transformer_blocks\.0|encoder\.layers\.0)\.")
"""modules that stand for all: what is told apart by names is the same in every block"""


def made(network: str, like: Lora, shapes: Shapes) -> Made:
    """Such a network on some modules of a LoRA."""
    kind, tensors, alpha = NETWORKS[network]
    modules: Mapping[str, Adapter] = {
        module: adapters()[kind].from_tensors(tensors(shapes[f"{module}.weight"], _numbers(module)), alpha)
        for module in like.modules
        if SOME.search(module)
    }
    assert like.family
    return Made(network, like.family, modules)


def _numbers(module: str) -> Random:
    generator = torch.Generator().manual_seed(zlib.crc32(module.encode()))
    return lambda *shape: torch.empty(shape).normal_(0, 0.1, generator=generator)
