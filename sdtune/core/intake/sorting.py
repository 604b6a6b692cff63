"""Sorting: out of what was measured, what shall stand in the data set, where, and with which captions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.choices.masks import MaskClipSeg
from sdtune.config import Prepare
from sdtune.core.intake.facts import Measured
from sdtune.core.intake.ledger import Ledger, Row
from sdtune.core.intake.reading import Found, Intake
from sdtune.core.intake.shelf import Wanted, class_in_name, place_of
from sdtune.core.intake.verdicts import Candidate, Verdict, held_out, sets_aside, verdicts

REMOVED = Verdict("removed", "was taken out of the data set by hand; --restore brings it back")


@dataclass(frozen=True)
class Kept:
    """An image that shall stand in the data set."""

    wanted: Wanted
    verdict: Verdict | None
    """what was said against it all the same"""

    @property
    def row(self) -> Row:
        """As it will stand in prepared.jsonl."""
        return self.wanted.row


@dataclass(frozen=True)
class Aside:
    """An image that is set aside."""

    found: Found
    verdict: Verdict
    like: str | None
    """source of the image that is kept in its stead"""
    like_key: str | None


@dataclass(frozen=True)
class Sorted:
    """What shall stand in the data set, and what not."""

    kept: list[Kept]
    aside: list[Aside]
    carried: list[Row]
    """images that earlier runs put there from other sources"""

    @property
    def rows(self) -> list[Row]:
        """All that shall stand in the data set."""
        return [*(one.row for one in self.kept), *self.carried]


def sort_out(intake: Intake, ledger: Ledger | None, config: Prepare) -> Sorted:
    """A pure function of what the sources and the data set hold."""
    good = [one for one in intake.found if one.identity.key in intake.measured]
    carried = _carried(good, intake, ledger, config)
    out_of_it = _taken_out(good, intake, ledger, config)
    before = {row.origin for row in ledger.known.values()} if ledger else set()
    candidates = [
        _candidate(one, intake, placed=one.identity.origin in before or taken_out)
        for one, taken_out in zip(good, out_of_it, strict=True)
    ]
    candidates += [_standing(row, intake.measured[row.key]) for row in carried]
    found = verdicts(candidates, config)[: len(good)]
    found = [REMOVED if gone and verdict is None else verdict for verdict, gone in zip(found, out_of_it, strict=True)]
    aside = [verdict is REMOVED or sets_aside(verdict, config.judge) for verdict in found]
    keys = [*(one.identity.key for one in good), *(row.key for row in carried)]
    texts = [one.item.captions for one in good]
    for place, verdict in enumerate(found):
        like = verdict.like if verdict and aside[place] else None
        if like is not None and like < len(good) and not texts[like]:
            texts[like] = texts[place]  # the better picture, with the words of the other
    out = _held_out(good, found, aside, carried, intake, ledger, config)
    kept = []
    for place, one in enumerate(good):
        if not aside[place]:
            held = one.item.held_out or place in out
            row = _row(one, intake.measured[one.identity.key], texts[place], config, held=held)
            kept.append(Kept(Wanted(row, row.captions), found[place]))
    told = [
        Aside(
            one,
            verdict,
            candidates[verdict.like].told if verdict.like is not None else None,
            keys[verdict.like] if verdict.like is not None else None,
        )
        for one, verdict, away in zip(good, found, aside, strict=True)
        if away and verdict
    ]
    return Sorted(_once(kept), told, carried)


def _once(kept: Sequence[Kept]) -> list[Kept]:
    """One image a place: names follow from the content, and so two files of one content and name are one."""
    return list({one.row.file: one for one in reversed(kept)}.values())[::-1]


def _candidate(one: Found, intake: Intake, *, placed: bool) -> Candidate:
    item = one.item
    described = bool(item.captions)
    return Candidate(one.told, intake.measured[one.identity.key], item.group, item.prior, described, placed)


def _standing(row: Row, measured: Measured) -> Candidate:
    group = row.file.rpartition("/")[0]
    return Candidate(row.source, measured, group, row.prior, bool(row.captions), placed=True)


def _taken_out(good: Sequence[Found], intake: Intake, ledger: Ledger | None, config: Prepare) -> list[bool]:
    """Whether someone has taken each image out of the data set; told by its place, or by its content where it moved."""
    if ledger is None or config.restore:
        return [False] * len(good)
    now = {one.identity.origin for one in good}
    moved = {sha256 for sha256, origin in ledger.removed if origin not in now}
    stands = {row.origin for row in ledger.known.values()}
    gone = []
    for one in good:
        sha256, origin = intake.measured[one.identity.key].sha256, one.identity.origin
        gone.append((sha256, origin) in ledger.removed or (sha256 in moved and origin not in stands))
    return gone


def _carried(good: Sequence[Found], intake: Intake, ledger: Ledger | None, config: Prepare) -> list[Row]:
    """What stands in the data set from sources that are not given this time, or cannot be read."""
    if ledger is None:
        return []
    now = {one.identity.origin for one in good}
    places, contents = set(), set()
    for one in good:
        sha256 = intake.measured[one.identity.key].sha256
        contents.add(sha256)
        for held in (False, True):
            places.add(place_of(one.item, sha256, config.format, held_out=held).rpartition(".")[0])
    return [
        row
        for row in ledger.known.values()
        if row.origin not in now
        and row.key in intake.measured
        and (ledger.out / row.file).is_file()
        and row.file.rpartition(".")[0] not in places  # its source lies elsewhere by now
        and not (row.sha256 in contents and not _is_there(row.source))
    ]


def _is_there(source: str) -> bool:
    """Whether an original may still be where it was, in an archive too."""
    path = Path(source)
    for above in (path, *path.parents):
        if os.path.lexists(above):
            return above == path or above.is_file()
    return False


def _held_out(
    good: Sequence[Found],
    found: Sequence[Verdict | None],
    aside: Sequence[bool],
    carried: Sequence[Row],
    intake: Intake,
    ledger: Ledger | None,
    config: Prepare,
) -> set[int]:
    """Places of the images to hold out; what looks alike lies on one side."""
    if any(one.item.held_out for one in good):
        return set()  # the sources say themselves what is held out
    hashes = [intake.measured[one.identity.key].sha256 for one in good]
    free = [place for place, one in enumerate(good) if not aside[place] and not one.item.prior]
    leaders = [place for place in free if (verdict := found[place]) is None or verdict.like is None]
    stands = ledger is not None and ledger.share == config.held_out
    before = {row.sha256: row.held_out for row in ledger.rows.values() if not row.prior} if ledger and stands else {}
    out = held_out([hashes[place] for place in leaders], config.held_out, before)
    held = {place for place in leaders if hashes[place] in out}
    for place in free:
        like = verdict.like if (verdict := found[place]) else None
        if hashes[place] in before:
            held |= {place} if before[hashes[place]] else set()
        elif like is not None and (like in held if like < len(good) else carried[like - len(good)].held_out):
            held.add(place)
    return held


def _row(one: Found, measured: Measured, texts: tuple[str, ...], config: Prepare, *, held: bool) -> Row:
    item = one.item
    if not texts and item.of_class and (held or not item.group or class_in_name(item) != item.of_class):
        texts = (item.of_class,)  # elsewhere the folder's name says it
    return Row(
        file=place_of(item, measured.sha256, config.format, held_out=held),
        source=one.told.encode("utf-8", "backslashreplace").decode(),
        width=measured.prepared[0],
        height=measured.prepared[1],
        original_width=measured.width,
        original_height=measured.height,
        captions=texts,
        repeats=item.repeats,
        prior=item.prior,
        held_out=held,
        mask=measured.mask or (config.mask.told if isinstance(config.mask, MaskClipSeg) and not item.prior else None),
        bytes=measured.written,
        sha256=measured.sha256,
        key=one.identity.key,
        origin=one.identity.origin,
        made=measured.made,
    )
