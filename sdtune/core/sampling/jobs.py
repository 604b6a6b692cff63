"""Jobs: the pictures that are to be drawn, each with its recipe, in an order that saves work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from sdtune.core.applied import Applied
from sdtune.core.run_folder import embeddings_beside
from sdtune.core.sampling.asked import Asked
from sdtune.core.sampling.recipe import FileUse, LoraUse, Made, ModelUse, Recipe, file_use
from sdtune.errors import ConfigError
from sdtune.sample_config import Sample

TILED = 2 * 2**20
"""pixels over which --tiles auto decodes in tiles"""
Set = tuple[tuple[str, float, tuple[tuple[str, float], ...]], ...]


@dataclass(frozen=True)
class Job:
    """A picture to draw."""

    asked: Asked
    """with LoRAs that change something alone"""
    recipe: Recipe

    @property
    def set(self) -> Set:
        """What tells its LoRAs from those of others."""
        return tuple(
            (str(one.path), one.strength.usual, tuple(sorted(one.strength.blocks.items()))) for one in self.asked.loras
        )


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

    def job(self, asked: Asked) -> Job:
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
            strength=self._strength(asked),
            mask=self.use(config.mask) if config.mask else None,
            feather=self._feather(min(width, height)),
            structure=config.structure,
            hires=config.hires,
            tiles=config.tiles == "on" or (config.tiles == "auto" and width * height * larger > TILED),
            made=self.made,
        )
        return Job(asked, recipe)

    def use(self, path: Path) -> FileUse:
        """A file as recipes name it."""
        if path not in self._uses:
            self._uses[path] = file_use(path)
        return self._uses[path]

    def _lora(self, one: Applied) -> LoraUse:
        use = self.use(one.path)
        return LoraUse(file=use.file, sha256=use.sha256, strength=one.strength.usual, blocks=dict(one.strength.blocks))

    def _strength(self, asked: Asked) -> float | None:
        if not self.config.init:
            return None
        usual = 1.0 if self.config.mask else 0.75
        return usual if asked.strength is None else asked.strength

    def _feather(self, side: int) -> int:
        if not self.config.mask:
            return 0
        return side // 64 if self.config.feather is None else self.config.feather


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


def made_now(device: str, precision: str, threads: int | None, attention: str) -> Made:
    """What it is drawn with here."""
    import diffusers
    import torch

    from sdtune import __version__

    return Made(
        sdtune=__version__,
        torch=torch.__version__,
        diffusers=diffusers.__version__,
        device=device,
        precision=precision,
        threads=threads,
        attention=attention,
    )
