"""Drawing pictures from prompts, with or without LoRAs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdtune.core import memory, model
from sdtune.core.applied import Applied
from sdtune.core.autoencoder import ready_to_decode
from sdtune.core.home import paths_from_home
from sdtune.core.lora_metadata import prompt_of
from sdtune.core.picture_file import left_out, save_picture
from sdtune.core.picture_notes import SUFFIXES
from sdtune.core.reports import Drawn, Note, Telling, There, Warned
from sdtune.core.sampling import parts
from sdtune.core.sampling.artist import Artist
from sdtune.core.sampling.beforehand import before_drawing
from sdtune.core.sampling.jobs import Job, batches, by_set, jobs_of
from sdtune.core.sampling.order import Order, order_of
from sdtune.core.sampling.overviews import Finished, overviews
from sdtune.core.sampling.rack import Rack
from sdtune.core.sampling.sameness import compared
from sdtune.core.sampling.scripts import Scripts, read_scripts, store_for
from sdtune.core.sampling.shelf import Shelf
from sdtune.core.sampling.source import Sources
from sdtune.errors import SdtuneError
from sdtune.sample_config import Sample


def sample(config: Sample) -> Telling[None]:
    """Draws every prompt `count` times, telling each picture when it is complete on disk."""
    config = paths_from_home(config)
    order = yield from order_of(config)
    shelf = Shelf(order.config, len(order.asked))
    yield Note(f"model: {order.identity.name} ({order.family.title})" + "".join(map(_told, order.everywhere)))
    plan = yield from plan_of(order, shelf)
    there, of = len(plan.finished), len(plan.jobs)
    if there == of:
        all_of_them = "the picture is" if of == 1 else f"all {of:,} pictures are"
        yield Note(f"{all_of_them} there already; --overwrite draws {'it' if of == 1 else 'them'} again")
    elif there:
        yield Note(f"{there:,} of {of:,} pictures are there already")
    if there < of and order.config.mask and SUFFIXES[shelf.suffix.lower()] == "jpeg":
        yield Warned(
            "a JPEG holds no picture to the byte: what is black in the mask changes a little, too; a PNG keeps it"
        )
    pictures = yield from pictures_of(order, shelf, plan)
    yield from overviews(order.config, order.axes, pictures, shelf, drawn=of - there)
    if order.recipe and config.again:
        yield from compared(config.again, pictures[0].path, order.recipe, pictures[0].recipe)


@dataclass(frozen=True)
class Plan:
    """What is to be drawn, and what is there already."""

    pipe: Any
    """the model's pipeline, as `parts.reader` has it"""
    jobs: Sequence[Job]
    finished: dict[int, Path]
    """{number of a job: its picture}, more of them as they are drawn"""


def plan_of(order: Order, shelf: Shelf) -> Telling[Plan]:
    """The pictures of an order with their recipes, telling those that lie on the shelf already."""
    if not model.is_here(order.identity):
        yield Note("the model is fetched from the hub: some GB, kept for later")
    pipe = parts.reader(order.identity, order.dtype)
    jobs = yield from jobs_of(order, pipe)
    yield from before_drawing(order, jobs, pipe)
    finished = {job.number: path for job in jobs if (path := shelf.there(job.recipe))}
    for number, path in finished.items():
        yield There(path, jobs[number].recipe.prompt, jobs[number].recipe.seed)
    return Plan(pipe, jobs, finished)


def pictures_of(order: Order, shelf: Shelf, plan: Plan) -> Telling[list[Finished]]:
    """All pictures in the order of the jobs; what is not there yet is drawn."""
    jobs, finished = plan.jobs, plan.finished
    missing = [job for job in jobs if job.number not in finished]
    places = {job.number: shelf.place(job.recipe, job.words) for job in missing}
    if missing:
        with store_for(missing) as store:
            scripts = yield from read_scripts(order, plan.pipe, missing, store)
            try:
                yield from _drawn(order, plan.pipe, missing, scripts, places, finished)
            except KeyboardInterrupt as asked:
                told = f"{len(finished)} of {len(jobs)} pictures are there; the same command goes on"
                raise KeyboardInterrupt(str(asked) or told) from None
    return [Finished(job.asked, job.recipe, finished[job.number]) for job in jobs]


def _drawn(
    order: Order,
    pipe: Any,
    jobs: Sequence[Job],
    scripts: Scripts,
    places: Mapping[int, Path],
    finished: dict[int, Path],
) -> Telling[None]:
    """Draws the jobs and puts each where it goes, which `finished` then tells by its number.

    Raises SdtuneError at the end where some could not be drawn.
    """
    config = order.config
    artist = _artist(order, pipe)
    rack = Rack(pipe, order.family, (order.family.denoiser,))
    sources = Sources(config.init, config.mask)
    failed: list[str] = []
    begun = 0
    for some in by_set(jobs):
        rack.use(some[0].asked.loras)
        for batch in batches(some, scripts.guides, sources, memory.pictures_at_once(config.batch_size, order.device)):
            began = time.monotonic()
            pieces = [piece for _, piece in batch]
            images = yield from artist.draw(pieces, {"first": begun + 1, "of": len(jobs)})
            begun += len(batch)
            seconds = (time.monotonic() - began) / len(batch)
            for (job, _), image in zip(batch, images, strict=True):
                if isinstance(image, SdtuneError):
                    yield Warned(str(image))
                    failed.append(str(image))
                    continue
                path = save_picture(
                    places[job.number], image, job.recipe, overwrite=config.overwrite, again=bool(config.again)
                )
                if lost := left_out(path.suffix, job.recipe):
                    yield Warned(f"{path}: has no room for {lost}; as a PNG it would hold all")
                finished[job.number] = path
                yield Drawn(path, job.recipe.prompt, job.recipe.seed, seconds)
    if failed:
        raise SdtuneError(f"{len(failed)} of {len(jobs)} pictures could not be drawn; the first: {failed[0]}")


def _artist(order: Order, pipe: Any) -> Artist:
    """The denoiser and the VAE on their device, in the place of the text encoders."""
    parts.drawer(pipe, order.identity, order.dtype)
    net = getattr(pipe, order.family.denoiser).to(order.device)
    if order.device.type == "cpu":
        net.to(memory_format=torch.channels_last)  # mini is asked 4 % faster
    told = memory.use_attention(net, order.attention.used, order.device, order.dtype)
    if told != order.attention.told and order.attention.used == "xformers":
        raise SdtuneError(f"{told}; give --attention sdpa")
    pipe.vae.to(order.device)
    ready_to_decode(pipe.vae)
    return Artist(order.family, net, pipe.vae, pipe.scheduler)


def _told(one: Applied) -> str:
    trigger = prompt_of(one.lora.metadata.get("modelspec.trigger_phrase"))
    return f", with {one.shown} at {one.strength}" + (f" (trigger: {trigger})" if trigger else "")
