"""The artist: pictures in one pass or two that depend on nothing but their own recipe."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import numpy
import pytest
import torch
from PIL import Image

from sdtune.choices.samplers import DDIM, AnySampler, DPMpp2M, EulerAncestral, Sampler
from sdtune.core.autoencoder import decode_latents, encode_images
from sdtune.core.drawing import always
from sdtune.core.families import family_named
from sdtune.core.reports import Warned
from sdtune.core.sampling.artist import Artist, Piece, Result, shape_of
from sdtune.core.sampling.recipe import Made, ModelUse, Recipe
from sdtune.core.sampling.source import Source
from sdtune.errors import SdtuneError
from sdtune.sample_config import Hires
from tests import tiny

SAMPLERS: list[Sampler] = [kind() for kind in get_args(get_args(AnySampler)[0])]
MADE = Made(sdtune="1", torch="2", diffusers="0", device="cpu", precision="fp32")
USE = ModelUse(name="tiny", family="sd1", weights="0")
HIRES = Hires(scale=1.5, strength=0.5)


def recipe(seed: int = 0, **told: Any) -> Recipe:
    settings = {"width": 64, "height": 64, "steps": 4, "guidance": 4.0, "sampler": DDIM()} | told
    return Recipe(prompt=f"apple {seed}", seed=seed, model=USE, made=MADE, **settings)


def artist_of(name: str, pipe: Any | None = None) -> tuple[Artist, Any]:
    pipe = pipe or tiny.pipeline(name)
    family = family_named(name)
    return Artist(family, getattr(pipe, family.denoiser), pipe.vae, pipe.scheduler), pipe


def pieces_of(artist: Artist, pipe: Any, recipes: list[Recipe], source: Source | None = None) -> list[Piece]:
    texts = [artist.family.encode_captions(pipe, [text]) for text in ("a red apple", "blurred")]
    prompt, negative = (always({key: value[0].detach() for key, value in text.items()}) for text in texts)
    return [Piece(one, prompt, negative, source) for one in recipes]


def followed(work: Iterator[Any]) -> tuple[list[Result], list[Any]]:
    told: list[Any] = []
    while True:
        try:
            told.append(next(work))
        except StopIteration as end:
            return end.value, told


def too_much(_module: Any, args: Any) -> None:
    """As much as there is for a tile, and no more."""
    if args[0].shape[-1] > 4:
        torch.empty(2**60, dtype=torch.uint8)


def drawn(artist: Artist, pieces: list[Piece]) -> list[Image.Image]:
    results, _ = followed(artist.draw(pieces, {"first": 1, "of": len(pieces)}))
    images = [one for one in results if isinstance(one, Image.Image)]
    assert len(images) == len(pieces), results
    return images


def picture(seed: int = 3, size: tuple[int, int] = (64, 64)) -> Image.Image:
    values = numpy.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), numpy.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def hole(size: tuple[int, int] = (64, 64)) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, (19, 5, 50, 44))
    return mask


def apart(one: Image.Image, other: Image.Image) -> float:
    return float(numpy.abs(numpy.asarray(one, dtype=int) - numpy.asarray(other, dtype=int)).mean())


# ---- alone and together


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.kind)
def test_pictures_are_the_same_bytes_however_many_are_drawn_together(sampler: Sampler) -> None:
    artist, pipe = artist_of("sd1")
    pieces = pieces_of(artist, pipe, [recipe(seed, sampler=sampler, steps=2) for seed in range(4)])
    together = [image.tobytes() for image in drawn(artist, pieces)]
    assert len(set(together)) == 4
    for size in (1, 2):
        parts = [pieces[start : start + size] for start in range(0, 4, size)]
        assert [image.tobytes() for part in parts for image in drawn(artist, part)] == together


@pytest.mark.parametrize("whole", [Hires(), HIRES], ids=["one pass", "two"])
def test_what_is_drawn_in_one_batch_is_the_same_picture(family_name: str, whole: Hires) -> None:
    """As on a card: but for the last digits of products of matrices."""
    artist, pipe = artist_of(family_name)
    source = Source(picture(), hole())
    pieces = pieces_of(artist, pipe, [recipe(n, hires=whole, sampler=EulerAncestral()) for n in range(3)], source)
    alone = drawn(artist, pieces)
    results, told = followed(artist._draw(pieces, 1, 3))
    assert {(one.number, one.of, one.together) for one in told} == {(1, 3, 3)}
    for one, other in zip(alone, results, strict=True):
        assert isinstance(other, Image.Image)
        assert numpy.abs(numpy.asarray(one, dtype=int) - numpy.asarray(other, dtype=int)).max() <= 1


def test_shapes_tell_what_can_be_drawn_together() -> None:
    artist, pipe = artist_of("sd1")
    (usual,) = pieces_of(artist, pipe, [recipe(1)])
    (other,) = pieces_of(artist, pipe, [recipe(2)])
    assert shape_of(usual) == shape_of(other)
    changes: list[dict[str, Any]] = [
        {"width": 128},
        {"steps": 5},
        {"guidance": 5.0},
        {"guidance_rescale": 0.5},
        {"sampler": DPMpp2M()},
        {"hires": HIRES},
    ]
    shapes = [shape_of(replace(usual, recipe=recipe(1, **change))) for change in changes]
    plain, masked = Source(picture()), Source(picture(), hole())
    with_source = [(plain, {}), (plain, {"strength": 0.5}), (plain, {"structure": 0.5}), (masked, {})]
    shapes += [shape_of(Piece(recipe(1, **told), usual.prompt, usual.negative, one)) for one, told in with_source]
    longer = always({key: torch.cat([value, value]) for key, value in usual.prompt[0][1].items()})
    shapes.append(shape_of(replace(usual, prompt=longer)))
    assert len({shape_of(usual), *shapes}) == len(shapes) + 1


def test_steps_are_told_over_both_passes() -> None:
    artist, pipe = artist_of("sd1")
    recipes = [recipe(n, hires=Hires(scale=1.5, strength=0.5, steps=6)) for n in range(2)]
    _, told = followed(artist.draw(pieces_of(artist, pipe, recipes, Source(picture())), {"first": 5, "of": 9}))
    assert [(one.number, one.step) for one in told] == [(5, step) for step in range(1, 7)]
    assert {(one.of, one.together, one.steps) for one in told} == {(9, 2, 6)}, "3 of 4 taken, then 3 of 6"


# ---- pictures to begin with


def test_strength_0_is_the_round_trip_of_the_autoencoder(family_name: str) -> None:
    artist, pipe = artist_of(family_name)
    source = Source(picture())
    (image,) = drawn(artist, pieces_of(artist, pipe, [recipe(strength=0)], source))
    mean, _ = encode_images(pipe.vae, [source.image])
    assert image.tobytes() == decode_latents(pipe.vae, mean)[0].tobytes()


def test_a_source_is_encoded_once() -> None:
    artist, pipe = artist_of("sd1")
    calls: list[int] = []
    pipe.vae.encoder.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    source = Source(picture())
    drawn(artist, pieces_of(artist, pipe, [recipe(seed) for seed in range(3)], source))
    assert calls == [1]


@pytest.mark.parametrize("whole", [Hires(), HIRES], ids=["one pass", "two"])
@pytest.mark.parametrize("kind", ["sd1", "sd1 for inpainting", "sdxl", "sd3"])
def test_what_is_black_in_the_mask_stays_to_the_byte(kind: str, whole: Hires) -> None:
    name = kind.split()[0]
    artist, pipe = artist_of(name, tiny.inpainting_pipeline(name) if "for" in kind else None)
    source = Source(picture(), hole())
    (image,) = drawn(artist, pieces_of(artist, pipe, [recipe(hires=whole, feather=3)], source))
    before = source.image.resize(image.size, Image.Resampling.LANCZOS)
    black = numpy.asarray(source.mask.resize(image.size, Image.Resampling.NEAREST)) == 0  # type: ignore[union-attr]
    old, new = numpy.asarray(before, dtype=int), numpy.asarray(image, dtype=int)
    assert (old[black] == new[black]).all()
    assert numpy.abs(old[~black] - new[~black]).mean() > 5


# ---- a second pass


def test_a_second_pass_draws_over_the_first_scaled_up() -> None:
    artist, pipe = artist_of("sd1")
    (first,) = drawn(artist, pieces_of(artist, pipe, [recipe()]))
    (untouched,) = drawn(artist, pieces_of(artist, pipe, [recipe(hires=Hires(scale=1.6, strength=0))]))
    assert untouched.size == (104, 104), "of 102.4, the nearest multiple of 8"
    mean, _ = encode_images(pipe.vae, [first.resize((104, 104), Image.Resampling.LANCZOS)])
    assert untouched.tobytes() == decode_latents(pipe.vae, mean)[0].tobytes()
    (anew,) = drawn(artist, pieces_of(artist, pipe, [recipe(hires=Hires(scale=1.6, strength=1))]))
    (direct,) = drawn(artist, pieces_of(artist, pipe, [recipe(width=104, height=104)]))
    assert apart(anew, direct) > 1, "from other noise"


def test_sdxl_is_told_of_the_size_of_each_pass() -> None:
    artist, pipe = artist_of("sdxl")
    seen: list[list[float]] = []
    pipe.unet.register_forward_pre_hook(
        lambda _module, _args, told: seen.append(told["added_cond_kwargs"]["time_ids"][0].tolist()), with_kwargs=True
    )
    drawn(artist, pieces_of(artist, pipe, [recipe(steps=1, hires=Hires(scale=2, strength=1))]))
    assert seen == [[64, 64, 0, 0, 64, 64], [128, 128, 0, 0, 128, 128]]


def test_a_second_pass_is_not_encoded_while_another_picture_turns_tiles_on() -> None:
    """Decoding in tiles sets the VAE so, for encoding, too."""
    artist, pipe = artist_of("sd1")
    pieces = pieces_of(artist, pipe, [recipe(n, steps=1, tiles="on", hires=Hires(scale=2)) for n in range(4)])
    seen: list[bool] = []
    pipe.vae.encoder.register_forward_pre_hook(lambda *_: seen.append(artist.tiling.locked()))
    together = drawn(artist, pieces)
    assert seen
    assert all(seen)
    assert [one.tobytes() for one in together] == [drawn(artist, [piece])[0].tobytes() for piece in pieces]


# ---- what is no picture


@pytest.mark.parametrize("where", ["unet", "decoder"])
def test_a_picture_that_is_no_numbers_is_named_and_the_others_are_drawn(where: str) -> None:
    artist, pipe = artist_of("sd1")
    pieces = pieces_of(artist, pipe, [recipe(seed, hires=HIRES) for seed in range(3)])
    pieces[1] = replace(pieces[1], prompt=pieces[1].negative)  # by which it is known
    usual = drawn(artist, pieces)
    (of_second,) = pieces[1].prompt[0][1].values()
    spoilt = threading.local()

    def look(_module: Any, _args: Any, told: Any) -> None:
        spoilt.here = torch.equal(told["encoder_hidden_states"][-1], of_second)

    def spoil(_module: Any, _args: Any, out: Any) -> Any:
        if not spoilt.here:
            return out
        return (out[0] * float("nan"),) if isinstance(out, tuple) else out * float("nan")

    pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
    (pipe.unet if where == "unet" else pipe.vae.decoder).register_forward_hook(spoil)
    results, _ = followed(artist.draw(pieces, {"first": 1, "of": 3}))
    assert isinstance(results[1], SdtuneError)
    assert str(results[1]).startswith('"apple 1", seed 1: ')
    assert "lower --guidance" in str(results[1])
    assert "\n" not in str(results[1])
    assert [results[n].tobytes() for n in (0, 2)] == [usual[n].tobytes() for n in (0, 2)]  # type: ignore[union-attr]


def test_pictures_that_are_too_large_to_decode_whole_are_in_tiles_and_that_is_told() -> None:
    artist, pipe = artist_of("sd1")
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 4, 32
    tiled = drawn(artist, pieces_of(artist, pipe, [recipe(1, tiles="on"), recipe(2, tiles="on")]))
    pipe.vae.decoder.register_forward_pre_hook(too_much)
    pieces = pieces_of(artist, pipe, [recipe(1), recipe(2)])
    results, told = followed(artist.draw(pieces, {"first": 1, "of": 2}))
    for one, other in zip(results, tiled, strict=True):
        assert isinstance(one, Image.Image)
        assert one.tobytes() == other.tobytes()
    warned = [report.text for report in told if isinstance(report, Warned)]
    assert sorted(text[:19] for text in warned) == ['"apple 1", seed 1: ', '"apple 2", seed 2: ']
    assert all("in tiles" in text for text in warned)
