"""Between images and latents: the VAE with its scale and shift, always in fp32 (fp16 gives NaN on SDXL)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor

from sdtune.errors import SdtuneError


def encode_images(vae: Any, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each image's latents, [B, C, h, w] in fp32 on the CPU, in the denoiser's scale."""
    pixels = torch.stack([torch.from_numpy(numpy.asarray(image).copy()) for image in images])
    pixels = pixels.permute(0, 3, 1, 2).to(vae.device, torch.float32) / 127.5 - 1
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
    scale, shift = scaling(vae)
    return ((posterior.mean - shift) * scale).cpu(), (posterior.std * scale).cpu()


def decode_latents(vae: Any, latents: Tensor) -> list[Image.Image]:
    """The images of latents [B, C, h, w] in the denoiser's scale, one at a time: in fp32 that is what fills a card."""
    scale, shift = scaling(vae)
    images = []
    for latent in latents.to(vae.device, torch.float32).split(1):
        with torch.no_grad():
            pixels = vae.decode(latent / scale + shift).sample[0]
        if not pixels.isfinite().all():  # as bytes they would be a black picture
            raise SdtuneError("the VAE made no numbers of what was drawn; check the model's VAE, or lower --guidance")
        values = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        images.append(Image.fromarray(values))
    return images


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
