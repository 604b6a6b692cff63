"""Structure: a picture's coarse shapes, to which what is drawn over it is held while its look may change.

Low frequencies of the prediction of x_0 are replaced by those of the picture, as ILVR does for x_t (Choi et al. 2021,
arXiv:2108.02938, eq. 8), but each channel keeps its own mean and spread, by which colours may go where the style has
them: with those of the picture, too, a style LoRA on mini changed the look less than half as much, at the same shapes.

Legend: x_t noisy latents, x_0 clean ones, (alpha, sigma) their level: x_t = alpha x_0 + sigma eps in the sampler's own
scale; p what the denoiser answers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CELL = 2
"""latents a side over which shapes are averaged"""


def hold(prediction: Tensor, x_t: Tensor, clean: Tensor, level: tuple[float, float], scheduler: Any) -> Tensor:
    """The prediction p [B, C, h, w] by which x_0 has the coarse shapes of the clean latents."""
    share, offset = _x_0_by(level, scheduler)
    x_0 = offset * x_t + share * prediction
    return prediction + (_in_palette_of(coarse(clean), coarse(x_0)) - coarse(x_0)) / share


def coarse(latents: Tensor) -> Tensor:
    """Low frequencies alone: means over cells, drawn out smoothly over their size again."""
    small = torch.nn.functional.avg_pool2d(latents, CELL, ceil_mode=True, count_include_pad=False)
    size = latents.shape[-2:]
    return torch.nn.functional.interpolate(small, size=size, mode="bicubic", antialias=False)


def _in_palette_of(shapes: Tensor, other: Tensor) -> Tensor:
    """The shapes with the mean and spread that each channel has in the other."""
    (spread, mean), (new_spread, new_mean) = (
        torch.std_mean(one, dim=(2, 3), correction=0, keepdim=True) for one in (shapes, other)
    )
    return (shapes - mean) / spread.clamp(min=1e-6) * new_spread + new_mean


def _x_0_by(level: tuple[float, float], scheduler: Any) -> tuple[float, float]:
    """(a, b) in x_0 = a p + b x_t, by what the denoiser predicts (Salimans & Ho 2022, arXiv:2202.00512, app. D)."""
    alpha, sigma = level
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    if kind == "flow_prediction":
        return -sigma, 1.0
    if kind == "epsilon":
        return -sigma / alpha, 1 / alpha
    assert kind == "v_prediction", f"no family predicts {kind}"
    length = (alpha**2 + sigma**2) ** 0.5
    return -sigma / length, alpha / length**2
