"""Muon: momentum whose steps are orthogonal matrices (Jordan et al. 2024); AdamW for what is no matrix."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic Newton-Schulz, Jordan et al. 2024


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest matrix [m, n] whose singular values are all about one."""
    a, b, c = COEFFICIENTS
    x: Tensor = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(Optimizer):
    """Muon for linear and convolution weights, AdamW for embeddings, norms and biases, at one rate for both.

    Both kinds of step have a root mean square of about 0.2 rates (Liu et al. 2025, arXiv:2502.16982).
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]], lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        named = [(name, p) for name, p in named if p.requires_grad]
        matrices = [p for name, p in named if p.ndim > 1 and not _keeps_adam(name)]
        others = [p for name, p in named if p.ndim <= 1 or _keeps_adam(name)]
        groups = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        super().__init__([g for g in groups if g["params"]], {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step against the gradients that are there."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    update = self._muon(p, p.grad) if group["muon"] else self._adam(p, p.grad)
                    p.add_(update, alpha=-group["lr"])

    def _muon(self, p: Tensor, gradient: Tensor) -> Tensor:
        momentum: Tensor = self.state[p].setdefault("momentum", torch.zeros_like(p))
        momentum.lerp_(gradient, 0.05)
        ahead = gradient.lerp(momentum, 0.95).flatten(1)  # Nesterov's look ahead
        return orthogonal(ahead).mul_(0.2 * max(ahead.shape) ** 0.5).view_as(p)

    def _adam(self, p: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[p]
        if not state:
            state.update(count=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
        state["count"] += 1
        state["mean"].lerp_(gradient, 0.1)
        state["square"].lerp_(gradient.square(), 0.01)
        mean: Tensor = state["mean"] / (1 - 0.9 ** state["count"])
        square: Tensor = state["square"] / (1 - 0.99 ** state["count"])
        return mean / (square.sqrt() + 1e-8)


def _keeps_adam(name: str) -> bool:
    """First and last layers and tables of embeddings: their rows are no directions to balance."""
    return any(part in name for part in ("embedding", "conv_in.", "conv_out.", "quant_conv."))
