"""Inpainting: masks that depend on the image's hash alone, and models that see them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from sdtune.choices.samplers import DDIM, DPMpp2M, Euler, Sampler
from sdtune.core.autoencoder import encode_images
from sdtune.core.drawing import Wish, always, draw
from sdtune.core.families import family_named
from sdtune.core.identity import Identity
from sdtune.core.inpainting import all_anew, anew_latent, check_task, holes, mask_latent, masked, masks_of
from sdtune.core.model import identify, load
from sdtune.errors import ConfigError
from tests import tiny

FAMILIES = ["sd1", "sdxl"]


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def share(mask: Image.Image) -> float:
    """Of the picture, how much is to be drawn anew."""
    return float((numpy.asarray(mask) == 255).mean())


# ---- masks


@settings(max_examples=30, deadline=None)
@given(
    number=some.integers(0, 10**6),
    size=some.tuples(some.integers(4, 20), some.integers(4, 20)),
    count=some.integers(1, 12),
    full=some.floats(0, 1),
)
def test_masks_are_black_and_white_the_same_again_and_full_as_often_as_told(
    number: int, size: tuple[int, int], count: int, full: float
) -> None:
    sides = (size[0] * 8, size[1] * 8)
    masks = masks_of(sha(number), sides, count, full)
    assert [(mask.mode, mask.size) for mask in masks] == [("L", sides)] * count
    assert {value for mask in masks for _, value in mask.getcolors()} <= {0, 255}
    assert [mask.tobytes() for mask in masks] == [mask.tobytes() for mask in masks_of(sha(number), sides, count, full)]
    whole = sum(share(mask) == 1 for mask in masks)
    assert int(count * full + 1e-9) <= whole <= int(count * full - 1e-9) + 1


def test_a_mask_is_a_function_of_hash_and_number_alone() -> None:
    few, many = masks_of(sha(0), (64, 96), 3, 0), masks_of(sha(0), (64, 96), 8, 0)
    assert [mask.tobytes() for mask in few] == [mask.tobytes() for mask in many[:3]]
    other = masks_of(sha(1), (64, 96), 8, 0)
    assert len({mask.tobytes() for mask in [*many, *other]}) == 16
    larger = masks_of(sha(0), (256, 384), 8, 0)
    for small, large in zip(many, larger, strict=True):
        assert share(small) == pytest.approx(share(large), abs=0.06)


def test_full_masks_are_the_share_that_was_asked_for() -> None:
    of_eight = [sum(share(mask) == 1 for mask in masks_of(sha(n), (32, 32), 8, 0.25)) for n in range(20)]
    assert of_eight == [2] * 20
    of_one = sum(share(masks_of(sha(n), (32, 32), 1, 0.25)[0]) == 1 for n in range(400))
    assert 70 < of_one < 130, "a quarter of 400, within three and a half standard deviations"


def test_irregular_masks_cover_between_a_tenth_and_six_tenths() -> None:
    shares = [share(mask) for number in range(100) for mask in masks_of(sha(number), (192, 128), 4, 0)]
    assert sum(0.1 <= one <= 0.6 for one in shares) > 0.97 * len(shares)
    assert max(shares) < 0.75
    assert (min(shares) < 0.15, max(shares) > 0.45) == (True, True), "both small and large ones"


def test_masked_images_are_grey_where_they_are_to_be_drawn_and_untouched_elsewhere() -> None:
    image = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (64, 96, 3), numpy.uint8))
    (mask,) = masks_of(sha(3), image.size, 1, 0)
    seen, anew = numpy.asarray(masked(image, mask)), numpy.asarray(mask) == 255
    assert (seen[anew] == 128).all()
    assert (seen[~anew] == numpy.asarray(image)[~anew]).all()


def test_a_mask_on_the_latent_grid_is_that_of_diffusers() -> None:
    pipe = tiny.inpainting_pipeline("sd1")
    (mask,) = masks_of(sha(3), (96, 64), 1, 0)
    pixels = pipe.mask_processor.preprocess(mask)
    image = torch.zeros(1, 4, 8, 12)
    theirs, _ = pipe.prepare_mask_latents(pixels, image, 1, 64, 96, torch.float32, "cpu", None, False)
    ours = mask_latent(mask, 8)
    assert 0 < ours.mean() < 1
    assert torch.equal(ours, theirs[0])


@settings(max_examples=30, deadline=None)
@given(number=some.integers(0, 10**6))
def test_no_pixel_that_is_to_be_drawn_anew_is_left_out_of_the_latent_grid(number: int) -> None:
    (mask,) = masks_of(sha(number), (96, 64), 1, 0)
    mask.putpixel((5, 6), 255)
    anew = numpy.kron(anew_latent(mask, 8)[0].numpy(), numpy.ones((8, 8)))
    white = numpy.asarray(mask) == 255
    assert (anew[white] == 1).all()
    cells = white.reshape(8, 8, 12, 8).any(axis=(1, 3))
    assert anew.sum() == 64 * cells.sum(), "and none is drawn without need"
    aligned = Image.fromarray(anew.astype(numpy.uint8) * 255)
    assert torch.equal(anew_latent(aligned, 8), mask_latent(aligned, 8)), "on the grid it is what models are trained on"


# ---- models


@pytest.mark.parametrize("name", FAMILIES)
def test_the_denoiser_sees_latents_then_mask_then_masked_latents(name: str) -> None:
    family, pipe = family_named(name), tiny.inpainting_pipeline(name)
    told = family.encode_captions(pipe, ["a red apple", "le"])
    sizes = family.condition_on_size((64, 64), (0, 0), (64, 64))
    told |= {key: torch.stack([value, value]) for key, value in sizes.items()}
    x_t, holes, timesteps = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 8, 8), torch.tensor([10, 800])
    with torch.no_grad():
        ours = family.denoise(pipe.unet, x_t, timesteps, told | {"inpainting": holes})
        by_hand = family.denoise(pipe.unet, torch.cat([x_t, holes[:, :1], holes[:, 1:]], dim=1), timesteps, told)
    assert ours.shape == x_t.shape
    assert torch.equal(ours, by_hand)


def test_all_anew_is_the_encoding_of_grey_under_a_mask_of_ones() -> None:
    vae = tiny.pipeline("sdxl").vae
    told = all_anew(vae, (96, 64))
    assert told.shape == (5, 8, 12)
    assert (told[0] == 1).all()
    levels = (127, 128, 140)
    below, above, far = (encode_images(vae, [Image.new("RGB", (96, 64), (level,) * 3)])[0][0] for level in levels)
    apart = [(told[1:] - other).abs().max().item() for other in (below, above, far)]
    assert max(apart[:2]) < 0.02 < 0.05 < apart[2], "between the two greys that bytes can say"


def test_holes_are_the_mask_and_the_picture_with_grey_in_it() -> None:
    vae = tiny.pipeline("sd1").vae
    picture = Image.effect_noise((96, 64), 90).convert("RGB")
    mask = Image.new("L", (96, 64))
    mask.paste(255, (16, 8, 48, 40))
    told = holes(vae, picture, mask)
    assert torch.equal(told[:1], mask_latent(mask, 8))
    assert torch.equal(told[1:], encode_images(vae, [masked(picture, mask)])[0][0])
    everywhere = holes(vae, picture, Image.new("L", (96, 64), 255))
    assert (everywhere - all_anew(vae, (96, 64))).abs().max() < 0.05, "but for the grey that bytes can say"


def drawn(pipe: Any, name: str, sampler: Sampler, seeds: list[int]) -> list[Image.Image]:
    family = family_named(name)
    told, negative = [family.encode_captions(pipe, [caption]) for caption in ("a red apple", "blurred")]
    wishes = [
        Wish(*(always({key: value[0] for key, value in one.items()}) for one in (told, negative)), seed, (64, 64))
        for seed in seeds
    ]
    work = draw(family, pipe.unet, pipe.vae, sampler.build(pipe.scheduler), wishes, steps=3, guidance=4.0, phase="")
    while True:
        try:
            next(work)
        except StopIteration as end:
            images: list[Image.Image] = end.value
            return images


@pytest.mark.parametrize("sampler", [DDIM(), DPMpp2M(), Euler()], ids=lambda sampler: sampler.kind)
@pytest.mark.parametrize("name", FAMILIES)
def test_drawing_equals_the_inpainting_pipeline_of_diffusers_that_may_change_everything(
    name: str, sampler: Sampler
) -> None:
    pipe = tiny.inpainting_pipeline(name)
    pipe.set_progress_bar_config(disable=True)
    (ours,) = drawn(pipe, name, sampler, [7])
    assert ours.tobytes() == drawn(pipe, name, sampler, [7])[0].tobytes()
    pipe.scheduler = sampler.build(pipe.scheduler)
    theirs = pipe(
        "a red apple",
        negative_prompt="blurred",
        image=Image.new("RGB", (64, 64), (128, 128, 128)),
        mask_image=Image.new("L", (64, 64), 255),
        masked_image_latents=all_anew(pipe.vae, (64, 64))[None, 1:],  # diffusers itself draws them at random
        strength=1.0,
        num_inference_steps=3,
        guidance_scale=4.0,
        width=64,
        height=64,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    difference = numpy.abs(numpy.asarray(ours, dtype=int) - numpy.asarray(theirs, dtype=int))
    assert numpy.asarray(ours).std() > 1
    assert difference.max() <= 1, "but for the rounding of a byte"


def test_several_are_drawn_together(tmp_path: Path) -> None:
    pipe = load(identify(str(tiny.saved_pipeline(tiny.inpainting_pipeline("sd1"), tmp_path))), torch.float32)
    first, second = drawn(pipe, "sd1", DDIM(), [1, 2])
    (alone,) = drawn(pipe, "sd1", DDIM(), [2])
    difference = numpy.abs(numpy.asarray(second, dtype=int) - numpy.asarray(alone, dtype=int))
    assert difference.max() <= 1
    assert first.tobytes() != second.tobytes()


# ---- tasks


def test_tasks_that_a_model_is_not_made_for() -> None:
    plain = Identity("photos", "folder", "photos", "sd1")
    holes = Identity("holes", "folder", "holes", "sdxl", inpainting=True)
    for task in ("text-to-image", "class", "unconditional", "style"):
        check_task(task, plain, "Stable Diffusion 1.x")
        with pytest.raises(ConfigError) as told:
            check_task(task, holes, "Stable Diffusion XL")
        assert str(told.value) == (
            f"--task {task}: holes (Stable Diffusion XL) is an inpainting model; train it with --task inpainting"
        )
    check_task("inpainting", holes, "Stable Diffusion XL")
    with pytest.raises(ConfigError) as told:
        check_task("inpainting", plain, "Stable Diffusion 1.x")
    assert str(told.value) == (
        "--task inpainting: photos (Stable Diffusion 1.x) draws whole pictures; it needs a model with 9 channels in, "
        "as --model stable-diffusion-v1-5/stable-diffusion-inpainting"
    )
    with pytest.raises(ConfigError, match="9 channels in, which no model of its family has"):
        check_task("inpainting", Identity("flow", "folder", "flow", "sd3"), "Stable Diffusion 3.x")
