"""DoRA: a LoRA of the weights' direction, with their magnitude told apart (Liu et al. 2024, arXiv:2402.09353).

W' = magnitude x (W + change) / norm(W + change), the norm by outputs, as peft has it, or by input channels, as LyCORIS
had it first; strength scales W' - W (ComfyUI, comfy/weight_adapter/base.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sdtune.core.adapters.base import Adapter, share_of
from sdtune.core.adapters.loha import LohaModule
from sdtune.core.adapters.lokr import LokrModule
from sdtune.core.adapters.lora import LoraModule

SCALE, VECTOR = "dora_scale", "lora_magnitude_vector"
EPSILON = torch.finfo(torch.float32).eps
"""added to the norm, as LyCORIS does"""


@dataclass(frozen=True)
class DoraModule(Adapter):
    """What a DoRA makes of one module."""

    kind: ClassVar[str] = "DoRA"
    needs_base: ClassVar[bool] = True

    inner: LoraModule | LohaModule | LokrModule
    """what changes the direction"""
    magnitude: Tensor
    """[out, 1] or [1, in channels], of a convolution with two ones more"""

    @classmethod
    @override
    def from_tensors(cls, tensors: Mapping[str, Tensor], alpha: float | None) -> DoraModule:
        given = [role for role in (SCALE, VECTOR) if role in tensors]
        if len(given) != 1:
            raise ValueError(f"has {' and '.join(sorted(tensors)) or 'nothing'}, which is no whole DoRA")
        rest = {role: value for role, value in tensors.items() if role not in given}
        inner = _inner(rest).from_tensors(rest, alpha)
        magnitude = tensors[given[0]]
        ones = [1] * (max(value.ndim for value in [magnitude, *rest.values()]) - 2)
        long_one_way = magnitude.numel() == max(magnitude.shape, default=1) > 0
        of_outputs = magnitude.numel() == inner.shape[0] and (
            given[0] == VECTOR or magnitude.ndim == 1 or magnitude.shape[:1] == inner.shape[:1]
        )
        of_inputs = given[0] == SCALE and magnitude.shape[:1] == (1,) and magnitude.shape[1:2] == (magnitude.numel(),)
        if not long_one_way or not (of_outputs or (of_inputs and inner.shape[1] % magnitude.numel() == 0)):
            told = f"has a magnitude of shape {tuple(magnitude.shape)}"
            raise ValueError(f"{told}, which makes no DoRA of weights {inner.shape}")
        return cls(inner, magnitude.reshape([-1, 1, *ones] if of_outputs else [1, -1, *ones]))

    @property
    @override
    def rank(self) -> int | None:
        """Of what changes the direction."""
        return self.inner.rank

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    @property
    @override
    def kernel(self) -> tuple[int, ...] | None:
        return self.inner.kernel

    @property
    def of_outputs(self) -> bool:
        """Whether the magnitude is that of each output's weights, rather than of each input channel's."""
        return self.magnitude.shape[:2] == (self.shape[0], 1)

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {**self.inner.tensors(), SCALE: self.magnitude}

    @override
    def delta(self, base: Tensor | None = None) -> Tensor:
        assert base is not None, "a DoRA's change depends on the weights"
        weight = base + self.inner.delta()
        magnitude = self.magnitude.float().flatten()
        if self.of_outputs:
            norm = weight.norm(dim=1)
            factor = (magnitude / (norm + EPSILON))[:, None]
        else:
            channels = weight.unflatten(1, (len(magnitude), -1))
            norm = channels.norm(dim=(0, 2))
            factor = (magnitude / (norm + EPSILON)).repeat_interleave(channels.shape[2])
        changed: Tensor = weight * factor
        return changed - base

    @override
    def fits(self, weight: Sequence[int]) -> bool:
        return super().fits(weight) and (self.of_outputs or self.magnitude.shape[1] == math.prod(weight[1:2]))

    @override
    def share(self, number: int, of: int) -> Adapter:
        if not self.of_outputs or isinstance(self.inner, LokrModule):
            return super().share(number, of)
        return DoraModule(self.inner.share(number, of), share_of(self.magnitude, number, of))


def _inner(tensors: Mapping[str, Tensor]) -> type[LoraModule | LohaModule | LokrModule]:
    if any(role.startswith("hada_") for role in tensors):
        return LohaModule
    return LokrModule if any(role.startswith("lokr_") for role in tensors) else LoraModule
