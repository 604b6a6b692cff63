"""The state of a training: all that the next step depends on beside the data, as tensors and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class State:
    """What a checkpoint holds and what a training is brought back to; there is no random state in it."""

    step: int
    """optimizer steps that are finished"""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """on the CPU, in files of these names: "adapter" {parameter: weights in fp32}, "optimizer" {parameter/key: tensor},
    "ema" {parameter: average}, this one only where an average is kept"""
    told: Mapping[str, Any] = field(default_factory=dict)
    """plain JSON values: the optimizer's numbers, the loss average, the loss scaler, what is known of the memory"""
