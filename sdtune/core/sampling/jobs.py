"""Jobs: the pictures that are to be drawn, each with its recipe, in an order that saves work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from sdtune import __version__
from sdtune.core.applied import Applied
from sdtune.core.autoencoder import Tiles, in_tiles, native_side, pixels_a_patch
from sdtune.core.drawing import Guide
from sdtune.core.embedding import word_in
from sdtune.core.reports import Note, Telling
from sdtune.core.run_folder import embeddings_beside
from sdtune.core.sampling.again import as_recorded
from sdtune.core.sampling.artist import Piece, shape_of
from sdtune.core.sampling.asked import Asked
from sdtune.core.sampling.fingerprint import of_model
from sdtune.core.sampling.hires import second_size
from sdtune.core.sampling.order import Order
from sdtune.core.sampling.rack import must_fit_all
from sdtune.core.sampling.recipe import MOST_LORAS, FileUse, LoraUse, Made, ModelUse, Recipe, WordUse, file_use
from sdtune.core.sampling.sizes import becomes, drawn_size, must_be_drawable
from sdtune.core.sampling.source import Sources, strength_of
from sdtune.errors import ConfigError
from sdtune.sample_config import LARGEST, Sample

NAMED = 10
"""sizes of one command that are told"""
Set = tuple[tuple[str, float, tuple[tuple[str, float], ...]], ...]


@dataclass(frozen=True)
class Job:
    """A picture to draw."""

    number: int
    """among all of the command, from 0"""
    asked: Asked
    """with LoRAs that change something alone"""
    recipe: Recipe

    @property
    def set(self) -> Set:
        """What tells its LoRAs from those of others."""
        return tuple(
            (str(one.path), one.strength.usual, tuple(sorted(one.strength.blocks.items()))) for one in self.asked.loras
        )

    @property
    def words(self) -> dict[str, object]:
        """What names of files can hold beside the recipe."""
        loras = self.asked.loras
        return {
            "line": self.asked.line,
            "lora": "+".join(one.path.stem for one in loras),
            "strength": "+".join(f"{one.strength.usual:g}" for one in loras),
        }


@dataclass
class Desk:
    """What makes recipes: files are looked at once."""

    config: Sample
    model: ModelUse
    made: Made
    clip_skip: int | None
    own: tuple[int, int] | None
    """(width, height) in pixels of the picture to begin with"""
    side: int
    """pixels of the square that the model was made for"""
    unit: int
    """pixels of which sides are multiples"""
    title: str
    """of the model's family"""

    def __post_init__(self) -> None:
        self._uses: dict[Path, FileUse] = {}
        self._words: dict[Path, tuple[WordUse, ...]] = {}

    def job(self, number: int, asked: Asked) -> Job:
        """The picture with its recipe; ConfigError where it cannot be drawn."""
        config = self.config
        width, height = self.size_of(asked)
        acting = tuple(one for one in asked.loras if one.strength.usual or any(one.strength.blocks.values()))
        asked = replace(asked, loras=acting)
        if len(acting) > MOST_LORAS:
            raise ConfigError(
                f"{asked.where}: {len(acting)} LoRAs, and {MOST_LORAS} are the most of a picture; `sdtune merge` makes "
                "one of several"
            )
        recipe = Recipe(
            prompt=asked.text,
            negative=asked.negative,
            syntax=config.syntax,
            seed=asked.seed,
            width=width,
            height=height,
            steps=asked.steps,
            guidance=asked.guidance,
            guidance_rescale=config.guidance_rescale,
            sampler=asked.sampler,
            clip_skip=self.clip_skip,
            model=self.model,
            loras=tuple(self._lora(one) for one in acting),
            words=tuple(word for one in acting for word in self._words_beside(one.path)),
            init=self.use(config.init) if config.init else None,
            strength=strength_of(asked.strength, inside=config.mask is not None) if config.init else None,
            mask=self.use(config.mask) if config.mask else None,
            feather=self._feather(min(width, height)),
            structure=config.structure,
            hires=config.hires,
            made=self.made,
        )
        return Job(number, asked, recipe.model_copy(update={"tiles": self._tiles(recipe)}))

    def size_of(self, asked: Asked) -> tuple[int, int]:
        """(width, height) in pixels."""
        size = drawn_size(asked.size, self.own, self.unit, self.side)
        if self.config.init and self.own:
            must_be_drawable(self.config.init, self.own, size)
        return size

    def becomes(self, asked: Sequence[Asked]) -> Iterator[str]:
        """What is told of a picture to begin with that is not drawn on as it is, once a size."""
        init, own = self.config.init, self.own
        if not init or not own:
            return
        sizes = {self.size_of(one): one.size != (None, None) for one in asked}
        for size, given in list(sizes.items())[:NAMED]:
            masked = self.config.mask is not None
            if told := becomes(init, own, size, self.unit, self.side, asked=given, masked=masked):
                yield told

    def must_fit(self, asked: Sequence[Asked]) -> None:
        """Stop at sides that the model cannot draw, with the nearest that it can; ConfigError names each."""
        wrong = {self._size_told(one): self.size_of(one) for one in asked if self._wrong(self.size_of(one))}
        lines = []
        for told, size in list(wrong.items())[:NAMED]:
            near = " x ".join(str(max(self.unit, round(side / self.unit) * self.unit)) for side in size)
            lines.append(
                f"{told}: sides of pictures of {self.title} are multiples of {self.unit} pixels; the nearest are {near}"
            )
        scale = self.config.hires.scale
        large = [one for one in asked if max(self.size_of(one)) * scale > LARGEST]
        lines += [
            f"{told}: over {LARGEST} pixels a side with --hires {scale:g}; give a smaller one"
            for told in dict.fromkeys(map(self._size_told, large[: NAMED - len(lines)]))
        ]
        if lines:
            raise ConfigError(*lines, *([f"and {len(wrong) - NAMED} more like these"] if len(wrong) > NAMED else []))

    def _wrong(self, size: tuple[int, int]) -> bool:
        return any(side % self.unit for side in size)

    def _size_told(self, asked: Asked) -> str:
        """The size with where it comes from: the line, or the command."""
        shown = "{} x {}".format(*self.size_of(asked))
        if asked.size == (self.config.width, self.config.height):
            return f"--width and --height: {shown}"
        return f"{asked.where}: {shown}"

    def use(self, path: Path) -> FileUse:
        """A file as recipes name it."""
        if path not in self._uses:
            self._uses[path] = file_use(path)
        return self._uses[path]

    def _lora(self, one: Applied) -> LoraUse:
        use = self.use(one.path)
        return LoraUse(file=use.file, sha256=use.sha256, strength=one.strength.usual, blocks=dict(one.strength.blocks))

    def _words_beside(self, lora: Path) -> tuple[WordUse, ...]:
        """The new words that were learned with a LoRA, as recipes name them."""
        if lora not in self._words:
            self._words[lora] = tuple(
                WordUse(**dict(self.use(path)), word=word_in(path)) for path in embeddings_beside(lora)
            )
        return self._words[lora]

    def _tiles(self, recipe: Recipe) -> Tiles:
        """How it is decoded, so that a picture of which no pass is in tiles is the same one however that is said."""
        is_large = in_tiles("auto", *second_size(recipe, self.unit))
        return "off" if self.config.tiles == "auto" and not is_large else self.config.tiles

    def _feather(self, side: int) -> int:
        if not self.config.mask:
            return 0
        return side // 64 if self.config.feather is None else self.config.feather


def jobs_of(order: Order, pipe: Any) -> Telling[list[Job]]:
    """All that an order asks for, in order; of the pipeline its configs are looked at."""
    config, family = order.config, order.family
    net = getattr(pipe, family.denoiser)
    family.check_clip_skip(pipe, order.clip_skip)
    must_fit_all(pipe, (one for asked in order.asked for one in asked.loras))
    unit = pixels_a_patch(net.config, pipe.vae)
    side = native_side(net.config, pipe.vae, family.resolution)
    weights = yield from of_model(order.identity)
    single = order.identity.source == "file"
    use = ModelUse(name=order.identity.name, family=family.name, weights=weights, single=single)
    desk = Desk(config, use, _made_now(order), order.clip_skip, order.own, side, unit, family.title)
    desk.must_fit(order.asked)
    for told in desk.becomes(order.asked):
        yield Note(told)
    jobs = [desk.job(number, one) for number, one in enumerate(order.asked)]
    if order.recipe is None:
        return jobs
    return [replace(job, recipe=as_recorded(order.recipe, job.recipe)) for job in jobs]


def by_set(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """The jobs, those with the same LoRAs together, in the order in which each set comes first."""
    first: dict[Set, int] = {}
    for number, job in enumerate(jobs):
        first.setdefault(job.set, number)
    ordered = sorted(jobs, key=lambda job: first[job.set])
    for _, some in groupby(ordered, key=lambda job: job.set):
        yield list(some)


def batches(
    jobs: Sequence[Job], guides: Callable[[Job], tuple[Guide, Guide]], sources: Sources, most: int
) -> Iterator[list[tuple[Job, Piece]]]:
    """Jobs that are drawn together, up to so many of one shape, with all that each needs."""
    batch: list[tuple[Job, Piece]] = []
    for job in jobs:
        prompt, negative = guides(job)
        recipe = job.recipe
        piece = Piece(recipe, prompt, negative, sources.of((recipe.width, recipe.height)))
        if batch and (len(batch) == most or shape_of(piece) != shape_of(batch[0][1])):
            yield batch
            batch = []
        batch.append((job, piece))
    if batch:
        yield batch


def _made_now(order: Order) -> Made:
    """What pictures are drawn with here."""
    import diffusers

    device = order.device.type
    return Made(
        sdtune=__version__,
        torch=torch.__version__,
        diffusers=diffusers.__version__,
        device=torch.cuda.get_device_name(order.device) if device == "cuda" else device,
        precision=str(order.dtype).removeprefix("torch."),
        threads=torch.get_num_threads() if device == "cpu" else None,
        attention=order.attention.used,
    )
