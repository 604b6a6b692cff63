"""Images to latents and back, in the denoiser's scale."""

from __future__ import annotations

import numpy
import torch
from PIL import Image

from sdtune.core.autoencoder import decode_latents, encode_images, pixels_a_latent, scaling
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
