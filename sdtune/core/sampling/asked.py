"""Asked: every picture that a command asks for, with all choices made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sdtune.choices.samplers import AnySampler
from sdtune.core.applied import Applied
from sdtune.core.sampling import dynamic, grammar
from sdtune.core.sampling.named_loras import NamedLoras, together
from sdtune.core.sampling.prompt_lines import Line, lines_of
from sdtune.core.sampling.recipe import Recipe
from sdtune.core.sampling.run_of import RunUse, with_trigger
from sdtune.core.sampling.wildcards import Wildcards, wildcard_folder
from sdtune.errors import ConfigError
from sdtune.sample_config import Sample

MOST = 100_000
"""pictures of one command"""
LAST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Asked:
    """The settings of one picture, in which the cells of a grid differ."""

    text: str
    """without <lora:...>"""
    negative: str
    seed: int
    size: tuple[int | None, int | None]
    """(width, height) in pixels; None: that of the picture to begin with, or what the model was made for"""
    steps: int
    guidance: float
    sampler: AnySampler
    loras: tuple[Applied, ...] = ()
    """those for every prompt, and those that its own names"""
    strength: float | None = None
    """share of a picture to begin with that is drawn anew"""
    line: int = 1
    """which prompt it is of, from 1"""
    where: str = "--prompt"
    """where its prompt stands, for messages: "prompts.txt, line 3" """
    cell: tuple[int, ...] = ()
    """its place on the axes of a grid"""


def lines_for(config: Sample, run: RunUse) -> list[Line]:
    """The prompts that are given, or else those of the run."""
    given = lines_of(config.prompt, config.prompts, flags=config.syntax != "plain")
    if given:
        return given
    if config.has_prompts_on_axis:
        return [Line(run.prompts[0] if run.prompts else "", "the grid's prompts")]
    if run.unread and not run.prompts:
        raise ConfigError(run.unread)
    prompts = run.prompts_as(config.syntax)
    return [Line(text, f"the run's prompt {number}") for number, text in enumerate(prompts, 1)]


def wanted(
    config: Sample,
    lines: Sequence[Line],
    run: RunUse,
    loras: Sequence[Applied],
    named: NamedLoras,
) -> list[Asked]:
    """All pictures of all prompts."""
    if len(lines) * config.count > MOST:
        told = f"{len(lines):,} prompts, each {config.count:,} times" if len(lines) > 1 else f"--count {config.count:,}"
        raise ConfigError(f"{told}: over {MOST:,} pictures at once; give fewer")
    wildcards = Wildcards(wildcard_folder(config.wildcards, config.prompts))
    found: list[Asked] = []
    for number, line in enumerate(lines, 1):
        steps, guidance = line.steps or config.steps, config.guidance if line.guidance is None else line.guidance
        first = config.seed if line.seed is None else line.seed
        if first + config.count - 1 > LAST_SEED:
            raise ConfigError(
                f"{line.where}: seed {first}: with --count {config.count} the last would be over 2^63 - 1"
            )
        negative = config.negative if line.negative is None else line.negative
        if config.syntax == "a1111":  # as they stand, so that columns are those of the user
            grammar.check(line.text, line.where)
            grammar.check(negative, f"{line.where}, negative")
        for text, unwanted, seed in _texts(config, line, negative, first, wildcards):
            told = text
            if config.run and config.add_trigger and run.trigger:
                told = with_trigger(text, run.trigger, config.syntax)
            acting = tuple(loras)
            if config.syntax == "a1111":
                place = line.where if told == line.text else f"{line.where}, as it is drawn"
                grammar.check(told, place)
                grammar.check(unwanted, f"{line.where}, negative, as it is drawn")
                told, tags = grammar.without_loras(told, place)
                acting = together(loras, [named.find(tag, place) for tag in tags])
            found.append(
                Asked(
                    told,
                    unwanted,
                    seed,
                    (line.width or config.width, line.height or config.height),
                    steps,
                    guidance,
                    config.sampler,
                    acting,
                    config.strength,
                    number,
                    line.where,
                )
            )
        if len(found) > MOST:
            raise ConfigError(f"{line.where}: over {MOST:,} pictures are asked for so far; give fewer at once")
    return found


def wanted_again(recipe: Recipe, loras: Sequence[Applied], where: str) -> Asked:
    """The picture that a recipe is of, with its LoRAs in hand."""
    return Asked(
        recipe.prompt,
        recipe.negative,
        recipe.seed,
        (recipe.width, recipe.height),
        recipe.steps,
        recipe.guidance,
        recipe.sampler,
        tuple(loras),
        recipe.strength,
        where=where,
    )


def _texts(
    config: Sample, line: Line, negative: str, first: int, wildcards: Wildcards
) -> Iterator[tuple[str, str, int]]:
    """(prompt, negative, seed) of each picture of a line."""
    seeds = range(first, first + config.count)
    if config.syntax == "plain":
        yield from ((line.text, negative, seed) for seed in seeds)
    elif config.combinations:
        pictures = dynamic.count_of(line.text, wildcards, line.where) * config.count
        if pictures > MOST:
            counted = f"{pictures:,}" if pictures < dynamic.COUNTED else f"over {dynamic.COUNTED - 1:,}"
            raise ConfigError(
                f"{line.where}: {counted} pictures of all combinations, and {MOST:,} is the most; give fewer choices"
            )
        for text in dynamic.combinations(line.text, wildcards, line.where):
            yield from ((text, dynamic.chosen(negative, seed, wildcards, line.where), seed) for seed in seeds)
    else:
        for seed in seeds:
            text = dynamic.chosen(line.text, seed, wildcards, line.where)
            yield text, dynamic.chosen(negative, seed, wildcards, f"{line.where}, negative"), seed
