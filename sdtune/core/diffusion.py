"""Adding noise, and what a model should say about it: x_t = alpha x_0 + sigma eps for every family.

Legend: x_0 clean latents, eps Gaussian noise, x_t noisy latents, (alpha, sigma) the levels at u in [0, 1)
where 0 is clean and 1 is noise, snr = (alpha / sigma)^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v", "flow"]
_PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v"}


@dataclass(frozen=True)
class Noisy:
    """Latents with noise in them, and what the denoiser should answer."""

    latents: Tensor
    """[B, C, h, w] x_t"""
    timesteps: Tensor
    """[B] as the denoiser takes them: whole numbers in [0, 1000) for epsilon and v, 1000 sigma for flow"""
    target: Tensor
    """[B, C, h, w]"""
    snr: Tensor
    """[B] (alpha / sigma)^2"""
    alpha: Tensor
    """[B, 1, 1, 1]"""
    sigma: Tensor
    """[B, 1, 1, 1]"""


@dataclass(frozen=True)
class Process:
    """A family's levels (alpha, sigma) over u, and what its denoiser predicts."""

    prediction: Prediction
    alphas_cumprod: Tensor | None = None
    """[T] alpha^2 of the discrete variance-preserving process; None for flow"""
    shift: float = 1.0
    """flow only: u is pulled towards noise by s u / (1 + (s - 1) u) (Esser et al. 2024, arXiv:2403.03206, eq. 23)"""

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> Process:
        """The process that a diffusers scheduler was made for."""
        if hasattr(scheduler, "alphas_cumprod"):
            prediction = _PREDICTIONS[scheduler.config.prediction_type]
            return cls(prediction, scheduler.alphas_cumprod.double().cpu())
        return cls("flow", shift=float(scheduler.config.shift))

    def levels(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(alpha, sigma, timesteps) at u in [0, 1), each [B], alpha and sigma in double precision."""
        u = u.double().cpu()
        if self.prediction == "flow":
            sigma = self.shift * u / (1 + (self.shift - 1) * u)
            return 1 - sigma, sigma, sigma * 1000
        assert self.alphas_cumprod is not None, "a discrete process needs its levels"
        count = len(self.alphas_cumprod)
        timesteps = (u * count).long().clamp(0, count - 1)
        alpha_squared = self.alphas_cumprod[timesteps]
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt(), timesteps

    def add_noise(self, x_0: Tensor, noise: Tensor, u: Tensor) -> Noisy:
        """x_t = alpha x_0 + sigma eps, with the target that fits the prediction type."""
        alpha, sigma, timesteps = self.levels(u)
        snr = (alpha / sigma) ** 2
        device, dtype = x_0.device, x_0.dtype
        a, s = (level.to(device, dtype).view(-1, 1, 1, 1) for level in (alpha, sigma))
        target = {"epsilon": noise, "v": a * noise - s * x_0, "flow": noise - x_0}[self.prediction]
        timesteps = timesteps.to(device) if timesteps.dtype == torch.long else timesteps.to(device, torch.float32)
        return Noisy(a * x_0 + s * noise, timesteps, target, snr.to(device, torch.float32), a, s)

    def recover(self, noisy: Noisy, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, eps) that a prediction at x_t stands for."""
        x_t, alpha, sigma = noisy.latents, noisy.alpha, noisy.sigma
        if self.prediction == "epsilon":
            return (x_t - sigma * prediction) / alpha, prediction
        if self.prediction == "v":
            return alpha * x_t - sigma * prediction, sigma * x_t + alpha * prediction
        return x_t - sigma * prediction, x_t + alpha * prediction
