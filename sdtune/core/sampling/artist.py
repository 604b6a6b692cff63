"""The artist: draws batches of pictures with the denoiser and the VAE, in one pass or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any

from PIL import Image
from torch import Tensor

from sdtune.core.autoencoder import OVERFLOWS, encode_images, in_half, pixels_a_latent, pixels_a_patch
from sdtune.core.drawing import NO_NUMBERS, Guide, Telltale, Way, Wish, decoded, denoise
from sdtune.core.families import Family
from sdtune.core.inpainting import anew_latent, holes, is_told_of_holes
from sdtune.core.reports import Drawing, Note, Telling
from sdtune.core.sampling.hires import STREAM, has_second_pass, scaled, second_size
from sdtune.core.sampling.recipe import Recipe
from sdtune.core.sampling.side_by_side import side_by_side
from sdtune.core.sampling.source import Source, kept, strength_of
from sdtune.core.sampling.starts import Start, first_taken
from sdtune.errors import SdtuneError, cut

Result = Image.Image | SdtuneError
"""A picture, or why there is none."""


@dataclass(frozen=True)
class Piece:
    """A picture to draw, with all that it needs."""

    recipe: Recipe
    prompt: Guide
    negative: Guide
    source: Source | None = None


@dataclass(frozen=True)
class Pass:
    """Once over a picture."""

    steps: int
    strength: float = 1.0
    """share of them that are taken"""
    structure: float = 0.0
    stream: str = ""
    """which of the seed's noises it takes"""


@dataclass(frozen=True)
class Encoded:
    """A source as the denoiser sees it."""

    source: Source
    """which lives as long as its id stands for it"""
    latents: Tensor  # [C, h, w]
    mask: Tensor | None  # [1, h, w], 1 is drawn anew
    holes: Tensor | None  # [1 + C, h, w]; None where the denoiser is not told of them


@dataclass
class Artist:
    """What draws: the model's parts on their device."""

    family: Family
    net: Any
    vae: Any
    scheduler: Any
    """the base model's own, from which samplers are made"""
    encoded: dict[int, Encoded] = field(default_factory=dict)
    """sources, by id, so that each is encoded once"""
    tiling: Lock = field(default_factory=Lock)
    """held by the one that has the VAE, as decoding turns its tiles on and off"""

    def draw(self, pieces: Sequence[Piece], shown: Mapping[str, int]) -> Telling[list[Result]]:
        """Pictures of one shape (`shape_of`), told step by step; an error in place of one that is no numbers.

        `shown` holds "first" and "of": which of all pictures these are. A picture does not depend on the others: on a
        CPU, where a product of matrices differs in its last digits by how many rows it has, each is drawn by itself, in
        a thread of its own.
        """
        first, of = shown["first"], shown["of"]
        if self.net.device.type != "cpu" or len(pieces) == 1:
            return (yield from self._draw(pieces, first, of))
        for piece in pieces:
            if piece.source:
                self._encode(piece.source)
        works = [partial(self._draw, [piece], first, of) for piece in pieces]
        done, shown_step = [0] * len(pieces), 0
        drawing = side_by_side(works)
        with closing(drawing):
            while True:
                try:
                    place, told = next(drawing)
                except StopIteration as end:
                    return [result for results in end.value for result in results]
                if not isinstance(told, Drawing):
                    yield told
                    continue
                done[place] = told.step
                if min(done) > shown_step:
                    shown_step = min(done)
                    yield replace(told, together=len(pieces), step=shown_step)

    def _draw(self, pieces: Sequence[Piece], first: int, of: int) -> Telling[list[Result]]:
        recipe = pieces[0].recipe
        passes = passes_of(pieces[0])
        counts = [self._count(recipe, one) for one in passes]
        results: list[Result] = []
        for number, one in enumerate(passes):
            before, steps = sum(counts[:number]), sum(counts)

            def tell(step: int, _: int, before: int = before, steps: int = steps) -> Drawing:
                return Drawing(first, of, len(pieces), before + step, steps)

            if number == 0:
                begun = [(piece, piece.source) for piece in pieces]
                results = yield from self._over(begun, one, (recipe.width, recipe.height), tell)
                continue
            size = second_size(recipe, pixels_a_patch(self.net.config, self.vae))
            larger = [self._enlarged(piece, image, size) for piece, image in zip(pieces, results, strict=True)]
            begun = [(piece, source) for piece, source in zip(pieces, larger, strict=True) if source]
            drawn = iter((yield from self._over(begun, one, size, tell)) if begun else [])
            results = [next(drawn) if source else image for source, image in zip(larger, results, strict=True)]
        return results

    def _over(
        self, begun: Sequence[tuple[Piece, Source | None]], one: Pass, size: tuple[int, int], tell: Telltale
    ) -> Telling[list[Result]]:
        """Pieces with what each begins with, drawn together."""
        recipe = begun[0][0].recipe
        wishes = [self._wish(piece, source, one, size) for piece, source in begun]
        way = Way(one.steps, recipe.guidance, recipe.guidance_rescale, recipe.sampler.step_options(self.scheduler))
        scheduler = recipe.sampler.build(self.scheduler, one.steps)
        family, net, vae = self.family, self.net, self.vae
        latents = yield from denoise(family, net, vae, scheduler, wishes, way, tell, _named(recipe))
        halved, results = in_half(vae), []
        for (piece, _), latent in zip(begun, latents, strict=True):
            result = yield from self._shown(piece, latent, size)
            results.append(result)
        if halved and not in_half(vae):
            yield Note(OVERFLOWS)
        return results

    def _shown(self, piece: Piece, latent: Tensor, size: tuple[int, int]) -> Telling[Result]:
        """The picture of latents, with what of its source stays."""
        what = _named(piece.recipe)
        if not latent.isfinite().all():
            return SdtuneError(f"{what}: what was drawn is no numbers; {NO_NUMBERS}")
        try:
            with self.tiling:
                image = yield from decoded(self.vae, latent, piece.recipe.tiles, what)
        except SdtuneError as error:
            return SdtuneError(str(error) if str(error).startswith(what) else f"{what}: {error}")
        if piece.source is None or piece.source.mask is None:
            return image
        factor = size[0] / piece.recipe.width
        return kept(_at(piece.source, size), image, round(piece.recipe.feather * factor))

    def _wish(self, piece: Piece, source: Source | None, one: Pass, size: tuple[int, int]) -> Wish:
        if source is None:
            return Wish(piece.prompt, piece.negative, piece.recipe.seed, size, stream=one.stream)
        seen = self._encode(source) if source is piece.source else self._encoding(source)
        start = Start(seen.latents, one.strength, seen.mask, one.structure)
        return Wish(piece.prompt, piece.negative, piece.recipe.seed, size, start, seen.holes, one.stream)

    def _encode(self, source: Source) -> Encoded:
        """What is encoded once for many pieces."""
        if id(source) not in self.encoded:
            self.encoded[id(source)] = self._encoding(source)
        return self.encoded[id(source)]

    def _encoding(self, source: Source) -> Encoded:
        """By the VAE's mean, so that the same picture is always the same latents."""
        told = source.mask is not None and is_told_of_holes(self.net, self.vae.config.latent_channels)
        with self.tiling:
            mean, _ = encode_images(self.vae, [source.image])
            seen = holes(self.vae, source.image, source.mask) if source.mask and told else None
        if source.mask is None:
            return Encoded(source, mean[0], None, None)
        return Encoded(source, mean[0], anew_latent(source.mask, pixels_a_latent(self.vae)), seen)

    def _enlarged(self, piece: Piece, image: Result, size: tuple[int, int]) -> Source | None:
        """What the second pass begins with; None where the first made no picture."""
        if isinstance(image, SdtuneError):
            return None
        return scaled(Source(image, piece.source.mask if piece.source else None), size)

    def _count(self, recipe: Recipe, one: Pass) -> int:
        """How often the denoiser is asked in a pass."""
        scheduler = recipe.sampler.build(self.scheduler, one.steps)
        scheduler.set_timesteps(one.steps)
        return len(scheduler.timesteps) - first_taken(scheduler, one.steps, one.strength)


def shape_of(piece: Piece) -> tuple[object, ...]:
    """What pictures that are drawn together have in common."""
    recipe = piece.recipe
    chunks = tuple(
        sorted((name, tuple(value.shape)) for name, value in piece.prompt[0][1].items())  # of 75 tokens
    )
    masked = piece.source is not None and piece.source.mask is not None
    size = (recipe.width, recipe.height)
    guidance = (recipe.guidance, recipe.guidance_rescale)
    return (size, recipe.sampler, guidance, chunks, masked, recipe.hires.scale, *passes_of(piece))


def passes_of(piece: Piece) -> tuple[Pass, ...]:
    """The one or two times that a picture is drawn over."""
    recipe, source = piece.recipe, piece.source
    first = Pass(recipe.steps)
    if source:
        first = Pass(recipe.steps, strength_of(recipe.strength, inside=source.mask is not None), recipe.structure)
    if not has_second_pass(recipe):
        return (first,)
    return first, Pass(recipe.hires.steps or recipe.steps, recipe.hires.strength, stream=STREAM)


def _at(source: Source, size: tuple[int, int]) -> Source:
    return source if source.image.size == size else scaled(source, size)


def _named(recipe: Recipe) -> str:
    """A picture as messages name it."""
    words = " ".join(recipe.prompt.split())
    return f'"{cut(words)}", seed {recipe.seed}'
