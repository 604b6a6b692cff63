"""Optimizers: how gradients become changes of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from sdtune.choices.spec import Choice, Spec, setting

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer as TorchOptimizer

    Parameters = Iterable[Parameter] | Iterable[dict[str, Any]]


class Rule(Spec):
    """What optimizers have in common."""

    kind: str
    lr: float | None = setting(None, "--lr", place=4, ge=1e-12, le=100)
    """Learning rate; not given: 1e-4 times the square root of the images a step (prodigy, adafactor and lion8bit have
    others)."""
    weight_decay: float = Field(0.01, ge=0, le=100)
    """Share of each weight that is taken away per step and unit of learning rate."""

    def rate(self, images_a_step: int) -> float:
        """The learning rate in force; sqrt scaling over the batch fits better than linear (spacepxl 2024)."""
        return self.lr if self.lr is not None else 1e-4 * images_a_step**0.5

    def in_use(self, _optimizer: TorchOptimizer) -> dict[Parameter, Tensor]:
        """The weights to save and draw with, where they are others than those trained."""
        return {}


class Adam(Rule):
    """What AdamW's forms have in common."""

    beta1: float = Field(0.9, ge=0, lt=1)
    """Memory of the gradient's mean."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Memory of the gradient's square."""
    eps: float = Field(1e-8, ge=1e-30, le=1)
    """Smallest divisor."""


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"

    def build(self, parameters: Parameters, lr: float) -> TorchOptimizer:
        """The optimizer over these parameters, or groups of them that have rates of their own."""
        import torch

        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay)


class AdamW8bit(Adam):
    """AdamW with its two moments in 8 bits, block by block (Dettmers et al. 2022, arXiv:2110.02861)."""

    kind: Literal["adamw8bit"] = "adamw8bit"

    def build(self, parameters: Parameters, lr: float) -> TorchOptimizer:
        """bitsandbytes' optimizer; it runs on CUDA and on the CPU. Tensors under 4096 numbers keep 32 bits."""
        import bitsandbytes

        betas = (self.beta1, self.beta2)
        optimizer: TorchOptimizer = bitsandbytes.optim.AdamW8bit(
            parameters, lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay
        )
        return optimizer


class Prodigy(Rule):
    """AdamW that finds its rate by itself (Mishchenko & Defazio 2024, arXiv:2306.06101)."""

    kind: Literal["prodigy"] = "prodigy"
    lr: float | None = setting(None, "--lr", place=4, ge=1e-12, le=100)
    """Factor on the rate that is found; not given: 1, as it should be. Text encoders and new words have the same."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Memory of the gradient's mean."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """Memory of the gradient's square."""
    eps: float = Field(1e-8, ge=1e-30, le=1)
    """Smallest divisor."""
    first: float = Field(1e-6, gt=0, le=1)
    """Rate that it starts from."""
    growth: float = Field(1.0, gt=0, le=100)
    """Factor on the estimate of the rate: 0.5 to 2 are usual."""

    def rate(self, _images_a_step: int) -> float:
        """The factor in force."""
        return self.lr if self.lr is not None else 1.0

    def build(self, parameters: Parameters, lr: float) -> TorchOptimizer:
        """prodigyopt's optimizer; it has one rate for all groups."""
        import prodigyopt

        optimizer: TorchOptimizer = prodigyopt.Prodigy(
            parameters,
            lr=lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            d0=self.first,
            d_coef=self.growth,
            use_bias_correction=True,
            safeguard_warmup=True,
        )
        for group in optimizer.param_groups:
            group |= {"lr": lr, "weight_decay": self.weight_decay}  # told at once, it prints that it has one
        return optimizer


class ScheduleFree(Adam):
    """AdamW whose average over the steps stands in for a schedule (Defazio et al. 2024, arXiv:2405.15682).

    It wants `--schedule constant`. What is saved, drawn with and validated is the average.
    """

    kind: Literal["adamw-schedulefree"] = "adamw-schedulefree"
    beta1: float = Field(0.9, gt=0, lt=1)
    """How far what is trained lies from the newest weights towards their average."""

    def build(self, parameters: Parameters, lr: float) -> TorchOptimizer:
        """schedulefree's optimizer, in its training mode."""
        import schedulefree

        optimizer = schedulefree.AdamWScheduleFree(
            parameters, lr=lr, betas=(self.beta1, self.beta2), eps=self.eps, weight_decay=self.weight_decay
        )
        optimizer.train()
        built: TorchOptimizer = optimizer
        return built

    def in_use(self, optimizer: TorchOptimizer) -> dict[Parameter, Tensor]:
        """The average x, of which what is trained is y = beta1 x + (1 - beta1) z."""
        trained: list[Parameter] = [one for group in optimizer.param_groups for one in group["params"]]
        moved = [one for one in trained if "z" in optimizer.state[one]]
        return {one: one.detach().lerp(optimizer.state[one]["z"], 1 - 1 / self.beta1) for one in moved}


class Lion8bit(Rule):
    """Steps of one length, by the sign of the gradient's mean, kept in 8 bits (Chen et al. 2023, arXiv:2302.06675)."""

    kind: Literal["lion8bit"] = "lion8bit"
    lr: float | None = setting(None, "--lr", place=4, ge=1e-12, le=100)
    """Learning rate; not given: 2e-5 times the square root of the images a step, a fifth of AdamW's (sec. 5)."""
    weight_decay: float = Field(0.05, ge=0, le=100)
    """Share of each weight that is taken away per step and unit of learning rate; five times AdamW's (sec. 5)."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """How much of the mean, beside the newest gradient, decides on the step."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """Memory of the gradient's mean."""

    def rate(self, images_a_step: int) -> float:
        """The learning rate in force."""
        return self.lr if self.lr is not None else 2e-5 * images_a_step**0.5

    def build(self, parameters: Parameters, lr: float) -> TorchOptimizer:
        """bitsandbytes' optimizer; tensors under 4096 numbers keep 32 bits."""
        import bitsandbytes

        optimizer: TorchOptimizer = bitsandbytes.optim.Lion8bit(
            parameters, lr, betas=(self.beta1, self.beta2), weight_decay=self.weight_decay
        )
        return optimizer


class Adafactor(Rule):
    """Adam that keeps rows and columns of the gradient's square alone (Shazeer & Stern 2018, arXiv:1804.04235)."""

    kind: Literal["adafactor"] = "adafactor"
    lr: float | None = setting(None, "--lr", place=4, ge=1e-12, le=100)
    """Learning rate, as a share of the size of each matrix's numbers; not given: 0.01 (sec. 8)."""
    decay: float = Field(-0.8, le=0)
    """Power of the step by which the memory of the gradient's square grows longer."""
    limit: float = Field(1.0, ge=1)
    """Largest root mean square of a matrix's change before the rate."""

    def rate(self, _images_a_step: int) -> float:
        """The learning rate in force; being a share, it is the same for all batches."""
        return self.lr if self.lr is not None else 0.01

    def build(self, parameters: Parameters, lr: float) -> TorchOptimizer:
        """PyTorch's optimizer."""
        import torch

        return torch.optim.Adafactor(
            parameters, lr=lr, beta2_decay=self.decay, d=self.limit, weight_decay=self.weight_decay
        )


Optimizer = Annotated[AdamW8bit | AdamW | Prodigy | ScheduleFree | Lion8bit | Adafactor, Choice()]
