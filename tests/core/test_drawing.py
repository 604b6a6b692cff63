"""Drawing is what diffusers' own pipelines draw, and depends on nothing but the wish."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from sdtune.choices.samplers import DDIM, DPMpp2M, Euler, EulerAncestral, Heun, Sampler
from sdtune.core import autoencoder
from sdtune.core.data.cache import Store
from sdtune.core.data.conditioning import Reading, encode_captions, let_go
from sdtune.core.drawing import Wish, always, draw
from sdtune.core.families import family_named
from sdtune.core.reports import Report, Warned
from sdtune.core.sampling.starts import Start
from sdtune.errors import SdtuneError
from tests import tiny

SAMPLERS = [DPMpp2M(), DDIM(), Euler(), EulerAncestral()]


def result_of(work: Iterator[Any], heard: list[Report] | None = None) -> Any:
    heard = [] if heard is None else heard
    while True:
        try:
            heard.append(next(work))
        except StopIteration as end:
            return end.value


def drawn(
    pipe: Any,
    name: str,
    sampler: Sampler,
    seeds: list[int],
    guidance: float = 4.0,
    rescale: float = 0.0,
    heard: list[Report] | None = None,
) -> list[Image.Image]:
    family = family_named(name)
    encoders = {part: getattr(pipe, part) for part in family.text_encoders}
    texts = ["a red apple", "blurred"]
    told_of = result_of(encode_captions(texts, family, pipe, torch.device("cpu"), Reading(), Store(None, 0)))
    told, negative = (told_of(text) for text in texts)
    let_go(family, pipe)
    for part, encoder in encoders.items():
        assert getattr(pipe, part) is None
        setattr(pipe, part, encoder)
    wishes = [Wish(always(told), always(negative), seed, (64, 64)) for seed in seeds]
    scheduler = sampler.build(pipe.scheduler)
    net = getattr(pipe, family.denoiser)
    images: list[Image.Image] = result_of(
        draw(family, net, pipe.vae, scheduler, wishes, steps=3, guidance=guidance, phase="", rescale=rescale), heard
    )
    return images


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.kind)
def test_equals_the_pipeline_of_diffusers(family_name: str, sampler: Sampler) -> None:
    pipe = tiny.pipeline(family_name)
    pipe.set_progress_bar_config(disable=True)
    (ours,) = drawn(pipe, family_name, sampler, [7])
    pipe.scheduler = sampler.build(pipe.scheduler)
    theirs = pipe(
        "a red apple",
        negative_prompt="blurred",
        num_inference_steps=3,
        guidance_scale=4.0,
        width=64,
        height=64,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    difference = numpy.abs(numpy.asarray(ours, dtype=int) - numpy.asarray(theirs, dtype=int))
    assert numpy.asarray(ours).std() > 1
    assert difference.max() <= 1, "but for the rounding of a byte"


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_guidance_rescale_is_that_of_diffusers(rescale: float) -> None:
    pipe = tiny.pipeline("sd2")
    pipe.set_progress_bar_config(disable=True)
    first, second = drawn(pipe, "sd2", DDIM(), [7, 8], rescale=rescale)
    (plain,) = drawn(pipe, "sd2", DDIM(), [7])
    pipe.scheduler = DDIM().build(pipe.scheduler)
    for image, seed in ((first, 7), (second, 8)):
        theirs = pipe(
            "a red apple",
            negative_prompt="blurred",
            num_inference_steps=3,
            guidance_scale=4.0,
            guidance_rescale=rescale,
            width=64,
            height=64,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        assert numpy.abs(numpy.asarray(image, dtype=int) - numpy.asarray(theirs, dtype=int)).max() <= 1
    assert numpy.abs(numpy.asarray(first, dtype=int) - numpy.asarray(plain, dtype=int)).max() > 1


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.kind)
def test_an_image_does_not_depend_on_its_neighbours(sampler: Sampler) -> None:
    pipe = tiny.pipeline("sd1")
    together = drawn(pipe, "sd1", sampler, [1, 2, 3])
    alone = drawn(pipe, "sd1", sampler, [2])
    difference = numpy.abs(numpy.asarray(together[1], dtype=int) - numpy.asarray(alone[0], dtype=int))
    assert difference.max() <= 1
    assert numpy.asarray(together[0]).tobytes() != numpy.asarray(together[1]).tobytes()


def test_guidance_of_one_asks_once(family_name: str) -> None:
    pipe = tiny.pipeline(family_name)
    family = family_named(family_name)
    sizes: list[int] = []
    getattr(pipe, family.denoiser).register_forward_pre_hook(
        lambda _module, args, _named: sizes.append(len(args[0])), with_kwargs=True
    )
    drawn(pipe, family_name, DDIM(), [1], guidance=1.0)
    drawn(pipe, family_name, DDIM(), [1], guidance=2.0)
    assert sizes == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("sampler", "strength", "expected"),
    [
        (DDIM(), None, "aaabbbcc"),
        (DDIM(), 0.5, "bbcc"),
        (Heun(), None, "aaaaaabbbbbbccc"),  # asked twice a step, but for the last
    ],
    ids=["all steps", "half of them", "heun"],
)
def test_a_guide_says_what_holds_at_each_step(sampler: Sampler, strength: float | None, expected: str) -> None:
    pipe = tiny.pipeline("sd1")
    texts = {letter: torch.full((77, tiny.WIDTH), float(number)) for number, letter in enumerate("abcz")}
    a, b, c, z = ({"encoder_hidden_states": text} for text in texts.values())
    start = Start(torch.zeros(4, 8, 8), strength) if strength else None
    wishes = [
        Wish(((3, a), (6, b), (8, c)), ((4, z), (8, a)), 1, (64, 64), start),
        Wish(always(b), always(z), 2, (64, 64), start),
    ]
    said: list[list[float]] = []
    pipe.unet.register_forward_pre_hook(
        lambda _module, _args, told: said.append(told["encoder_hidden_states"][:, 0, 0].tolist()), with_kwargs=True
    )
    scheduler = sampler.build(pipe.scheduler, 8)
    result_of(draw(family_named("sd1"), pipe.unet, pipe.vae, scheduler, wishes, steps=8, guidance=2.0, phase=""))
    assert "".join("abcz"[int(one[2])] for one in said) == expected
    assert [one[1::2] for one in said] == [[3.0, 1.0]] * len(expected), "the other image is told what it is"
    assert (said[0][0], said[-1][0]) == (3.0 if not strength else 0.0, 0.0)


def test_what_is_no_numbers_is_an_error() -> None:
    pipe = tiny.pipeline("sd1")
    pipe.unet.register_forward_hook(lambda _module, _args, out: (out[0] * float("nan"),))
    with pytest.raises(SdtuneError, match="what was drawn is no numbers; lower --guidance"):
        drawn(pipe, "sd1", DDIM(), [1])


def needing(net: Any, most: int) -> Any:
    """The denoiser asks for more memory than there is in the second step of over so many images, meanwhile."""
    calls = [0]

    def before(_module: Any, args: Any, _named: Any) -> None:
        calls[0] += 1
        if len(args[0]) > most and calls[0] % 2 == 0:
            torch.empty(2**60, dtype=torch.uint8)

    return net.register_forward_pre_hook(before, with_kwargs=True)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.kind)
def test_images_that_do_not_fit_together_are_the_same_ones(sampler: Sampler) -> None:
    pipe = tiny.pipeline("sd1")
    together = drawn(pipe, "sd1", sampler, [1, 2, 3])
    hook = needing(pipe.unet, 2)  # one image, with its negative
    halves = drawn(pipe, "sd1", sampler, [1, 2, 3])
    hook.remove()
    assert len(halves) == 3
    for one, other in zip(together, halves, strict=True):
        assert numpy.abs(numpy.asarray(one, dtype=int) - numpy.asarray(other, dtype=int)).max() <= 1


@pytest.mark.parametrize("part", ["unet", "decoder"])
def test_an_image_that_does_not_fit_alone_is_told_in_one_line(part: str) -> None:
    pipe = tiny.pipeline("sd1")
    hook = needing(pipe.unet, 0) if part == "unet" else pipe.vae.decoder.register_forward_pre_hook(too_much)
    with pytest.raises(SdtuneError, match=r"out of memory with a single image; draw a smaller one"):
        drawn(pipe, "sd1", DDIM(), [1, 2])
    hook.remove()


def test_an_image_too_large_to_decode_whole_is_decoded_in_tiles() -> None:
    pipe = tiny.pipeline("sd1")
    (whole,) = drawn(pipe, "sd1", DDIM(), [1])
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 4, 32
    seen: list[int] = []

    def most(_module: Any, args: Any) -> None:
        seen.append(args[0].shape[-1])
        if seen[-1] > 4:
            too_much()

    pipe.vae.decoder.register_forward_pre_hook(most)
    told: list[Report] = []
    (tiled,) = drawn(pipe, "sd1", DDIM(), [1], heard=told)
    assert [report.text[:30] for report in told if isinstance(report, Warned)] == [": memory does not suffice to d"]
    assert seen[0] == 8
    assert max(seen[1:]) == 4
    assert tiled.size == whole.size


def test_an_image_that_is_in_tiles_already_is_not_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, asked = tiny.pipeline("sd1"), []
    monkeypatch.setattr(autoencoder, "LARGE", 1)

    def count(*_: Any) -> None:
        asked.append(pipe.vae.use_tiling)
        too_much()

    pipe.vae.decoder.register_forward_pre_hook(count)
    told: list[Report] = []
    with pytest.raises(SdtuneError, match="out of memory with a single image"):
        drawn(pipe, "sd1", DDIM(), [1], heard=told)
    assert asked == [True]
    assert not [report for report in told if isinstance(report, Warned)]


def too_much(*_: Any) -> None:
    torch.empty(2**60, dtype=torch.uint8)


def test_another_error_is_not_taken_for_want_of_memory() -> None:
    pipe = tiny.pipeline("sd1")
    pipe.unet.register_forward_pre_hook(lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        drawn(pipe, "sd1", DDIM(), [1, 2])
