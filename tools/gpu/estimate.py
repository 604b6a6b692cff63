"""What a preset needs of a card, reckoned on tensors without contents: python -m tools.gpu.estimate PRESET ...

The code of a training runs on PyTorch's fake tensors, and the sizes of all that is alive are added up. Norms are
put into fp32 as autocast does on CUDA. Not counted: the kernels' own workspaces and gaps between tensors; one GB is
added for them and the CUDA context. A GB is 2^30 bytes, as in the names of cards.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdtune.config import TrainLora, read_preset, refine, resolve
from sdtune.core.data.encode import PIXELS_AT_ONCE
from sdtune.core.families import Family, family_named
from sdtune.core.making import add_lora
from sdtune.core.model import SHORT_NAMES, identify
from tools.gpu import shapes

GB = 2**30
CONTEXT = GB  # of CUDA, and gaps
SAMPLES = 2  # pictures that train-lora draws together where no prompts are set


class Alive(TorchDispatchMode):
    """Bytes of all storages that are alive, and their peak."""

    def __init__(self, known: torch.nn.Module) -> None:
        """What `known` holds is not counted, nor are views of it."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet(weight.untyped_storage() for weight in known.parameters())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                if storage not in self._seen:
                    self._seen.add(storage)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, size: int) -> None:
        self.now -= size


@dataclass(frozen=True)
class Estimate:
    """GB at the peak of each phase of a training, the context included, and of the training's own parts."""

    phases: dict[str, float]
    parts: dict[str, float]

    def __str__(self) -> str:
        phases = ", ".join(f"{name} {value:.1f}" for name, value in self.phases.items())
        parts = " + ".join(f"{name} {value:.1f}" for name, value in self.parts.items())
        return f"Estimated, not measured: {max(self.phases.values()):.1f} GB ({phases}: {parts})"


def estimate(config: TrainLora, family: Family) -> Estimate:
    """What each phase of train-lora needs; it has on the card only what the phase works with."""
    resolution = config.data.resolution or family.resolution
    with FakeTensorMode(), _as_on_cuda():
        net, lora = with_lora(config, family)
        weights = sum(weight.numel() for weight in net.parameters() if not weight.requires_grad) * 2.0
        activations = step(net, family, config.batch_size, resolution) - lora * 4.0  # the gradients: with the LoRA
        drawing = 0.0 if config.samples.off else denoising(net, config, family, resolution)
        vae = shapes.vae(family.name).eval()
        vae_weights = sum(weight.numel() for weight in vae.parameters()) * 4.0
        encoding = _vae_peak(vae, max(1, PIXELS_AT_ONCE["cuda"] // resolution**2), resolution, "encode")
        decoding = _vae_peak(vae, 1, resolution, "decode")
    moments = 2 if config.optimizer.kind == "adamw8bit" else 8  # bytes a number
    parts = {
        "weights": weights,
        "LoRA, gradients, moments": lora * (4.0 + 4.0 + moments),
        "activations": activations,
        "context": CONTEXT,
    }
    phases = {
        "captions": shapes.TEXT_ENCODERS[family.name] * 2 + CONTEXT,
        "encoding": vae_weights + encoding + CONTEXT,
        "samples": weights + lora * (4 + moments) + vae_weights + max(drawing, decoding) + CONTEXT,
        "training": sum(parts.values()),
    }
    if config.samples.off:
        del phases["samples"]
    return Estimate(*({name: value / GB for name, value in told.items()} for told in (phases, parts)))


def with_lora(config: TrainLora, family: Family) -> tuple[Any, int]:
    """The denoiser as train-lora sets it up, and how many numbers its LoRA has."""
    with _default(torch.bfloat16):
        net = shapes.denoiser(family.name).requires_grad_(False)
    if config.memory.gradient_checkpointing:
        net.enable_gradient_checkpointing()
    network = config.network
    alpha = network.alpha or network.rank * family.alpha_share
    config = config.model_copy(update={"network": network.model_copy(update={"alpha": alpha})})
    return net, add_lora(net, config, family)


def step(net: Any, family: Family, batch: int, resolution: int) -> int:
    """Bytes beside the weights at the peak of one forward and backward."""
    x_t, told = _inputs(net, family, batch, resolution)
    net.train()
    with Alive(net) as alive:
        with torch.autocast("cpu", torch.bfloat16):
            loss = family.denoise(net, x_t, torch.full((batch,), 500), told).float().square().mean()
        torch.autograd.backward(loss)
    return int(alive.peak)


def denoising(net: Any, config: TrainLora, family: Family, resolution: int) -> int:
    """Bytes beside the weights at the peak of a step of drawing: all samples at once, with guidance twice."""
    batch = (len(config.samples.prompts) or SAMPLES) * (1 if config.samples.guidance == 1 else 2)
    x_t, told = _inputs(net, family, batch, resolution)
    net.eval()
    with Alive(net) as alive, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        family.denoise(net, x_t, torch.full((batch,), 500), told)
    return int(alive.peak)


def _inputs(net: Any, family: Family, batch: int, resolution: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """x_t and what the denoiser is told."""
    side = resolution // 8
    captions = shapes.CAPTIONS[family.name].items()
    told = {name: torch.randn(batch, *shape, dtype=torch.bfloat16) for name, shape in captions}
    return torch.randn(batch, net.config.in_channels, side, side), told


def _vae_peak(vae: Any, images: int, resolution: int, way: str) -> int:
    """Bytes beside the weights at the peak of encoding or decoding in fp32."""
    shape = (images, 3, resolution, resolution)
    if way == "decode":
        shape = (images, vae.config.latent_channels, resolution // 8, resolution // 8)
    x = torch.randn(shape)
    with Alive(vae) as alive, torch.no_grad():
        getattr(vae, way)(x)
    return int(alive.peak)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _as_on_cuda() -> Iterator[None]:
    """Autocast on CUDA runs norms in fp32, on the CPU it does not."""

    def in_fp32(norm: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def run(*args: Any, **options: Any) -> torch.Tensor:
            cast = [x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in args]
            return norm(*cast, **options)

        return run

    functional = torch.nn.functional
    with (
        patch.object(functional, "layer_norm", in_fp32(functional.layer_norm)),
        patch.object(functional, "group_norm", in_fp32(functional.group_norm)),
        # fake parameters cannot be swapped by Module.to(), and they are in their place already
        patch.object(torch.nn.Module, "to", lambda module, *_, **__: module),
    ):
        yield


def main(names: list[str]) -> None:
    """Print a line a preset."""
    for name in names:
        config = resolve(TrainLora, [read_preset(name), {"data": {"folder": "x"}}])
        assert config.model in SHORT_NAMES
        assert config.model != "mini"
        family = family_named(identify(config.model).family)
        print(f"{name}: {estimate(refine(config, family.defaults), family)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
