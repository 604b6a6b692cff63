"""Drawing that begins with a picture is what diffusers' own pipelines draw, with every sampler and family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import diffusers
import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from sdtune.choices.samplers import DDIM, LCM, AnySampler, DPMpp2M, Euler, EulerAncestral, Heun, Sampler
from sdtune.core import drawing
from sdtune.core.autoencoder import decode_latents
from sdtune.core.drawing import Wish, always, draw
from sdtune.core.families import family_named
from sdtune.core.inpainting import anew_latent, holes
from sdtune.core.sampling.starts import Start
from sdtune.core.sampling.structure import coarse
from tests import tiny

SAMPLERS: list[Sampler] = [kind() for kind in get_args(get_args(AnySampler)[0])]
IMG2IMG = {
    "sd1": diffusers.StableDiffusionImg2ImgPipeline,
    "sdxl": diffusers.StableDiffusionXLImg2ImgPipeline,
    "sd3": diffusers.StableDiffusion3Img2ImgPipeline,
}
STEPS = 4


def result_of(work: Iterator[Any]) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def some_latents(pipe: Any) -> Tensor:
    return torch.randn(pipe.vae.config.latent_channels, 8, 8, generator=torch.Generator().manual_seed(5))


def drawn(
    pipe: Any,
    name: str,
    sampler: Sampler,
    starts: list[Start | None],
    told: Tensor | None = None,
    steps: int = STEPS,
) -> list[Image.Image]:
    family = family_named(name)
    texts = [family.encode_captions(pipe, [caption]) for caption in ("a red apple", "blurred")]
    prompt, negative = (always({key: value[0].detach() for key, value in one.items()}) for one in texts)
    wishes = [Wish(prompt, negative, 7 + n, (64, 64), start, told) for n, start in enumerate(starts)]
    net, scheduler = getattr(pipe, family.denoiser), sampler.build(pipe.scheduler, steps)
    options = sampler.step_options(pipe.scheduler)
    images: list[Image.Image] = result_of(
        draw(family, net, pipe.vae, scheduler, wishes, steps=steps, guidance=4.0, phase="", options=options)
    )
    return images


def theirs(pipe: Any, sampler: Sampler, steps: int = STEPS, **options: Any) -> Image.Image:
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = sampler.build(pipe.scheduler, steps)
    image: Image.Image = pipe(
        "a red apple",
        negative_prompt="blurred",
        num_inference_steps=steps,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(7),
        **options,
    ).images[0]
    return image


def apart(one: Image.Image, other: Image.Image) -> int:
    assert numpy.asarray(one).std() > 1
    return int(numpy.abs(numpy.asarray(one, dtype=int) - numpy.asarray(other, dtype=int)).max())


COMPARED = [*(("sd1", sampler) for sampler in SAMPLERS), ("sdxl", DPMpp2M()), ("sdxl", EulerAncestral())]
COMPARED += [("sd3", Euler()), ("sd3", Heun())]  # others the pipeline of SD3 cannot take, or gives no generator


@pytest.mark.parametrize(("name", "sampler"), COMPARED, ids=lambda one: getattr(one, "kind", one))
def test_a_picture_to_begin_with_equals_the_pipeline_of_diffusers(name: str, sampler: Sampler) -> None:
    pipe = tiny.pipeline(name)
    latents = some_latents(pipe)
    (ours,) = drawn(pipe, name, sampler, [Start(latents, 0.5)])
    other = IMG2IMG[name](**pipe.components)
    assert apart(ours, theirs(other, sampler, image=latents[None], strength=0.5)) <= 1, "but for a byte's rounding"


def test_it_begins_at_the_right_one_of_steps_at_the_same_timestep() -> None:
    """Of many steps at Karras levels the last ones have the same whole number, each with a level of its own."""
    pipe = tiny.pipeline("sd1")
    latents = some_latents(pipe)
    (ours,) = drawn(pipe, "sd1", DPMpp2M(), [Start(latents, 0.05)], steps=200)
    other = IMG2IMG["sd1"](**pipe.components)
    assert apart(ours, theirs(other, DPMpp2M(), 200, image=latents[None], strength=0.05)) <= 1
    timesteps = other.scheduler.timesteps[-10:].tolist()
    assert timesteps[0] == timesteps[1]


@pytest.mark.parametrize(("name", "strength"), [("sd1", 0.5), ("sd1", 1.0), ("sdxl", 0.5)])
@pytest.mark.parametrize("sampler", [DDIM(), DPMpp2M(), EulerAncestral(), Heun()], ids=lambda sampler: sampler.kind)
def test_a_part_drawn_anew_equals_the_pipeline_of_diffusers(name: str, strength: float, sampler: Sampler) -> None:
    pipe = tiny.pipeline(name)
    kinds = {"sd1": diffusers.StableDiffusionInpaintPipeline, "sdxl": diffusers.StableDiffusionXLInpaintPipeline}
    latents, mask = some_latents(pipe), Image.new("L", (64, 64))
    mask.paste(255, (16, 0, 48, 40))
    (ours,) = drawn(pipe, name, sampler, [Start(latents, strength, anew_latent(mask, 8))])
    other = kinds[name](**pipe.components)
    known = {"image": latents[None], "mask_image": mask, "masked_image_latents": torch.zeros(1, 4, 8, 8)}
    size = {"width": 64, "height": 64}
    assert apart(ours, theirs(other, sampler, strength=strength, **known, **size)) <= 1, "but for a byte's rounding"


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("sampler", [DDIM(), Euler()], ids=lambda sampler: sampler.kind)
def test_models_for_inpainting_are_told_of_the_hole(name: str, sampler: Sampler) -> None:
    pipe = tiny.inpainting_pipeline(name)
    picture, mask = Image.effect_noise((64, 64), 90).convert("RGB"), Image.new("L", (64, 64))
    mask.paste(255, (16, 0, 48, 40))
    told, latents = holes(pipe.vae, picture, mask), some_latents(pipe)
    assert told.shape == (5, 8, 8)
    (ours,) = drawn(pipe, name, sampler, [Start(latents, 0.5, anew_latent(mask, 8))], told)
    known = {"image": latents[None], "mask_image": mask, "masked_image_latents": told[None, 1:]}
    size = {"width": 64, "height": 64}
    assert apart(ours, theirs(pipe, sampler, strength=0.5, **known, **size)) <= 1, "but for a byte's rounding"
    (whole,) = drawn(pipe, name, sampler, [Start(latents, 0.5)])
    assert apart(ours, whole) > 1, "a hole elsewhere is another picture"


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.kind)
@pytest.mark.parametrize("name", ["sd1", "sd3"])
def test_from_nothing_anew_to_all_of_it(name: str, sampler: Sampler) -> None:
    pipe = tiny.pipeline(name)
    latents = some_latents(pipe)
    (untouched,) = drawn(pipe, name, sampler, [Start(latents, 0.0)])
    assert untouched.tobytes() == decode_latents(pipe.vae, latents[None])[0].tobytes(), "the VAE's own round trip"
    (all_of_it,), (noise,) = (drawn(pipe, name, sampler, [start]) for start in (Start(latents, 1.0), None))
    assert all_of_it.tobytes() == noise.tobytes(), "nothing of the picture is left"
    nothing = torch.zeros(1, 8, 8)
    (kept,) = drawn(pipe, name, sampler, [Start(latents, 1.0, nothing)])
    assert kept.tobytes() == untouched.tobytes(), "what is known everywhere stays everywhere"


@pytest.mark.parametrize("name", ["sd1", "sd2", "sd3"])
@pytest.mark.parametrize("sampler", [DPMpp2M(), EulerAncestral(), DDIM(), LCM()], ids=lambda sampler: sampler.kind)
def test_held_structure_brings_the_coarse_shapes_of_the_picture(
    name: str, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, seen = tiny.pipeline(name), []
    latents = some_latents(pipe)
    decode = drawing.decode_latents
    monkeypatch.setattr(drawing, "decode_latents", lambda *a, **b: seen.append(a[1]) or decode(*a, **b))
    for share in (0.0, 0.5, 1.0):
        drawn(pipe, name, sampler, [Start(latents, 1.0, structure=share)])
    free, half, held = (likeness(coarse(end), coarse(latents[None])) for end in seen)
    assert held > 0.9
    assert held > half > free


def likeness(one: Tensor, other: Tensor) -> float:
    """The correlation of shapes, whatever their colours, from -1 to 1; the mean over channels."""
    one, other = (shapes - shapes.mean(dim=(2, 3), keepdim=True) for shapes in (one, other))
    return float(torch.nn.functional.cosine_similarity(one.flatten(2), other.flatten(2), dim=2).mean())
