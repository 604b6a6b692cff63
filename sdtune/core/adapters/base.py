"""Adapter: what a LoRA file adds to one module, of whatever network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
    module: ClassVar[str] = "lycoris.kohya"
    """ss_network_module in the metadata"""

    @property
    def one(self) -> str:
        """ "a DoRA", "an OFT"."""
        return f"{'an' if self.kind.startswith('O') else 'a'} {self.kind}"

    @property
    def rank(self) -> int | None:
        """Inner width, None where it has none."""
        return None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(out, in) of the weights that it changes, flat; (out,) where it fits any number of inputs."""

    @property
    def kernel(self) -> tuple[int, ...] | None:
        """(k, k) of a convolution, () of what has no kernel, None where its tensors do not tell."""
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

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """[out, n] and [n, in], flat, in double, whose product is the delta; None where no small n is known."""
        return None

    def fits(self, weight: Sequence[int]) -> bool:
        """Whether it changes weights of this shape, which is not flat."""
        return flat(weight)[: len(self.shape)] == self.shape and self.has_kernel_of(weight)

    def has_kernel_of(self, weight: Sequence[int]) -> bool:
        """Whether it is for kernels like those of weights of this shape; 1 x 1 is as none, files have it as both."""
        return self.kernel is None or without_ones(self.kernel) == without_ones(weight[2:])

    def share(self, number: int, of: int) -> Adapter:  # noqa: ARG002 (those that can look at them)
        """What it does to one of so many equal shares of the outputs, as q, k and v are of one tensor that holds them.

        Raises ValueError in a few words where it cannot be told apart from what it does to the others.
        """
        raise ValueError(f"is {self.one} of several layers in one, which cannot be told apart")


def flat(shape: Sequence[int]) -> tuple[int, int]:
    """(out, in) of weights of any shape; of those with one dimension in is 1."""
    return shape[0], math.prod(shape[1:])


def without_ones(kernel: Sequence[int]) -> tuple[int, ...]:
    """A kernel of one number is none."""
    return tuple(kernel) if math.prod(kernel) > 1 else ()


def share_of(tensor: Tensor, number: int, of: int, axis: int = 0) -> Tensor:
    """One of so many equal shares along an axis."""
    if tensor.shape[axis] % of:
        raise ValueError(f"has shape {tuple(tensor.shape)}, which does not make {of} equal layers")
    return tensor.chunk(of, axis)[number].contiguous()
