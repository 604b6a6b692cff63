"""EfficientNet-Lite0 with ImageNet weights: a judge that knows nothing of mini."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdtune.core.evaluation.encoders.lite0 import MEAN, SIDE, STD, Network, weights


class Features(nn.Module):
    """Pictures in [0, 255], [N, 3, h, w], as unit vectors [N, 1280]."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network(weights())

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """In portions of 32."""
        return torch.cat([functional.normalize(self._seen(x), dim=1) for x in pixels.split(32)])

    def _seen(self, pixels: Tensor) -> Tensor:
        x = functional.interpolate(pixels.float(), (SIDE, SIDE), mode="bilinear", align_corners=False)
        found: Tensor = self.network((x - MEAN) / STD)
        return found
