"""Pairs: prompts of which the true picture is known, so that drawings can be laid beside it pixel by pixel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sdtune.core.evaluation.candidates import Origin
from sdtune.core.evaluation.references import pictures_in
from sdtune.core.evaluation.subject import Case, Prompt
from sdtune.core.reports import Note, Telling
from sdtune.errors import DataError
from sdtune.evaluate_config import Protocol


def with_pairs(case: Case, config: Protocol) -> Telling[tuple[Case, dict[int, Path]]]:
    """The case with a prompt for each picture of --pairs, and {place of the prompt: its true picture}."""
    if config.pairs is None:
        return case, {}
    found, told = yield from pictures_in(
        config.pairs, "--pairs", Origin(config.pairs), follow_links=config.follow_links
    )
    for line in told:
        yield Note(line)
    described = [one for one in found if one.caption]
    if not described:
        raise DataError(f"{config.pairs}: none of its pictures has a caption, which is what is drawn; write captions")
    if len(described) < len(found):
        yield Note(f"{config.pairs}: {len(found) - len(described)} pictures without a caption are left out")
    places = {one.text: number for number, one in enumerate(case.prompts)}
    prompts, pairs = list(case.prompts), {}
    for one in described:
        assert one.caption, "those without are left out"
        if one.caption not in places:
            places[one.caption] = len(prompts)
            prompts.append(Prompt(one.caption, one.caption, "in-distribution", has_concept=True))
        pairs[places[one.caption]] = one.path
    return replace(case, prompts=tuple(prompts)), pairs
