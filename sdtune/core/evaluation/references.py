"""References: the pictures that drawings are laid beside, none of which was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.core.evaluation.candidates import Origin
from sdtune.core.evaluation.doubles import doubles_of
from sdtune.core.evaluation.picture_folder import named_of, pictures_in
from sdtune.core.evaluation.subject import Reference, Subject
from sdtune.core.reports import Telling
from sdtune.core.sampling.file_names import printable
from sdtune.errors import DataError

FEWEST = 5
"""pictures, below which trained ones stand beside held-out ones"""


@dataclass(frozen=True)
class Pictures:
    """What drawings are laid beside."""

    references: tuple[Reference, ...]
    are_trained: bool
    """whether trained ones stand in, for want of others"""
    told: tuple[str, ...]


def references_of(
    subjects: Sequence[Subject], origin: Origin, folder: Path | None, *, follow_links: bool
) -> Telling[Pictures]:
    """The given ones, else those that runs held out; none of them trained, where there are enough of such.

    `origin` says how captions are worded. Raises DataError where there are none.
    """
    trained = [one for subject in subjects for one in subject.trained]
    if folder is None:
        return (yield from _held_out(subjects, trained))
    given, told = yield from pictures_in(folder, "--reference", origin, follow_links=follow_links)
    kept, lines = yield from _without_trained(given, trained, "references")
    if not kept:
        name, count = printable(str(folder)), len({one.sha256 for one in given})
        raise DataError(
            f"--reference {name}: all {count} are trained pictures, beside which copies look best; give others"
        )
    return Pictures(kept, are_trained=False, told=(*told, *lines, *_too_few(kept)))


def _held_out(subjects: Sequence[Subject], trained: Sequence[Reference]) -> Telling[Pictures]:
    """Those of runs, with trained ones beside them where they are too few."""
    given = [one for subject in subjects for one in subject.held_out]
    kept, lines = yield from _without_trained(given, trained, "held-out pictures")
    if len(kept) >= FEWEST:
        return Pictures(kept, are_trained=False, told=lines)
    if not kept and not trained:
        raise DataError(
            "no pictures to lay drawings beside are known; give some that were not trained with --reference FOLDER"
        )
    if not trained:
        return Pictures(kept, are_trained=False, told=(*lines, *_too_few(kept)))
    both = {one.sha256: one for one in (*kept, *trained)}
    are = "no pictures are" if not kept else "only 1 picture is" if len(kept) == 1 else f"only {len(kept)} pictures are"
    line = (
        f"{are} held out, so trained ones stand in as references: likeness to them rewards copying, and says nothing "
        "of how it draws what it never saw; give other pictures of the same with --reference FOLDER"
    )
    return Pictures(tuple(both.values()), are_trained=True, told=(*lines, line))


def _without_trained(
    given: Sequence[Reference], trained: Sequence[Reference], what: str
) -> Telling[tuple[tuple[Reference, ...], tuple[str, ...]]]:
    """(each of them once, what there is to tell of those that were trained and are left out)."""
    once = list({one.sha256: one for one in reversed(given)}.values())[::-1]
    doubles = yield from doubles_of(once, trained)
    kept = tuple(one for one in once if one.sha256 not in doubles)
    return kept, _told_of_doubles([one for one in once if one.sha256 in doubles], len(once), doubles, what)


def _told_of_doubles(
    found: Sequence[Reference], of: int, doubles: Mapping[str, Reference], what: str
) -> tuple[str, ...]:
    if not found:
        return ()
    named = named_of(
        [
            one.name if doubles[one.sha256].sha256 == one.sha256 else f"{one.name} (nearly {doubles[one.sha256].name})"
            for one in found
        ]
    )
    are = "is a trained picture" if len(found) == 1 else "are trained pictures"
    them = "it" if len(found) == 1 else "they"
    return (f"{len(found)} of {of} {what} {are}: {named}; left out, since {them} would reward copying",)


def _too_few(kept: Sequence[Reference]) -> tuple[str, ...]:
    if len(kept) >= FEWEST:
        return ()
    are = "there is only 1 reference" if len(kept) == 1 else f"there are only {len(kept)} references"
    return (f"{are}, too few to measure sets of pictures by; give {FEWEST} or more with --reference FOLDER",)
