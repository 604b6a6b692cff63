"""Pairs: prompts of which the true picture is known, so that drawings can be laid beside it pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sdtune.core.evaluation.candidates import Origin
from sdtune.core.evaluation.picture_folder import named_of, pictures_in
from sdtune.core.evaluation.prompts import plain_of
from sdtune.core.evaluation.subject import Case, Prompt, Reference
from sdtune.core.evaluation.trigger import Trigger
from sdtune.core.reports import Telling
from sdtune.core.sampling.file_names import printable
from sdtune.errors import DataError
from sdtune.evaluate_config import Protocol


def with_pairs(case: Case, config: Protocol, origin: Origin, trigger: Trigger | None) -> Telling[Case]:
    """The case with a prompt for each caption of --pairs, as captions of this run are worded and with its trigger.

    Where one is drawn anyway, as of a reference, its drawings have a true picture; the others are pairs and nothing
    else, so that --pairs changes no other figure.
    """
    if config.pairs is None:
        return case
    found, told = yield from pictures_in(config.pairs, "--pairs", origin, follow_links=config.follow_links)
    prompts = {one.text: one for one in case.prompts}
    doubles, blank = list[Reference](), list[Reference]()
    for one in found:
        if not one.caption:
            blank.append(one)
            continue
        text = trigger.asking(one.caption) if trigger else one.caption
        there = prompts.get(text) or _pair(case, one, text, trigger)
        if there.truth is None:
            prompts[text] = replace(there, truth=one.path)
        else:
            doubles.append(one)
    if len(blank) == len(found):
        name = printable(str(config.pairs))
        raise DataError(f"--pairs {name}: none of its pictures has a caption, which is what is drawn; write some")
    trained = {one.sha256 for subject in case.subjects for one in subject.trained}
    lines = (
        *told,
        *_told(blank, len(found), "without a caption, left out"),
        *_told(doubles, len(found), "with a caption that another has, left out"),
        *_told(
            [one for one in found if one.sha256 in trained], len(found), "trained, so that they tell how it recites"
        ),
    )
    return replace(case, prompts=tuple(prompts.values()), told=(*case.told, *lines))


def _pair(case: Case, picture: Reference, text: str, trigger: Trigger | None) -> Prompt:
    """A prompt that is drawn for its true picture alone, also where that is a reference."""
    trained = (
        (number, place)
        for number, subject in enumerate(case.subjects)
        for place, one in enumerate(subject.trained)
        if one.sha256 == picture.sha256
    )
    return Prompt(text, plain_of(text, trigger), "pair", has_concept=False, trained=next(trained, None))


def _told(some: Sequence[Reference], of: int, what: str) -> tuple[str, ...]:
    """ "--pairs: 2 of 9 pictures without a caption, left out: a.png, b.png"."""
    named = named_of([one.name for one in some])
    return (f"--pairs: {len(some)} of {of} pictures {what}: {named}",) if some else ()
