"""Reading the sources: every file is listed, and every image that is not known yet goes through a worker."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from sdtune.config import Prepare
from sdtune.core.data.archives import SUFFIXES, archive_at
from sdtune.core.data.captions import BYTES
from sdtune.core.data.layout import Item, Layout, arrange
from sdtune.core.data.lint import unreadable
from sdtune.core.data.sources import Entry, FolderSource, Source
from sdtune.core.intake.facts import Job, Measured
from sdtune.core.intake.ledger import Identity, Ledger, identity_of
from sdtune.core.intake.workers import Workers
from sdtune.core.reports import Note, Problem, Progress, Telling
from sdtune.errors import DataError

OFTEN = 5  # files between two reports
TOLD = 10  # unreadable captions told one by one
Task = tuple[str, Job, bytes | None, bytes | None]


@dataclass(frozen=True, slots=True)
class Found:
    """An image of a source, and what it is known by."""

    item: Item
    source: Source
    identity: Identity

    @property
    def told(self) -> str:
        """The image as the user knows it."""
        return self.item.entry.told


@dataclass
class Intake:
    """What the sources hold."""

    found: list[Found] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    """(file, reason) of what is no image"""
    skipped: dict[str, str] = field(default_factory=dict)
    """{file: reason} of images that cannot be used"""
    measured: dict[str, Measured] = field(default_factory=dict)
    """{key: what was found}"""
    problems: list[Problem] = field(default_factory=list)
    """captions that cannot be read"""


def list_sources(sources: Sequence[Source], config: Prepare) -> Telling[Intake]:
    """All images with what their names and texts say of them; none is opened."""
    intake = Intake()
    known: set[str] = set()
    waiting = deque(sources)
    while waiting:
        source = waiting.popleft()
        layout = arrange(source)
        waiting.extendleft(reversed(_archives_in(source, layout, intake)))
        troubles = list(layout.troubles)
        for item in layout.items:
            if item.entry.trouble:
                intake.skipped[item.entry.told] = item.entry.trouble
                continue
            troubles += item.troubles
            kept = _that_fit(item.captions)
            if len(kept) < len(item.captions):
                few = f"only {len(kept)} of its {len(item.captions)} captions fit into 8 kB"
                troubles.append(f"{item.entry.told}: {few}; shorten them")
                item = replace(item, captions=kept)
            identity = identity_of(item, source.told, config)
            if identity.origin not in known:  # a file that is given twice
                intake.found.append(Found(item, source, identity))
            known.add(identity.origin)
        intake.problems += [unreadable(trouble.partition(": ")[0], trouble) for trouble in troubles[:TOLD]]
        if len(troubles) > TOLD:
            told = f"and {len(troubles) - TOLD} more captions of {source.told} that cannot be read"
            intake.problems.append(unreadable(source.told, f"{told}; put them right"))
        intake.left += layout.left
        intake.skipped |= dict(layout.unread)
        images = "1 image" if len(layout.items) == 1 else f"{len(layout.items)} images"
        yield Note(f"source: {images} in {source.told}")
    return intake


def _archives_in(source: Source, layout: Layout, intake: Intake) -> list[Source]:
    """The archives that lie in a folder, as WebDataset's shards do; they are taken from what is left."""
    found: list[Source] = []
    for told, reason in list(layout.left) if isinstance(source, FolderSource) else ():
        if not told.lower().endswith(SUFFIXES):
            continue
        layout.left.remove((told, reason))
        try:
            archive = archive_at(Path(told))
        except DataError as error:
            intake.skipped[told] = str(error).removeprefix(f"{told}: ")
            continue
        found += [archive] if archive else []
    return found


def _that_fit(captions: Sequence[str]) -> tuple[str, ...]:
    """As many as one caption file may hold."""
    room, kept = BYTES, []
    for caption in captions:
        room -= len(caption.encode()) + 1
        if room < 0:
            break
        kept.append(caption)
    return tuple(kept)


def measure(unknown: Sequence[Found], intake: Intake, config: Prepare, ledger: Ledger | None) -> Telling[None]:
    """Sends each image through a worker, which also prepares it where there is a ledger to remember that."""
    names = {one.identity.key: one.told for one in unknown}
    done = 0
    with Workers(config.limits) as workers:
        for key, found in workers.each(_tasks(unknown, intake, config, ledger)):
            done += 1
            if isinstance(found, str):
                intake.skipped[names[key]] = found.removeprefix(f"{names[key]}: ")
            else:
                intake.measured[key] = found
                if ledger:
                    thumbnail = ledger.stage / f"{key}-thumb.jpg"
                    if thumbnail.exists():
                        os.replace(thumbnail, ledger.thumbnails / f"{key}.jpg")
                    ledger.add(key, found)
            if done % OFTEN == 0 and done < len(unknown):
                yield Progress("preparing", done, len(unknown))
    if unknown:
        yield Progress("preparing", len(unknown), len(unknown))


def _tasks(unknown: Sequence[Found], intake: Intake, config: Prepare, ledger: Ledger | None) -> Iterator[Task]:
    """The jobs of one source after the other; what cannot even be handed out is noted."""
    for _, group in groupby(unknown, key=lambda one: id(one.source)):
        wanted = {one.item.entry.name: one for one in group}
        source = next(iter(wanted.values())).source
        for entry, data in source.payloads([one.item.entry for one in wanted.values()]):
            one = wanted[entry.name]
            try:
                if isinstance(data, DataError):
                    raise data
                mask_path, mask_data = _mask(one.item.mask, source)
            except DataError as error:
                intake.skipped[one.told] = str(error).removeprefix(f"{one.told}: ")
                continue
            job = Job(
                name=one.told,
                path=str(entry.path) if entry.path else None,
                stem=str(ledger.stage / one.identity.key) if ledger else None,
                mask_path=mask_path,
                resolution=config.resolution,
                background=config.background,
                alpha_mask=config.mask.kind == "alpha",
                crop_borders=config.crop_borders,
                form=config.format,
            )
            yield one.identity.key, job, data, mask_data


def _mask(entry: Entry | None, source: Source) -> tuple[str | None, bytes | None]:
    """The path of a mask file, or its bytes out of an archive."""
    if entry is None:
        return None, None
    if entry.trouble:
        raise DataError(f"{entry.told}: {entry.trouble}")
    return (str(entry.path), None) if entry.path else (None, source.read(entry))
