"""Images to latents and back, in the denoiser's scale."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from sdtune.core.autoencoder import decode_latents, encode_images, pixels_a_latent, scaling
from sdtune.core.model import identify, load
from sdtune.errors import SdtuneError
from tests import tiny


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    values = numpy.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
    return Image.fromarray(values)


def test_latents_are_those_of_diffusers_in_the_denoisers_scale(family_name: str) -> None:
    pipe = tiny.pipeline(family_name)
    images = [picture(1), picture(2)]
    mean, std = encode_images(pipe.vae, images)
    pixels = pipe.image_processor.preprocess(images)
    with torch.no_grad():
        posterior = pipe.vae.encode(pixels).latent_dist
    shift = getattr(pipe.vae.config, "shift_factor", None) or 0.0
    side = pixels_a_latent(pipe.vae)
    assert mean.shape == std.shape == (2, pipe.vae.config.latent_channels, 48 // side, 64 // side)
    torch.testing.assert_close(mean, (posterior.mean - shift) * pipe.vae.config.scaling_factor)
    torch.testing.assert_close(std, posterior.std * pipe.vae.config.scaling_factor)


def test_decoding_is_that_of_diffusers_and_of_each_image_alone(family_name: str) -> None:
    pipe = tiny.pipeline(family_name)
    mean, _ = encode_images(pipe.vae, [picture(1), picture(2)])
    images = decode_latents(pipe.vae, mean)
    scale, shift = scaling(pipe.vae)
    with torch.no_grad():
        pixels = pipe.vae.decode(mean / scale + shift).sample
    for ours, theirs in zip(images, pipe.image_processor.postprocess(pixels), strict=True):
        assert ours.size == (64, 48)
        assert numpy.abs(numpy.asarray(ours, dtype=int) - numpy.asarray(theirs, dtype=int)).max() <= 1
    assert decode_latents(pipe.vae, mean[1:])[0].tobytes() == images[1].tobytes()


def test_a_vae_that_fails_in_half_precision_gives_numbers_as_it_is_loaded(family_name: str, tmp_path: Path) -> None:
    pipe = tiny.pipeline(family_name)
    with torch.no_grad():
        pipe.vae.encoder.conv_in.weight.mul_(1e7)  # over fp16's 65504, as SDXL's; norms bring it back
    loaded = load(identify(str(tiny.saved_pipeline(pipe, tmp_path / "model"))), torch.float16)
    mean, std = encode_images(loaded.vae, [picture(1)])
    assert mean.isfinite().all()
    assert std.isfinite().all()
    assert all(image.getextrema() for image in decode_latents(loaded.vae, mean))
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert not loaded.vae.half().encode(pixels.half()).latent_dist.mean.isfinite().all(), "else this tests nothing"


def test_pixels_that_are_no_numbers_are_told_and_not_black() -> None:
    vae = tiny.pipeline("sd1").vae
    torch.nn.init.constant_(vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(SdtuneError, match="the VAE made no numbers of what was drawn"):
        decode_latents(vae, torch.zeros(1, 4, 4, 4))
