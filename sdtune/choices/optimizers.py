"""Optimizers: how gradients become changes of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from sdtune.choices.spec import Choice, Spec, setting

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import Optimizer as TorchOptimizer


class Adam(Spec):
    """What AdamW's forms have in common."""

    kind: str
    lr: float | None = setting(None, "--lr", place=4, ge=1e-12, le=100)
    """Learning rate; not given: 1e-4 times the square root of the images a step."""
    weight_decay: float = Field(0.01, ge=0, le=100)
    """Share of each weight that is taken away per step and unit of learning rate."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Memory of the gradient's mean."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Memory of the gradient's square."""
    eps: float = Field(1e-8, ge=1e-30, le=1)
    """Smallest divisor."""

    def rate(self, images_a_step: int) -> float:
        """The learning rate in force; sqrt scaling over the batch fits better than linear (spacepxl 2024)."""
        return self.lr if self.lr is not None else 1e-4 * images_a_step**0.5


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"

    def build(self, parameters: Iterable[Parameter] | Iterable[dict[str, Any]], lr: float) -> TorchOptimizer:
        """The optimizer over these parameters, or groups of them that have rates of their own."""
        import torch

        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay)


class AdamW8bit(Adam):
    """AdamW with its two moments in 8 bits, block by block (Dettmers et al. 2022, arXiv:2110.02861)."""

    kind: Literal["adamw8bit"] = "adamw8bit"

    def build(self, parameters: Iterable[Parameter] | Iterable[dict[str, Any]], lr: float) -> TorchOptimizer:
        """bitsandbytes' optimizer; it runs on CUDA and on the CPU. Tensors under 4096 numbers keep 32 bits."""
        import bitsandbytes

        betas = (self.beta1, self.beta2)
        optimizer: TorchOptimizer = bitsandbytes.optim.AdamW8bit(
            parameters, lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay
        )
        return optimizer


Optimizer = Annotated[AdamW8bit | AdamW, Choice()]
