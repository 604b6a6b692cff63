"""Looks at images: each is decoded whole by a worker process once, and known from then on by its bytes."""

from __future__ import annotations

from collections.abc import Sequence

from sdtune.config import TrainLora
from sdtune.core.data.facts_memo import memo_for
from sdtune.core.data.layout import Item
from sdtune.core.intake.facts import Job, Measured
from sdtune.core.intake.workers import Workers
from sdtune.core.reports import Progress, Telling

OFTEN = 20  # images between two reports
SIDE = 64  # pixels: nothing but the size is wanted, and a JPEG that is decoded small is read to its end all the same


def look(items: Sequence[Item], config: TrainLora) -> Telling[list[Measured | str | None]]:
    """What worker processes found of each image now or at an earlier time, or why it cannot be used.

    None where its name tells that already.
    """
    found: list[Measured | str | None] = [None] * len(items)
    jobs = {place: _job(item, config) for place, item in enumerate(items) if item.entry.path is not None}
    with memo_for(config) as memo, Workers(config.limits) as workers:
        done = 0
        for place, facts in zip(jobs, () if memo.is_empty else memo.known_of(jobs.values()), strict=False):
            found[place] = facts
            done += facts is not None
            if facts is not None and done % OFTEN == 0:
                yield Progress("reading images", done, len(items))
        unknown = [(place, job, None, None) for place, job in jobs.items() if found[place] is None]
        for place, seen in workers.each(iter(unknown)):
            found[place] = seen
            done += 1
            if isinstance(seen, Measured):
                memo.add(jobs[place], seen)
            if done % OFTEN == 0:
                yield Progress("reading images", done, len(items))
    yield Progress("reading images", len(items), len(items))
    return found


def _job(item: Item, config: TrainLora) -> Job:
    mask = item.mask.path if item.mask and config.mask.use != "off" else None
    return Job(
        item.entry.told,
        str(item.entry.path),
        None,
        mask_path=None if mask is None else str(mask),
        resolution=SIDE,
        alpha_mask=config.mask.use == "alpha",
    )
