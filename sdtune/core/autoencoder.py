"""Between images and latents: the VAE with its scale and shift; in fp32, but for decoding where fp16 suffices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy
import torch
from PIL import Image
from torch import Tensor

from sdtune.errors import SdtuneError

Tiles = Literal["auto", "on", "off"]
LARGE = 2 * 10**6
"""pixels over which "auto" decodes in tiles"""
OVERFLOWS = "the VAE overflows fp16: it works in fp32 from now on"


def encode_images(vae: Any, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each image's latents, [B, C, h, w] in fp32 on the CPU, in the denoiser's scale."""
    pixels = torch.stack([torch.from_numpy(numpy.asarray(image).copy()) for image in images])
    pixels = pixels.permute(0, 3, 1, 2).to(vae.device, torch.float32) / 127.5 - 1
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
    scale, shift = scaling(vae)
    return ((posterior.mean - shift) * scale).cpu(), (posterior.std * scale).cpu()


def decode_latents(vae: Any, latents: Tensor, tiles: Tiles = "off") -> list[Image.Image]:
    """The images of latents [B, C, h, w] in the denoiser's scale, one at a time: in fp32 that is what fills a card.

    In tiles, which overlap by a quarter, it needs memory for one of them alone; each has its own norms and attention,
    so that colours differ a little from those of the whole. Where fp16 does not hold the numbers the VAE works in fp32
    from then on (`in_half`).
    """
    height, width = (side * pixels_a_latent(vae) for side in latents.shape[2:])
    with _tiling(vae, in_tiles(tiles, width, height)):
        return [_image(_pixels(vae, latent)) for latent in latents.split(1)]


def in_tiles(tiles: Tiles, width: int, height: int) -> bool:
    """Whether a picture of this size in pixels is decoded in tiles; one that is no larger than a tile is its own."""
    return tiles == "on" or (tiles == "auto" and width * height > LARGE)


def ready_to_decode(vae: Any) -> None:
    """Makes decoding faster, on the device where the VAE is now, at the cost of the last digits.

    On a CUDA card in fp16, unless the model's own config has force_upcast. On the CPU with channels last, which took
    mini a fifth less time. Encoding stays as it was.
    """
    if vae.device.type == "cuda" and not _must_be_wide(vae.config):
        halve(vae)
    if vae.device.type == "cpu":
        for part in _decoding(vae):
            part.to(memory_format=torch.channels_last)


def halve(vae: Any) -> None:
    """Decodes in fp16 from now on; the weights as they were are kept beside it."""
    if not in_half(vae):
        vae.in_full = [{name: one.cpu() for name, one in part.state_dict().items()} for part in _decoding(vae)]
        for part in _decoding(vae):
            part.half()


def in_half(vae: Any) -> bool:
    """Whether it decodes in fp16; where that is so before a decoding and not behind it, OVERFLOWS is to be told."""
    return getattr(vae, "in_full", None) is not None


def _widen(vae: Any) -> None:
    for part, weights in zip(_decoding(vae), vae.in_full, strict=True):
        part.float().load_state_dict(weights)
    vae.in_full = None


def _decoding(vae: Any) -> list[Any]:
    """The parts that decode."""
    return [part for part in (vae.post_quant_conv, vae.decoder) if part is not None]


def _must_be_wide(config: Any) -> bool:
    """Whether force_upcast stands in the file; diffusers adds it to those that do not have it, such as SD 1.5's."""
    return bool(config.get("force_upcast")) and "force_upcast" not in config.get("_use_default_values", ())


@contextmanager
def _tiling(vae: Any, tiled: bool) -> Iterator[None]:
    before = vae.use_tiling
    vae.use_tiling = tiled
    try:
        yield
    finally:
        vae.use_tiling = before


def _pixels(vae: Any, latent: Tensor) -> Tensor:
    """[C, H, W] in -1 to 1."""
    scale, shift = scaling(vae)
    unscaled = latent.to(vae.device, torch.float32) / scale + shift
    with torch.no_grad():
        pixels: Tensor = vae.decode(unscaled.half() if in_half(vae) else unscaled).sample[0].float()
    if pixels.isfinite().all():
        return pixels
    if in_half(vae):
        _widen(vae)
        return _pixels(vae, latent)
    # as bytes they would be a black picture
    raise SdtuneError("the VAE made no numbers of what was drawn; check the model's VAE, or lower --guidance")


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def scaling(vae: Any) -> tuple[float, float]:
    """(scale, shift): the denoiser sees (latents - shift) * scale."""
    return float(vae.config.scaling_factor), float(getattr(vae.config, "shift_factor", None) or 0.0)


def pixels_a_latent(vae: Any) -> int:
    """How many pixels a side one latent stands for."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def native_side(denoiser: Any, vae: Any, otherwise: int) -> int:
    """Pixels of the side that a denoiser of this config was made for, or `otherwise` where it tells none."""
    side = denoiser.sample_size
    return side * pixels_a_latent(vae) if isinstance(side, int) else otherwise


def pixels_a_patch(denoiser: Any, vae: Any) -> int:
    """The pixels of which a picture's sides must be multiples: those of one latent, or of a transformer's patch."""
    return pixels_a_latent(vae) * int(getattr(denoiser, "patch_size", None) or 1)
