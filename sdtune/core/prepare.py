"""Preparing a data set out of whatever there is: folders, archives and single files."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from PIL import ImageColor

from sdtune.choices.masks import MaskClipSeg
from sdtune.config import Prepare
from sdtune.core.data.captions import METADATA, METADATA_CSV
from sdtune.core.data.folder import in_command
from sdtune.core.data.images import suffixes_shown
from sdtune.core.data.lint import lint
from sdtune.core.data.sources import open_sources
from sdtune.core.intake.extras import check_models, draw_priors, find_masks
from sdtune.core.intake.ledger import Ledger, Row
from sdtune.core.intake.pages import buckets_of, write_page
from sdtune.core.intake.reading import Intake, list_sources, measure
from sdtune.core.intake.shelf import put_in_place, take_away, texts_beside
from sdtune.core.intake.sorting import Sorted, sort_out
from sdtune.core.reports import Note, Prepared, Problem, SetAside, Skipped, Telling, Warned
from sdtune.errors import ConfigError, DataError, OutputError

NAMED = 5  # files named in one line
Texts = dict[str, tuple[str, ...]]
"""{image: its captions, as training will read them}"""


def prepare(config: Prepare) -> Telling[None]:
    """Reads the sources, writes the data set, and tells what became of every file; run again it goes on."""
    try:
        yield from _prepare(config)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on where it stopped") from None


def _prepare(config: Prepare) -> Telling[None]:
    began = time.monotonic()
    out = _checked(config)
    sources = open_sources(config.sources, follow_links=config.follow_links, without=out)
    ledger = Ledger(out) if out else None
    with ExitStack() as stack:
        intake = yield from list_sources(sources, config)
        if ledger:
            intake.measured |= ledger.measured
        written = None if config.dry_run else ledger
        if written:
            stack.enter_context(written.open())
        yield from measure(
            [one for one in intake.found if one.identity.key not in intake.measured], intake, config, written
        )
        for told, reason in sorted(intake.skipped.items()):
            yield Skipped(Path(told), reason)
        if not any(one.identity.key in intake.measured for one in intake.found):
            if written:
                written.discard()
            raise DataError(_nothing(intake, config))
        result = sort_out(intake, ledger, config)
        if not result.rows:
            yield from _told_aside(result)
            if written:
                written.discard()
            raise DataError(_all_aside(result, config))
        if written:
            result = yield from _write(result, intake, written, config)
        if intake.left:
            yield Note(f"left alone, since they are no images: {_named([told for told, _ in intake.left])}")
        yield from _told_aside(result)
        texts = {row.file: _texts(row, ledger) for row in result.rows if not row.prior}
        problems = _problems(texts, intake, config)
        bordered = [one.row.source for one in result.kept if intake.measured[one.row.key].border]
        if bordered and not config.crop_borders:
            yield Note(
                f"{_counted(len(bordered), 'has', 'have')} a border ({_named(bordered)}); --crop-borders cuts it off"
            )
        yield from problems
        priors = (yield from draw_priors(config, written)) if written and config.prior.count else 0
        page = write_page(result, intake, problems, written, config) if written else None
        yield _summary(result, intake, config, texts, page, priors, time.monotonic() - began)
    if config.strict and intake.skipped:
        count = len(intake.skipped)
        files = "1 file" if count == 1 else f"{count} files"
        raise DataError(f"{files} could not be used, as told above; the others are prepared")


def _checked(config: Prepare) -> Path | None:
    """The folder to write, or None; raises ConfigError and OutputError for settings that cannot be."""
    if config.out is None and not config.dry_run:
        raise ConfigError(
            "out (--out): not given; a folder for the data set, as in: sdtune prepare photos --out dataset"
        )
    if config.prior.count and not config.prior.prompt:
        wanted = 'what --prior shall draw, as in: --class-prompt "a dog"'
        raise ConfigError(f"prior.prompt (--class-prompt): not given; {wanted}")
    try:
        ImageColor.getrgb(config.background)
    except ValueError:
        raise ConfigError(
            f"background (--background): no colour is called {config.background[:40]!r}; give a name or #rrggbb"
        ) from None
    check_models(config)
    if config.out is None:
        return None
    here = os.path.realpath(config.out)
    for source in config.sources:
        there = os.path.realpath(source)
        if os.path.commonpath([here, there]) == here:
            raise OutputError(f"{config.out}: holds the source {source}, which is never written; give another --out")
    return config.out


def _nothing(intake: Intake, config: Prepare) -> str:
    told = ", ".join(map(str, config.sources))
    if intake.found or intake.skipped:
        return f"{told}: none of the {len(intake.skipped)} images can be used; the reasons are told above"
    return f"{told}: no images; give folders, archives or files with images ({suffixes_shown()})"


def _all_aside(result: Sorted, config: Prepare) -> str:
    told = ", ".join(map(str, config.sources))
    images = len(result.aside)
    return f"{told}: {_counted(images, 'is', 'are all')} set aside, as told above; --keep-all keeps what can be read"


def _told_aside(result: Sorted) -> Iterator[SetAside]:
    for one in result.aside:
        yield SetAside(Path(one.found.told), one.verdict.kind, one.verdict.told, one.like)


def _write(result: Sorted, intake: Intake, ledger: Ledger, config: Prepare) -> Telling[Sorted]:
    """Every image in its place; those that are nowhere any more are prepared anew."""
    for name in (METADATA, METADATA_CSV):
        if (ledger.out / name).exists():
            told = "its captions are not looked at here, and do not go with an image that gets another place or name"
            yield Warned(f"{ledger.out / name}: {told}; keep captions in files beside the images")
    ledger.begin_moving(result.rows)
    placed = put_in_place([one.wanted for one in result.kept], ledger, {row.file for row in result.carried})
    if placed.missing:
        missing = set(placed.missing)
        yield from measure([one for one in intake.found if one.identity.key in missing], intake, config, ledger)
        result = sort_out(intake, ledger, config)
        ledger.begin_moving(result.rows)
        placed = put_in_place([one.wanted for one in result.kept], ledger, {row.file for row in result.carried})
        for row in (one.row for one in result.kept if one.row.file not in placed.rows):
            intake.skipped[row.source] = "changed or vanished while it was read; run the command again"
            yield Skipped(Path(row.source), intake.skipped[row.source])
    for path in placed.edited:
        yield Warned(
            f"{path}: was edited in the data set, and so it stays; remove it and say --restore to have it made anew"
        )
    kept = [
        replace(one, wanted=replace(one.wanted, row=placed.rows[one.row.file]))
        for one in result.kept
        if one.row.file in placed.rows
    ]
    result = replace(result, kept=kept)
    if isinstance(config.mask, MaskClipSeg):
        yield from find_masks(config.mask, [one.row for one in result.kept], ledger, config)
    for text in take_away(ledger, result.rows):
        yield Warned(f"{text}: belongs to an image that is no longer in the data set; it was edited, and so it stays")
    used = {one.identity.key for one in intake.found if one.identity.key in intake.measured}
    ledger.measured = intake.measured
    if config.restore:
        ledger.removed.clear()
    ledger.finish(result.rows, used | {row.key for row in result.carried}, config.held_out)
    return result


def _problems(texts: Texts, intake: Intake, config: Prepare) -> list[Problem]:
    """What is wrong with the captions as they stand beside the images now, and with those of the sources."""
    place = in_command(config.out) if config.out else "DATASET"
    return [
        replace(one, remedy=one.remedy.replace("DATASET", place))
        for one in [*intake.problems, *lint(list(texts.items()), config.trigger)]
    ]


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return f"{', '.join(os.path.basename(path) for path in paths[:NAMED])}{more}"


def _counted(images: int, one: str, several: str) -> str:
    return f"1 image {one}" if images == 1 else f"{images} images {several}"


def _texts(row: Row, ledger: Ledger | None) -> tuple[str, ...]:
    """The captions of an image as training will read them."""
    beside = texts_beside(ledger.out / row.file) if ledger else row.captions
    return beside or _of_class(row.file)


def _of_class(file: str) -> tuple[str, ...]:
    """A kohya folder's class stands for the captions that are missing."""
    folder = file.rpartition("/")[0].rpartition("/")[2]
    words = folder.partition("_")[2] if folder[:1].isdigit() else ""
    return (words,) if words else ()


def _summary(
    result: Sorted,
    intake: Intake,
    config: Prepare,
    texts: Texts,
    page: Path | None,
    priors: int,
    seconds: float,
) -> Prepared:
    rows = result.rows
    shown = [row for row in rows if not row.prior]
    described = sum(map(bool, texts.values()))
    next_step = None
    if config.out and not config.dry_run:
        command = "train-lora" if described == len(shown) else "caption"
        next_step = f"sdtune {command} {in_command(config.out)}"
    return Prepared(
        out=None if config.dry_run else config.out,
        images=len(shown),
        held_out=sum(row.held_out for row in shown),
        priors=sum(row.prior for row in rows) + priors,
        described=described,
        set_aside=dict(Counter(one.verdict.kind for one in result.aside).most_common()),
        skipped=len(intake.skipped),
        left=len(intake.left),
        buckets=buckets_of(shown),
        seconds=seconds,
        page=page,
        try_next=next_step,
    )
