"""Verdicts: which images are set aside and why, and which are held out; pure functions of what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy

from sdtune.config import Prepare
from sdtune.core.intake.facts import Measured
from sdtune.core.intake.likeness import groups
from sdtune.tables import Judge

SPLIT_FROM = 12  # images; of fewer none can be spared
FEWEST_HELD_OUT = 2
LIKE, SAME = "near-duplicate", "same file"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an image is set aside."""

    kind: str
    """a word or two, for counting: "too small" """
    told: str
    """the whole reason"""
    like: int | None = None
    """place of the image that is kept in its stead"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the verdicts are reached from."""

    told: str
    """name of the original"""
    measured: Measured
    group: str
    """folder of the data set that it goes to; a file may stand in several"""
    prior: bool
    described: bool
    """whether it has a caption"""
    placed: bool
    """whether it is in the data set already, from an earlier run"""


def verdicts(candidates: Sequence[Candidate], config: Prepare) -> list[Verdict | None]:
    """What is to be said against each candidate, None where it is good; the best of those that are alike is good."""
    found = [_alone(one.measured, config) for one in candidates]
    order = [place for place in _best_first(candidates) if found[place] is None or config.judge.keep_all]
    same: dict[tuple[str, str], int] = {}
    for place in order:
        one = candidates[place]
        first = same.setdefault((one.group, one.measured.sha256), place)
        if first != place:
            found[place] = Verdict(SAME, f"the same file as {candidates[first].told}", first)
    different = [place for place in order if not candidates[place].prior and not _is(found[place], SAME)]
    hashes = numpy.array([int(one.measured.fingerprint, 16) for one in candidates], dtype=numpy.uint64)
    tints = numpy.frombuffer(bytes.fromhex("".join(one.measured.tints for one in candidates)), dtype=numpy.uint8)
    for group in groups(hashes, tints.reshape(len(candidates), -1), different, config.judge.likeness):
        for place in group.members:
            told = f"looks like {candidates[group.leader].told}"
            verdict = found[place]
            found[place] = replace(verdict, like=group.leader) if verdict else Verdict(LIKE, told, group.leader)
    return found


def sets_aside(verdict: Verdict | None, judge: Judge) -> bool:
    """Whether it keeps the image out of the data set; with --keep-all only a second copy of a file is."""
    return verdict is not None and (not judge.keep_all or verdict.kind == SAME)


def remarks(one: Measured, verdict: Verdict | None, config: Prepare) -> tuple[str, ...]:
    """What the user should know of an image that is kept."""
    border = one.border and not config.crop_borders
    told = [*one.notices, "has a plain border; --crop-borders cuts it off"] if border else [*one.notices]
    return (*told, *([verdict.told] if verdict else []))


def held_out(hashes: Sequence[str], share: float, before: dict[str, bool], forced: Iterable[str] = ()) -> set[str]:
    """The SHA-256 of the images to hold out: by content alone, so that adding images moves none across.

    `before` says what an earlier run has decided, which stands. At least two are held out of a new set.
    """
    out = {one for one in hashes if before.get(one, False)} | set(forced)
    new = sorted({one for one in hashes if one not in before})
    if share == 0 or len(set(hashes)) < SPLIT_FROM:
        return out
    out |= {one for one in new if int(one[:12], 16) < share * 16**12}
    return out if before else out | set(new[:FEWEST_HELD_OUT])  # whose hashes are the smallest, too


def _alone(one: Measured, config: Prepare) -> Verdict | None:
    """What can be said of an image by itself."""
    judge = config.judge
    width, height = _size(one, cropped=config.crop_borders)
    least = smallest_side(config)
    size = f"{width} x {height}"
    if min(width, height) < least:
        return Verdict("too small", f"{size} is too small; the shorter side should have {least} pixels (--min-side)")
    if judge.contrast and one.contrast < judge.contrast:
        return Verdict("one colour", f"nearly one colour (contrast {one.contrast:.1f} of 255)")
    if judge.aspect and max(width, height) > judge.aspect * min(width, height):
        told = f"{size} is more than {judge.aspect:g} times as long as wide; training would cut most of it off"
        return Verdict("too long", told)
    if judge.sharpness and one.sharpness < judge.sharpness:
        return Verdict("blurred", f"blurred (sharpness {one.sharpness:.1f}, less than {judge.sharpness:g})")
    return None


def smallest_side(config: Prepare) -> int:
    """Pixels that the shorter side must have."""
    return config.resolution // 4 if config.judge.min_side is None else config.judge.min_side


def _size(one: Measured, *, cropped: bool) -> tuple[int, int]:
    left, top, right, bottom = one.border if one.border and cropped else (0, 0, 0, 0)
    return one.width - left - right, one.height - top - bottom


def _best_first(candidates: Sequence[Candidate]) -> list[int]:
    """What is in the data set stays; then the largest, sharpest, described one."""

    def rank(place: int) -> tuple[object, ...]:
        one = candidates[place]
        found = one.measured
        return (
            not one.placed,
            -found.width * found.height,
            -found.sharpness,
            not one.described,
            len(one.told),
            one.told,
        )

    return sorted(range(len(candidates)), key=rank)


def _is(verdict: Verdict | None, kind: str) -> bool:
    return verdict is not None and verdict.kind == kind
