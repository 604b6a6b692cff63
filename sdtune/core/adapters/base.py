"""Adapter: what a LoRA file adds to one module, of whatever network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor


class Adapter(ABC):
    """A change of one module's weights; a class a network, found by being in this package.

    Weights are flat here: [out, in], of a convolution [out, in x k x k], of a norm [n, 1].
    """

    kind: ClassVar[str]
    """as people call the network: LoRA, DoRA, LoHa, LoKr, OFT, difference; its roles stand in lora_keys.NETWORKS"""
    needs_base: ClassVar[bool] = False
    """whether the change depends on the weights that it is added to"""
    module: ClassVar[str] = "networks.lora"
    """ss_network_module in the metadata"""

    @property
    def rank(self) -> int | None:
        """Inner width, None where it has none."""
        return None

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], alpha: float | None) -> Adapter:
        """Out of {role: tensor} in float32, without the alpha, which is told apart.

        Raises ValueError that says in a few words which shapes do not make one: "has shapes (4, 8) and (8, 5), which
        make no LoRA of rank 1 to 1024".
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The same as {role: tensor}, "alpha" among them where it has one."""

    @abstractmethod
    def delta(self, base: Tensor | None = None) -> Tensor:
        """What is added to the weights at strength 1, flat, in float32; `base` are the weights, flat, in float32."""
