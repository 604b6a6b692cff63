"""Captioning: each image of a data set described, its captions worded and put where training finds them."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sdtune.config import Caption, Wording
from sdtune.core.captioners.base import Describer, Picture
from sdtune.core.data.caption_file import Place, places, write
from sdtune.core.data.caption_statistics import statistics
from sdtune.core.data.captions import first_of
from sdtune.core.data.folder import arrange_folder
from sdtune.core.data.images import open_image
from sdtune.core.data.layout import Layout
from sdtune.core.data.lint import lint, unreadable
from sdtune.core.data.tags import same, tags_of
from sdtune.core.data.tokens import Counter, counter_for
from sdtune.core.data.wording import appended, worded
from sdtune.core.reports import (
    Captioned,
    Described,
    Note,
    Report,
    Skipped,
    Telling,
    Warned,
)
from sdtune.errors import ConfigError, DataError, OutputError

AT_ONCE = 32  # decoded images in memory, 36 MB each at 12 megapixels
FILES_AT_ONCE = 64  # captions worded between two reports
EXAMPLES = 3


def caption(config: Caption) -> Telling[None]:
    """Describes the images that the mode names and tells each caption when it is complete on disk."""
    _check(config)
    layout = arrange_folder(config.folder, follow_links=config.follow_links)
    found = places(config.folder, layout, config.to)
    if config.lint or config.stats:
        yield from _looked_at(config, layout, found)
        return
    for line in first_of(layout.troubles, f"{config.folder}: and", "more such lines"):
        yield Warned(line)
    work = Work(config, counter_for(config.model))
    wanted = [place for place in found if work.wants(place)]
    for place in wanted:
        if place.trouble:
            yield work.skip(place.path, place.trouble)
    todo = [place for place in wanted if not place.trouble]
    if not config.dry_run:
        _must_be_writable(todo)
    try:
        if config.mode == "edit":
            yield from _edited(work, todo)
        elif todo:
            yield from _described(work, todo)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(work.stopped()) from None
    yield from work.ended(len(found), len(todo))


@dataclass
class Work:
    """What is done to captions, and how far it has come."""

    config: Caption
    count: Counter
    skipped: int = 0
    cut: int = 0
    of: int = 0
    examples: list[tuple[Path, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    seen: int = 0
    """those done, and those left out since the first"""

    def wants(self, place: Place) -> bool:
        """Whether the mode names this image."""
        if self.config.mode == "missing":
            return not place.captions
        return bool(place.captions or place.trouble) if self.config.mode == "edit" else True

    def skip(self, path: Path, reason: str) -> Skipped:
        """An image that is left out."""
        self.skipped += 1
        self.seen += bool(self.of)
        return Skipped(path, reason)

    def word(self, place: Place, told: Sequence[str]) -> tuple[str, ...]:
        """Captions as they should be, each once, none empty."""
        found = [worded(one, self.config.wording, self.count, prior=place.item.prior) for one in told]
        self.cut += any(cut for _, cut in found)
        return tuple(dict.fromkeys(text for text, _ in found if text))

    def put(self, captions: Sequence[tuple[Place, tuple[str, ...]]], seconds: float) -> Iterator[Captioned]:
        """Each of a batch, complete on disk."""
        if not self.config.dry_run:
            write(captions)
        speed = (self.done + len(captions)) / max(1e-6, time.monotonic() - self.began)
        for place, several in captions:
            self.done += 1
            self.seen += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append((place.path, several[0]))
            each = seconds / len(captions)
            yield Captioned(place.path, several, each, self.seen, self.of, speed, not self.config.dry_run)

    def stopped(self) -> str:
        """What holds where a signal ends it."""
        if self.config.dry_run or not self.done:
            return ""
        rest = " does the rest" if self.config.mode in ("missing", "edit") else " begins anew"
        return f"what is written stays, and the same command{rest}"

    def ended(self, images: int, wanted: int) -> Iterator[Report]:
        """What came of it all."""
        folder = self.config.folder
        if self.cut:
            most = self.config.wording.max_tokens
            yield Note(
                f"{_images(self.cut)}: captions cut to {self.count.about}{most} tokens, at the end of a tag or word"
            )
        if not wanted and not self.skipped:
            yield Note(self._nothing(images))
        if wanted and not self.done and self.config.mode != "edit":
            raise DataError(f"{folder}: none of {_images(wanted)} could be described; the reasons are told above")
        try_next = None if self.config.dry_run or not self.done else f"sdtune caption {shlex.quote(str(folder))} --lint"
        seconds = time.monotonic() - self.began
        yield Described(self.done, self.skipped, seconds, tuple(self.examples), not self.config.dry_run, try_next)
        if self.config.strict and self.skipped:
            raise DataError(f"{folder}: {_images(self.skipped)} left out, as told above (--strict)")

    def _nothing(self, images: int) -> str:
        if self.config.mode == "edit":
            return f"{self.config.folder}: none of {_images(images)} has a caption; describe them without --mode edit"
        anew = "--mode overwrite describes them anew, --mode edit words their captions anew"
        return f"{self.config.folder}: all {images} images have captions; {anew}"


def _check(config: Caption) -> None:
    if config.lint or config.stats:
        return
    if config.mode == "edit" and config.wording == Wording():
        some = "--trigger, --prefix, --suffix, --blacklist, --replace, --order, --dedupe or --max-tokens"
        raise ConfigError(f"mode (--mode): edit changes only what is asked for; give {some}")
    if config.mode != "edit" and config.wording.order == "frequency":
        raise ConfigError(
            "wording.order (--order): how frequent a tag is shows when all images are described; "
            "do that first, then --mode edit --order frequency"
        )


def _described(work: Work, todo: Sequence[Place]) -> Iterator[Report]:
    """Batch by batch through the captioner; what cannot be decoded is left out."""
    from sdtune.core.captioners import load, resolve

    config = work.config
    settings = resolve(config.captioner, config.memory)
    yield Note(f"captioner: {settings.kind}{_model_of(settings)}, for {_images(len(todo))}")
    describer = load(settings, config.memory, config.seed, config.wording.trigger)
    if describer.tags and config.variants > 1:
        yield Note(f"{settings.kind} tells tags, so each image gets one caption")
    size = config.batch_size or (min(describer.batch, AT_ONCE) if describer.needs_image else describer.batch)
    work.of, work.began = len(todo), time.monotonic()
    for start in range(0, len(todo), size):
        began = time.monotonic()
        pictures: list[Picture] = []
        for place in todo[start : start + size]:
            try:
                pictures.append(Picture(place.path, open_image(place.path) if describer.needs_image else None))
            except DataError as error:
                yield work.skip(place.path, str(error).removeprefix(f"{place.path}: "))
        by_path = {place.path: place for place in todo[start : start + size]}
        complete = []
        told = describer.describe(pictures, config.variants) if pictures else []
        for picture, things in zip(pictures, told, strict=True):
            place = by_path[picture.path]
            several = work.word(place, _several(describer, place, [thing.text for thing in things], config))
            if several:
                complete.append((place, several))
            else:
                yield work.skip(picture.path, f"{settings.kind} has nothing to say of it; write a caption yourself")
        yield from work.put(complete, time.monotonic() - began)


def _several(describer: Describer, place: Place, told: Sequence[str], config: Caption) -> Sequence[str]:
    """The captions of an image: those told, or with what was there before them."""
    there = place.captions if config.mode == "append" else ()
    if not told:
        return there
    if not there:
        return [", ".join(told)] if describer.tags else told
    if config.variants > 1 and not describer.tags:
        return [*there, *told]
    return [appended(one, told if describer.tags else told[:1]) for one in there]


def _edited(work: Work, todo: Sequence[Place]) -> Iterator[Report]:
    """The captions that are there, worded anew; only files that change are written."""
    wording = work.config.wording
    rank = None
    if wording.order == "frequency":
        whole = wording.model_copy(update={"max_tokens": None})
        counts = Counts(
            tag
            for place in todo
            for tag in {same(tag) for one in place.captions for tag in tags_of(worded(one, whole, work.count)[0])}
        )

        def rank(tag: str) -> float:
            return -counts[same(tag)]

    changed = []
    for place in todo:
        found = [worded(one, wording, work.count, prior=place.item.prior, rank=rank) for one in place.captions]
        several = tuple(dict.fromkeys(text for text, _ in found if text))
        work.cut += any(cut for _, cut in found)
        if not several:
            yield work.skip(place.path, "nothing of its caption would be left, so it stays; write another")
        elif several != place.raw:
            changed.append((place, several))
    work.of, work.began = len(changed), time.monotonic()
    for start in range(0, len(changed), FILES_AT_ONCE):
        yield from work.put(changed[start : start + FILES_AT_ONCE], 0.0)
    if len(changed) < len(todo):
        yield Note(f"{_images(len(todo) - len(changed))}: nothing to change")


def _looked_at(config: Caption, layout: Layout, found: Sequence[Place]) -> Iterator[Report]:
    """Problems and statistics of the captions; no image is decoded and nothing written."""
    count = counter_for(config.model)
    if config.stats:
        yield statistics([place.captions for place in found], count)
    if not config.lint:
        return
    problems = [unreadable(line.partition(": ")[0], line) for line in layout.troubles]
    readable = []
    for place in found:
        if place.trouble and not place.captions:
            problems.append(unreadable(str(place.path), f"{place.path}: {place.trouble}"))
        else:
            own = place.raw or ((place.item.of_class,) if place.item.of_class else ())
            readable.append((place.item.entry.name, own, place.item.prior))
    problems += lint([(name, raw) for name, raw, prior in readable if not prior], config.wording.trigger, count)
    problems += [one for one in lint([(name, raw) for name, raw, prior in readable if prior]) if one.kind == "missing"]
    quoted = shlex.quote(str(config.folder))
    yield from (replace(one, remedy=one.remedy.replace("DATASET", quoted)) for one in problems)
    kinds = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}" if problems else "no problem"
    yield Note(f"{config.folder}: {kinds} in the captions of {_images(len(found))}")
    if config.strict and problems:
        raise DataError(f"{config.folder}: {kinds} in its captions, as told above (--strict)")


def _model_of(settings: object) -> str:
    model = getattr(settings, "model", None)
    return f" ({model})" if model else ""


def _must_be_writable(todo: Sequence[Place]) -> None:
    """Told before a model is loaded."""
    for folder in dict.fromkeys(place.file.parent for place in todo):
        if not os.access(folder, os.W_OK | os.X_OK):
            remedy = "change its permissions, or look at the captions alone with --dry-run"
            raise OutputError(f"{folder}: captions cannot be written there; {remedy}")


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"
