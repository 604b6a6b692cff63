"""Captioning: each image of a data set described, its captions worded and put where training finds them."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sdtune.config import Caption
from sdtune.core.captioners.base import Describer, Picture
from sdtune.core.data.caption_file import Place, alone, places, sweep, write
from sdtune.core.data.caption_statistics import statistics
from sdtune.core.data.caption_watch import Watch
from sdtune.core.data.captions import first_of
from sdtune.core.data.folder import arrange_folder, in_command
from sdtune.core.data.images import open_image
from sdtune.core.data.layout import Layout
from sdtune.core.data.lint import lint, unreadable
from sdtune.core.data.tags import same, tags_of
from sdtune.core.data.tokens import Counter, counter_for
from sdtune.core.data.wording import appended, must_be_stable, worded
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
    if config.lint or config.stats:
        yield from _looked_at(config)
        return
    _check(config)
    writes = not config.dry_run and os.path.isdir(config.folder)
    with alone(config.folder) if writes else contextlib.nullcontext(True) as locked:
        yield from _captioned(config, locked=locked)


def _captioned(config: Caption, *, locked: bool) -> Iterator[Report]:
    layout, found = _read(config)
    troubles = [*layout.troubles, *(f"{told}: {reason}" for told, reason in layout.unread)]
    for line in first_of(troubles, f"{config.folder}: and", "more such lines"):
        yield Warned(line)
    work = Work(config, counter_for(config.model), found)
    wanted = [place for place in found if work.wants(place)]
    by_list: dict[tuple[Path, str], int] = Counts(
        (place.shared, place.trouble) for place in wanted if place.shared and place.trouble
    )
    for (file, trouble), images in by_list.items():
        yield work.skip(file, f"{_images(images)} left out: {trouble}", images)
    for place in wanted:
        if place.trouble and not place.shared:
            yield work.skip(place.path, place.trouble)
    todo = [place for place in wanted if not place.trouble]
    if not config.dry_run:
        _must_be_writable(config.folder, todo, locked=locked)
        sweep({place.file.parent for place in todo})
    if by_class := work.by_class():
        yield Note(by_class)
    try:
        if not config.dry_run:
            work.watch = Watch(config.folder, found, todo, lambda: _read(config)[1])
        if config.mode == "edit":
            yield from _edited(work, todo)
        elif todo:
            yield from _described(work, todo)
        yield from work.ended(len(wanted))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(work.stopped()) from None


def _read(config: Caption) -> tuple[Layout, list[Place]]:
    layout = arrange_folder(config.folder, follow_links=config.follow_links)
    return layout, places(config.folder, layout, config.to, follow_links=config.follow_links)


@dataclass
class Work:
    """What is done to captions, and how far it has come."""

    config: Caption
    count: Counter
    found: list[Place]
    skipped: int = 0
    cut: int = 0
    of: int = 0
    examples: list[tuple[Path, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    seen: int = 0
    """those done, and those left out since the first"""
    kept: int = 0
    """those whose captions stay as they are"""
    wrote: bool = False
    watch: Watch | None = None
    """None where nothing is written"""

    def wants(self, place: Place) -> bool:
        """Whether the mode names this image."""
        if self.config.mode == "missing":
            return not place.captions and not (place.item.prior and place.item.of_class)
        return bool(place.captions or place.trouble) if self.config.mode == "edit" else True

    def by_class(self) -> str | None:
        """How many regularisation images need no caption."""
        number = sum(place.item.prior and not place.captions and bool(place.item.of_class) for place in self.found)
        if self.config.mode != "missing" or not number:
            return None
        take = "takes its caption from its folder's name" if number == 1 else "take theirs from their folders' names"
        return f"{_images(number)} for regularisation {take}, as in training"

    def skip(self, path: Path, reason: str, images: int = 1) -> Skipped:
        """An image that is left out, or several for the same reason."""
        self.skipped += images
        self.seen += images if self.of else 0
        return Skipped(path, reason)

    def word(self, place: Place, told: Sequence[str]) -> tuple[str, ...]:
        """Captions as they should be, each once, none empty."""
        wording, prior = self.config.wording, place.item.prior
        if first := self._class_first(place):
            wording, prior = wording.model_copy(update={"trigger": first}), False
        found = [worded(one, wording, self.count, prior=prior) for one in told]
        self.cut += any(cut for _, cut in found)
        return tuple(dict.fromkeys(text for text, _ in found if text))

    def _class_first(self, place: Place) -> str | None:
        """What kohya's folder says of an image, where training took its caption from there until now."""
        of_class = place.item.of_class
        if not of_class or (self.config.wording.trigger and not place.item.prior):
            return None
        first = re.compile(rf"{re.escape(of_class)}(,|$)", re.IGNORECASE)
        again = self.config.mode == "overwrite" and all(first.match(one) for one in place.captions)
        return of_class if again or not place.captions else None

    def put(self, captions: Sequence[tuple[Place, tuple[str, ...]]], seconds: float) -> Iterator[Captioned | Skipped]:
        """Each of a batch, complete on disk."""
        if self.watch is not None:
            looked = list(self.watch.look([place for place, _ in captions], missing=self.config.mode == "missing"))
            for place, reason in looked:
                if reason:
                    self.kept += 1
                    yield self.skip(place.path, reason)
            pairs = zip(looked, captions, strict=True)
            captions = [(now, several) for (now, reason), (_, several) in pairs if not reason]
            self.wrote |= bool(captions)
            write(captions)
            self.watch.wrote([place for place, _ in captions])
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
        if not self.wrote:
            return ""
        rest = " does the rest" if self.config.mode in ("missing", "edit") else " begins anew"
        return f"what is written stays, and the same command{rest}"

    def ended(self, wanted: int) -> Iterator[Report]:
        """What came of it all."""
        folder = self.config.folder
        if self.cut:
            tokens = self.config.wording.max_tokens
            most = f"{self.count.about}{tokens} tokens" if tokens else "8 kB"
            yield Note(f"{_images(self.cut)}: captions cut to {most}, at the end of a tag or word")
        if not wanted:
            yield Note(self._nothing(len(self.found)))
        if wanted and not self.done and not self.kept:
            what = "edited" if self.config.mode == "edit" else "described"
            which = "the 1 image could not be" if wanted == 1 else f"none of {wanted} images could be"
            raise DataError(f"{folder}: {which} {what}; the reasons are told above")
        try_next = None if self.config.dry_run or not self.done else f"sdtune caption {in_command(folder)} --lint"
        seconds = time.monotonic() - self.began
        yield Described(self.done, self.skipped, seconds, tuple(self.examples), not self.config.dry_run, try_next)
        if self.config.strict and self.skipped:
            raise DataError(f"{folder}: {_images(self.skipped)} left out, as told above (--strict)")

    def _nothing(self, images: int) -> str:
        if self.config.mode == "edit":
            return f"{self.config.folder}: none of {_images(images)} has a caption; describe them without --mode edit"
        if images == 1:
            have = "its image has a caption; --mode overwrite describes it anew, --mode edit words its caption anew"
        else:
            anew = "--mode overwrite describes them anew, --mode edit words their captions anew"
            have = f"all {images} images have captions; {anew}"
        return f"{self.config.folder}: {have}"


def _check(config: Caption) -> None:
    must_be_stable(config.wording)
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
            if several and (much := place.is_too_much(several)):
                yield work.skip(picture.path, much)
            elif several:
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
        elif several == place.raw:
            work.kept += 1
        elif much := place.is_too_much(several):
            yield work.skip(place.path, much)
        else:
            changed.append((place, several))
    unchanged = work.kept
    work.of, work.began = len(changed), time.monotonic()
    for start in range(0, len(changed), FILES_AT_ONCE):
        yield from work.put(changed[start : start + FILES_AT_ONCE], 0.0)
    if unchanged:
        yield Note(f"{_images(unchanged)}: nothing to change")


def _looked_at(config: Caption) -> Iterator[Report]:
    """Problems and statistics of the captions; no image is decoded and nothing written."""
    layout, found = _read(config)
    count = counter_for(config.model)
    if config.stats:
        yield statistics([place.in_training for place in found], count)
    if not config.lint:
        return
    problems = [unreadable(line.partition(": ")[0], line) for line in layout.troubles]
    readable = []
    for place in found:
        if place.trouble in layout.troubles:
            continue
        if place.trouble and not place.captions and not place.shared:
            problems.append(unreadable(str(place.path), f"{place.path}: {place.trouble}"))
        else:
            own = place.raw if place.captions or not place.item.of_class else place.in_training
            readable.append((place.item.entry.name, own, place.item.prior))
    problems += lint([(name, raw) for name, raw, prior in readable if not prior], config.wording.trigger, count)
    problems += [one for one in lint([(name, raw) for name, raw, prior in readable if prior]) if one.kind == "missing"]
    quoted = in_command(config.folder)
    yield from (replace(one, remedy=one.remedy.replace("DATASET", quoted)) for one in problems)
    kinds = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}" if problems else "no problem"
    yield Note(f"{config.folder}: {kinds} in the captions of {_images(len(found))}")
    if config.strict and problems:
        raise DataError(f"{config.folder}: {kinds} in its captions, as told above (--strict)")


def _model_of(settings: object) -> str:
    model = getattr(settings, "model", None)
    return f" ({model})" if model else ""


def _must_be_writable(data: Path, todo: Sequence[Place], *, locked: bool) -> None:
    """Told before a model is loaded."""
    for folder in dict.fromkeys(place.file.parent for place in todo):
        if not os.access(folder, os.W_OK | os.X_OK) or not locked:
            folder = folder if locked else data
            remedy = "change its permissions, or look at the captions alone with --dry-run"
            raise OutputError(f"{folder}: captions cannot be written there; {remedy}")


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"
