"""Drawing pictures from prompts, with or without LoRAs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sdtune.config import Sample, drawing_settings, refine
from sdtune.core import memory, model
from sdtune.core.applied import Applied
from sdtune.core.applied import read as applied_lora
from sdtune.core.autoencoder import native_side, pixels_a_patch, ready_to_decode
from sdtune.core.data.cache import Store
from sdtune.core.drawing import Guide
from sdtune.core.families import Family, family_named
from sdtune.core.identity import Identity
from sdtune.core.lora import check_family
from sdtune.core.lora_metadata import prompt_of
from sdtune.core.picture_file import left_out, save_picture
from sdtune.core.reports import Drawn, Note, Telling, There, Warned
from sdtune.core.sampling import again, fingerprint, parts, reading
from sdtune.core.sampling.artist import Artist, Piece, shape_of
from sdtune.core.sampling.asked import Asked, lines_for, wanted, wanted_again
from sdtune.core.sampling.axes import Axis, axes_of, crossed
from sdtune.core.sampling.jobs import Desk, Job, by_set, made_now
from sdtune.core.sampling.named_loras import NamedLoras
from sdtune.core.sampling.overviews import Finished, overviews
from sdtune.core.sampling.prompt_lines import is_typed
from sdtune.core.sampling.rack import Rack, acting_on
from sdtune.core.sampling.reading import Script, Scripted
from sdtune.core.sampling.recipe import ModelUse, Recipe
from sdtune.core.sampling.run_of import run_use
from sdtune.core.sampling.sameness import verdict
from sdtune.core.sampling.shelf import Shelf
from sdtune.core.sampling.source import Source, read_source
from sdtune.errors import SdtuneError

IN_MEMORY = 128
"""texts whose encodings are held in memory; of more the disk holds them"""
HELD = 256 * 2**20
"""bytes of them that are held then"""


def sample(config: Sample) -> Telling[None]:
    """Draws every prompt `count` times, telling each picture when it is complete on disk."""
    recipe = again.recipe_in(config.again) if config.again else None
    if recipe and config.again:
        config = again.config_of(recipe, config.again, config)
    order = yield from _order(config, recipe)
    config = order.config
    shelf = Shelf(config, len(order.asked))
    dtype = memory.dtype_for(config.memory, order.device)
    yield Note(f"model: {order.identity.name} ({order.family.title})" + "".join(map(_told, order.everywhere)))
    if not model.is_here(order.identity):
        yield Note("the model is fetched from the hub: some GB, kept for later")
    pipe = parts.reader(order.identity, dtype)
    desk = _desk(order, pipe, dtype)
    jobs = [desk.job(one) for one in order.asked]
    if recipe:
        jobs = [replace(job, recipe=again.as_recorded(recipe, job.recipe)) for job in jobs]
    yield Note(_how(jobs, pipe.scheduler))
    for line in {job.recipe.sampler.note_for(pipe.scheduler): None for job in jobs}:
        if line:
            yield Warned(line)
    there = {number: path for number, job in enumerate(jobs) if (path := shelf.there(job.recipe))}
    for number, path in there.items():
        yield There(path, jobs[number].recipe.prompt, jobs[number].recipe.seed)
    missing = [job for number, job in enumerate(jobs) if number not in there]
    places = {id(job): shelf.place(job.recipe, _words(job)) for job in missing}
    finished = {id(jobs[number]): path for number, path in there.items()}
    if missing:
        with _store(missing) as store:
            scripts = yield from _scripted(order, pipe, missing, store)
            try:
                yield from _drawn(order, pipe, dtype, missing, scripts, places, finished)
            except KeyboardInterrupt as asked:
                told = f"{len(finished)} of {len(jobs)} pictures are there; the same command goes on"
                raise KeyboardInterrupt(str(asked) or told) from None
    pictures = [Finished(job.asked, job.recipe, path) for job in jobs if (path := finished.get(id(job)))]
    yield from overviews(order.config, order.axes, pictures, shelf, drawn=len(missing))
    if recipe and config.again:
        told = verdict(config.again, pictures[0].path, recipe, jobs[0].recipe)
        yield Note(told)


@dataclass(frozen=True)
class Order:
    """What is asked for, before anything large is loaded."""

    config: Sample
    identity: Identity
    family: Family
    device: torch.device
    clip_skip: int | None
    everywhere: tuple[Applied, ...]
    """LoRAs for every prompt"""
    axes: tuple[Axis, ...]
    asked: list[Asked]


def _order(config: Sample, recipe: Recipe | None) -> Telling[Order]:
    """All that can be told and checked without the model's weights."""
    given = [applied_lora(text) for text in config.lora]
    run = run_use(config.run, given, config.model)
    if run.told:
        yield Note(run.told)
    if run.lora:
        given.insert(0, applied_lora(run.lora, "--run"))
    loras = tuple(given)
    if recipe and config.again:
        loras = again.loras_of(recipe, config.again, given, config.lora_folder)
    named = config.model or run.model or "mini"
    identity = model.identify(named)
    family = family_named(identity.family)
    if not recipe:
        config = refine(config, drawing_settings(named))
    clip_skip = recipe.clip_skip if recipe else config.clip_skip or run.clip_skip
    asked: list[Asked]
    axes: tuple[Axis, ...] = ()
    if recipe:
        asked = [wanted_again(recipe, loras, str(config.again))]
    else:
        if is_typed(config.prompts):
            yield Note("reading prompts, one a line; Ctrl-D ends them")
        lines = lines_for(config, run)
        one_each = wanted(config, lines, run, loras, NamedLoras(config.lora_folder, loras))
        axes = axes_of(config, one_each, run)
        asked = crossed(one_each, axes)
    for one in {str(one.path): one for each in asked for one in each.loras}.values():
        check_family(one.lora, family, one.path)
    for one in loras:
        for line in one.idle():
            yield Warned(line)
    if config.run and config.add_trigger and run.trigger:
        yield Note(f'the trigger "{run.trigger}" stands in front of prompts that lack it')
    device = memory.device_for(config.memory, mps=True)
    if config.init:
        read_source(config.init, config.mask, None, 8)  # whether it is a picture
    return Order(config, identity, family, device, clip_skip, loras, axes, asked)


def _desk(order: Order, pipe: Any, dtype: torch.dtype) -> Desk:
    config, family = order.config, order.family
    net = getattr(pipe, family.denoiser)
    family.check_clip_skip(pipe, order.clip_skip)
    unit = pixels_a_patch(net.config, pipe.vae)
    side = native_side(net.config, pipe.vae, family.resolution)
    usual = (side, side)
    if config.init:
        usual = read_source(config.init, config.mask, None, unit).image.size
    device = torch.cuda.get_device_name(order.device) if order.device.type == "cuda" else order.device.type
    threads = torch.get_num_threads() if order.device.type == "cpu" else None
    use = ModelUse(name=order.identity.name, family=family.name, weights=fingerprint.of_model(order.identity))
    made = made_now(device, str(dtype).removeprefix("torch."), threads, config.memory.attention)
    return Desk(config, use, made, order.clip_skip, usual, unit, family.title)


@contextmanager
def _store(jobs: Sequence[Job]) -> Iterator[Store]:
    """Where encoded prompts lie: in memory, or where they are many on disk, so that memory stays flat."""
    if len(jobs) <= IN_MEMORY:
        yield Store(None, 0)
        return
    with tempfile.TemporaryDirectory(prefix="sdtune-") as folder:
        yield Store(Path(folder), HELD)


@dataclass
class Scripts:
    """What each job's denoiser is told."""

    of_job: dict[int, tuple[Script, str]] = field(default_factory=dict)
    """{id: (script, which LoRAs acted on the text encoders)}"""
    told: dict[str, Scripted] = field(default_factory=dict)

    def guides(self, job: Job) -> tuple[Guide, Guide]:
        """(prompt, negative) of a job."""
        script, acting = self.of_job[id(job)]
        return self.told[acting].guides(script)


def _scripted(order: Order, pipe: Any, jobs: Sequence[Job], store: Store) -> Telling[Scripts]:
    """Every prompt encoded, with the LoRAs that act on the text encoders; these are then let go."""
    config, family = order.config, order.family
    rack = Rack(pipe, family, family.text_encoders)
    scripts, known = Scripts(), set[str]()
    waiting: dict[str, list[Job]] = {}
    for job in jobs:
        waiting.setdefault(acting_on(job.asked.loras, family.text_encoders), []).append(job)
    for acting, some in waiting.items():
        rack.use(some[0].asked.loras)
        for word, path in rack.words.items():
            if word not in known:
                known.add(word)
                yield Note(f'new word: "{word}" ({path.name})')
        for job in some:
            script = reading.script_of(
                job.recipe.prompt,
                job.recipe.negative,
                job.recipe.steps,
                family,
                pipe,
                syntax=config.syntax,
                clip_skip=order.clip_skip,
                where=job.asked.where,
            )
            scripts.of_job[id(job)] = script, acting
        scripts.told[acting] = yield from reading.encode(
            [scripts.of_job[id(job)][0] for job in some],
            family,
            pipe,
            order.device,
            syntax=config.syntax,
            clip_skip=order.clip_skip,
            store=store,
            acting=acting,
        )
    rack.use(())
    return scripts


def _drawn(
    order: Order,
    pipe: Any,
    dtype: torch.dtype,
    jobs: Sequence[Job],
    scripts: Scripts,
    places: dict[int, Path],
    finished: dict[int, Path],
) -> Telling[None]:
    """Draws the jobs and puts each where it goes; raises SdtuneError at the end where some could not be drawn."""
    config, family = order.config, order.family
    parts.drawer(pipe, order.identity, dtype)
    net = getattr(pipe, family.denoiser).to(order.device)
    if order.device.type == "cpu":
        net.to(memory_format=torch.channels_last)  # mini is asked 4 % faster
    memory.use_attention(net, config.memory.attention, order.device, dtype)
    pipe.vae.to(order.device)
    ready_to_decode(pipe.vae)
    rack = Rack(pipe, family, (family.denoiser,))
    artist = Artist(family, net, pipe.vae, pipe.scheduler, config.tiles)
    sources = Sources(config)
    failed: list[str] = []
    number = 0
    for some in by_set(jobs):
        rack.use(some[0].asked.loras)
        for batch in _batches(some, scripts, sources, memory.pictures_at_once(config.batch_size, order.device)):
            began = time.monotonic()
            pieces = [piece for _, piece in batch]
            images = yield from artist.draw(pieces, {"first": number + 1, "of": len(jobs)})
            seconds = (time.monotonic() - began) / len(batch)
            for (job, _), image in zip(batch, images, strict=True):
                if isinstance(image, SdtuneError):
                    yield Warned(str(image))
                    failed.append(str(image))
                    continue
                path = save_picture(places[id(job)], image, job.recipe, overwrite=config.overwrite)
                if lost := left_out(path.suffix, job.recipe):
                    yield Warned(f"{path}: has no room for {lost}; as a PNG it would hold all")
                finished[id(job)] = path
                yield Drawn(path, job.recipe.prompt, job.recipe.seed, seconds)
            number += len(batch)
    if failed:
        raise SdtuneError(f"{len(failed)} of {len(jobs)} pictures could not be drawn; the first: {failed[0]}")


@dataclass
class Sources:
    """The picture to begin with, at each size that is drawn."""

    config: Sample
    sized: dict[tuple[int, int], Source] = field(default_factory=dict)

    def of(self, recipe: Recipe) -> Source | None:
        """For a recipe; None where it begins with noise alone."""
        if self.config.init is None:
            return None
        size = (recipe.width, recipe.height)
        if size not in self.sized:
            self.sized[size] = read_source(self.config.init, self.config.mask, size, 1)
        return self.sized[size]


def _batches(jobs: Sequence[Job], scripts: Scripts, sources: Sources, most: int) -> Iterator[list[tuple[Job, Piece]]]:
    """So many at once, of one shape."""
    batch: list[tuple[Job, Piece]] = []
    for job in jobs:
        prompt, negative = scripts.guides(job)
        piece = Piece(job.recipe, prompt, negative, sources.of(job.recipe))
        if batch and (len(batch) == most or shape_of(piece) != shape_of(batch[0][1])):
            yield batch
            batch = []
        batch.append((job, piece))
    if batch:
        yield batch


def _words(job: Job) -> dict[str, object]:
    """What names of files can hold beside the recipe."""
    loras = job.asked.loras
    return {
        "line": job.asked.line,
        "lora": "+".join(one.path.stem for one in loras),
        "strength": "+".join(f"{one.strength.usual:g}" for one in loras),
    }


def _how(jobs: Sequence[Job], base: Any) -> str:
    """How they are drawn, as far as all are drawn alike."""
    told = []
    for words in (
        {f"drawing with {job.recipe.sampler.title_for(base)}" for job in jobs},
        {f"{job.recipe.steps} steps" for job in jobs},
        {f"guidance {job.recipe.guidance:g}" for job in jobs},
        {f"{job.recipe.width} x {job.recipe.height} pixels" for job in jobs},
    ):
        told += list(words) if len(words) == 1 else []
    return ", ".join(told) or f"drawing {len(jobs)} pictures"


def _told(one: Applied) -> str:
    trigger = prompt_of(one.lora.metadata.get("modelspec.trigger_phrase"))
    return f", with {one.shown} at {one.strength}" + (f" (trigger: {trigger})" if trigger else "")
