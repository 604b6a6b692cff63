"""Sorting: out of what was measured, what shall stand in the data set, where, and with which captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    carried = _carried(intake, ledger)
    before = {row.origin for row in ledger.rows.values()} if ledger else set()
    candidates = [_candidate(one, intake, placed=one.identity.origin in before) for one in good]
    candidates += [_standing(row, intake.measured[row.key]) for row in carried]
    found = verdicts(candidates, config)[: len(good)]
    taken_out = ledger.removed if ledger and not config.restore else set()
    found = [
        REMOVED if verdict is None and intake.measured[one.identity.key].sha256 in taken_out else verdict
        for one, verdict in zip(good, found, strict=True)
    ]
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


def _carried(intake: Intake, ledger: Ledger | None) -> list[Row]:
    """What stands in the data set from sources that are not given this time; what someone removed is gone."""
    if ledger is None:
        return []
    now = {one.identity.origin for one in intake.found}
    rows = (row for row in ledger.rows.values() if row.origin not in now and row.key in intake.measured)
    return [row for row in rows if (ledger.out / row.file).is_file()]


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
    hashes = [intake.measured[one.identity.key].sha256 for one in good]
    free = [place for place, one in enumerate(good) if not aside[place] and not one.item.prior]
    leaders = [place for place in free if (verdict := found[place]) is None or verdict.like is None]
    if any(one.item.held_out for one in good):
        return set()  # the sources say themselves what is held out
    stands = ledger is not None and ledger.share == config.held_out and not ledger.disturbed
    before = {row.sha256: row.held_out for row in ledger.rows.values() if not row.prior} if ledger and stands else {}
    out = held_out([hashes[place] for place in leaders], config.held_out, before)
    held = {place for place in leaders if hashes[place] in out}
    for place in free:
        like = verdict.like if (verdict := found[place]) else None
        if like is not None and (like in held if like < len(good) else carried[like - len(good)].held_out):
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
    )
