"""Pairs: prompts of which the true picture is known, so that drawings can be laid beside it pixel by pixel."""

from __future__ import annotations

from dataclasses import replace

from sdtune.core.evaluation.candidates import Origin
from sdtune.core.evaluation.references import pictures_in
from sdtune.core.evaluation.subject import Case, Kind, Prompt
from sdtune.core.evaluation.trigger import Trigger
from sdtune.core.reports import Telling
from sdtune.errors import DataError
from sdtune.evaluate_config import Protocol


def with_pairs(case: Case, config: Protocol, origin: Origin, trigger: Trigger | None) -> Telling[Case]:
    """The case with a prompt for each caption of --pairs, as captions of this run are worded."""
    if config.pairs is None:
        return case
    found, told = yield from pictures_in(config.pairs, "--pairs", origin, follow_links=config.follow_links)
    lines = list(told)
    trained = {one.sha256 for subject in case.subjects for one in subject.trained}
    prompts = {one.text: one for one in case.prompts}
    blank = 0
    for one in found:
        if not one.caption:
            blank += 1
            continue
        there = prompts.get(one.caption)
        if there is not None and there.truth is not None:
            lines.append(f"--pairs: {one.name} has the caption of another one, and is left out")
            continue
        if one.sha256 in trained:
            lines.append(f"--pairs: {one.name} was trained, so that its figures say how well it is remembered")
        asks = trigger is None or trigger.stands_in(one.caption)
        plain = trigger.without(one.caption) if trigger else one.caption
        kind: Kind = "in-distribution" if asks else "generic"
        prompts[one.caption] = replace(there or Prompt(one.caption, plain, kind, asks), truth=one.path)
    if blank == len(found):
        raise DataError(
            f"--pairs {config.pairs}: none of its pictures has a caption, which is what is drawn; write some"
        )
    if blank:
        lines.append(f"--pairs: {blank} pictures without a caption are left out")
    return replace(case, prompts=tuple(prompts.values()), told=(*case.told, *lines))
