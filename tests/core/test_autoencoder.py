"""Images to latents and back, in the denoiser's scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from sdtune.core import model
from sdtune.core.autoencoder import (
    LARGE,
    decode_latents,
    encode_images,
    halve,
    in_half,
    in_tiles,
    pixels_a_latent,
    ready_to_decode,
    scaling,
)
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


def difference(one: Image.Image, other: Image.Image) -> Any:
    return numpy.abs(numpy.asarray(one, dtype=int) - numpy.asarray(other, dtype=int))


def test_tiles_make_a_picture_of_the_same_size(family_name: str) -> None:
    vae = tiny.pipeline(family_name).vae
    mean, _ = encode_images(vae, [smooth((152, 88))])  # of tiles of 64, the last of them cut
    (whole,), (tiled,) = decode_latents(vae, mean), decode_latents(vae, mean, "on")
    assert tiled.size == whole.size == (152, 88)
    assert tiled.tobytes() != whole.tobytes()
    small = mean[..., :8, :8]
    assert decode_latents(vae, small, "on")[0].tobytes() == decode_latents(vae, small)[0].tobytes(), "a single tile"


@pytest.mark.parametrize("size", [(256, 200), (136, 264)])
def test_tiles_of_a_trained_vae_show_the_same_picture(size: tuple[int, int]) -> None:
    """Of mini's, with tiles of 128 pixels; its examples differed by 1.3 to 1.8 levels of 255."""
    root = Path(model.__file__).parent.parent
    vae = AutoencoderKL.from_pretrained(root / "mini" / "vae").eval()
    shown = Image.open(min((root.parent / "examples").glob("*/*.png"))).convert("RGB").resize(size)
    mean, _ = encode_images(vae, [shown])
    (whole,), (tiled,) = decode_latents(vae, mean), decode_latents(vae, mean, "on")
    assert 0 < difference(tiled, whole).mean() < 3
    assert difference(tiled, shown).mean() < 1.7 * difference(whole, shown).mean()


def smooth(size: tuple[int, int]) -> Image.Image:
    return picture(3, (6, 5)).resize(size, Image.Resampling.BICUBIC)


def test_only_large_pictures_are_in_tiles_unless_told_otherwise() -> None:
    assert not in_tiles("auto", 2000, LARGE // 2000)
    assert in_tiles("auto", 2000, LARGE // 2000 + 1)
    assert in_tiles("on", 8, 8)
    assert not in_tiles("off", 8192, 8192)


@pytest.mark.parametrize("before", [True, False])
def test_tiling_is_left_as_it_was(before: bool) -> None:
    vae = tiny.pipeline("sd1").vae
    vae.use_tiling = before
    mean, _ = encode_images(vae, [smooth((152, 88))])
    ways = {tiles: decode_latents(vae, mean, tiles)[0].tobytes() for tiles in ("on", "off", "auto")}
    assert vae.use_tiling is before
    assert ways["auto"] == ways["off"] != ways["on"]
    torch.nn.init.constant_(vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(SdtuneError):
        decode_latents(vae, mean, "on")
    assert vae.use_tiling is before


def test_decoding_in_half_precision_is_close_and_encoding_stays_as_it_was(family_name: str) -> None:
    vae = tiny.pipeline(family_name).vae
    mean, std = encode_images(vae, [picture(1), picture(2)])
    in_full = decode_latents(vae, mean)
    halve(vae)
    assert in_half(vae)
    for one, other in zip(decode_latents(vae, mean), in_full, strict=True):
        assert difference(one, other).max() <= 2
    assert in_half(vae)
    again = encode_images(vae, [picture(1), picture(2)])
    assert torch.equal(again[0], mean)
    assert torch.equal(again[1], std)


def test_a_vae_that_overflows_works_in_full_from_then_on_with_the_weights_that_it_had(family_name: str) -> None:
    vae = tiny.pipeline(family_name).vae
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(1e7)
    latents = torch.randn(2, vae.config.latent_channels, 4, 4, generator=torch.Generator().manual_seed(1))
    in_full = [image.tobytes() for image in decode_latents(vae, latents)]
    halve(vae)
    halve(vae)  # which is once
    assert [image.tobytes() for image in decode_latents(vae, latents)] == in_full
    assert not in_half(vae)


def test_what_no_precision_holds_is_told_in_half_precision_too() -> None:
    vae = tiny.pipeline("sd1").vae
    torch.nn.init.constant_(vae.decoder.conv_out.bias, float("nan"))
    halve(vae)
    with pytest.raises(SdtuneError, match="the VAE made no numbers of what was drawn"):
        decode_latents(vae, torch.zeros(1, 4, 4, 4))


def test_made_ready_on_the_cpu_it_decodes_the_same_bytes_every_time(family_name: str) -> None:
    vae = tiny.pipeline(family_name).vae
    mean, _ = encode_images(vae, [picture(1), picture(2)])
    before = decode_latents(vae, mean)
    ready_to_decode(vae)
    after = decode_latents(vae, mean)
    assert all(difference(one, other).max() <= 1 for one, other in zip(before, after, strict=True))
    assert decode_latents(vae, mean[1:])[0].tobytes() == after[1].tobytes()
    assert torch.equal(encode_images(vae, [picture(1), picture(2)])[0], mean)


@pytest.mark.parametrize("told", [True, False, None])
def test_a_card_decodes_in_half_precision_unless_the_model_forbids_it(
    told: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.pipeline("sd1").vae.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = {name: one for name, one in json.loads(file.read_text()).items() if name != "force_upcast"}
    file.write_text(json.dumps(config | ({} if told is None else {"force_upcast": told})))
    vae = AutoencoderKL.from_pretrained(tmp_path)
    monkeypatch.setattr(AutoencoderKL, "device", torch.device("cuda"))
    ready_to_decode(vae)
    assert in_half(vae) == (told is not True)
