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
from sdtune.core.autoencoder import native_side, pixels_a_patch
from sdtune.core.drawing import Guide
from sdtune.core.run_folder import embeddings_beside
from sdtune.core.sampling.again import as_recorded
from sdtune.core.sampling.artist import Piece, shape_of
from sdtune.core.sampling.asked import Asked
from sdtune.core.sampling.fingerprint import of_model
from sdtune.core.sampling.order import Order
from sdtune.core.sampling.recipe import FileUse, LoraUse, Made, ModelUse, Recipe, file_use
from sdtune.core.sampling.source import Sources, read_source, strength_of
from sdtune.errors import ConfigError
from sdtune.sample_config import Sample

TILED = 2 * 2**20
"""pixels over which --tiles auto decodes in tiles"""
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
    usual: tuple[int, int]
    """(width, height) in pixels where none are asked for"""
    unit: int
    """pixels of which sides are multiples"""
    title: str
    """of the model's family"""

    def __post_init__(self) -> None:
        self._uses: dict[Path, FileUse] = {}

    def job(self, number: int, asked: Asked) -> Job:
        """The picture with its recipe; ConfigError where it cannot be drawn."""
        config = self.config
        width, height = (side or usual for side, usual in zip(asked.size, self.usual, strict=True))
        must_fit((width, height), self.unit, asked.where, self.title)
        acting = tuple(one for one in asked.loras if one.strength.usual or any(one.strength.blocks.values()))
        asked = replace(asked, loras=acting)
        larger = config.hires.scale**2
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
            words=tuple(self.use(path) for one in acting for path in embeddings_beside(one.path)),
            init=self.use(config.init) if config.init else None,
            strength=strength_of(asked.strength, inside=config.mask is not None) if config.init else None,
            mask=self.use(config.mask) if config.mask else None,
            feather=self._feather(min(width, height)),
            structure=config.structure,
            hires=config.hires,
            tiles=config.tiles == "on" or (config.tiles == "auto" and width * height * larger > TILED),
            made=self.made,
        )
        return Job(number, asked, recipe)

    def use(self, path: Path) -> FileUse:
        """A file as recipes name it."""
        if path not in self._uses:
            self._uses[path] = file_use(path)
        return self._uses[path]

    def _lora(self, one: Applied) -> LoraUse:
        use = self.use(one.path)
        return LoraUse(file=use.file, sha256=use.sha256, strength=one.strength.usual, blocks=dict(one.strength.blocks))

    def _feather(self, side: int) -> int:
        if not self.config.mask:
            return 0
        return side // 64 if self.config.feather is None else self.config.feather


def jobs_of(order: Order, pipe: Any) -> list[Job]:
    """All that an order asks for, in order; of the pipeline its configs are looked at."""
    config, family = order.config, order.family
    net = getattr(pipe, family.denoiser)
    family.check_clip_skip(pipe, order.clip_skip)
    unit = pixels_a_patch(net.config, pipe.vae)
    side = native_side(net.config, pipe.vae, family.resolution)
    usual = read_source(config.init, config.mask, None, unit).image.size if config.init else (side, side)
    use = ModelUse(name=order.identity.name, family=family.name, weights=of_model(order.identity))
    desk = Desk(config, use, _made_now(order), order.clip_skip, usual, unit, family.title)
    jobs = [desk.job(number, one) for number, one in enumerate(order.asked)]
    if order.recipe is None:
        return jobs
    return [replace(job, recipe=as_recorded(order.recipe, job.recipe)) for job in jobs]


def must_fit(size: tuple[int, int], unit: int, where: str, title: str) -> None:
    """Stop at sides that are no multiples of the unit, with the nearest that are."""
    if any(side % unit for side in size):
        near = " x ".join(str(max(unit, round(side / unit) * unit)) for side in size)
        raise ConfigError(
            f"{where}: {size[0]} x {size[1]}: sides of pictures of {title} are multiples of {unit} pixels; the nearest "
            f"are {near}"
        )


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
        attention=order.config.memory.attention,
    )
