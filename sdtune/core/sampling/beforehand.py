"""Beforehand: what is told of a drawing before it begins: how it is drawn, and which settings have no effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdtune.core.autoencoder import pixels_a_patch
from sdtune.core.reports import Note, Telling, Warned
from sdtune.core.sampling.hires import has_second_pass, second_size
from sdtune.core.sampling.jobs import Job
from sdtune.core.sampling.order import Order
from sdtune.core.sampling.recipe import Recipe
from sdtune.core.sampling.unused import unused_in


def before_drawing(order: Order, jobs: Sequence[Job], pipe: Any) -> Telling[None]:
    """Told of the jobs by the base model's own scheduler and configs."""
    base = pipe.scheduler
    recipes = [job.recipe for job in jobs]
    unit = pixels_a_patch(getattr(pipe, order.family.denoiser).config, pipe.vae)
    yield Note(_how(recipes, base, unit))
    for line in {recipe.sampler.note_for(base): None for recipe in recipes}:
        if line:
            yield Warned(line)
    for line in unused_in(order.config, recipes, base, unit):
        yield Warned(line)


def _how(recipes: Sequence[Recipe], base: Any, unit: int) -> str:
    """How they are drawn, as far as all are drawn alike."""
    told = []
    for words in (
        {f"drawing with {one.sampler.title_for(base)}" for one in recipes},
        {f"{one.steps} steps" for one in recipes},
        {f"guidance {one.guidance:g}" for one in recipes},
        {f"{one.width} x {one.height} pixels" for one in recipes},
        {_second(one, unit) for one in recipes},
    ):
        told += list(words - {""}) if len(words) == 1 else []
    return ", ".join(told) or f"drawing {len(recipes)} pictures"


def _second(recipe: Recipe, unit: int) -> str:
    """What follows the first pass: "then 256 x 256 in 4 of 8 steps"."""
    if not has_second_pass(recipe):
        return ""
    steps = recipe.hires.steps or recipe.steps
    width, height = second_size(recipe, unit)
    return f"then {width} x {height} in {int(steps * recipe.hires.strength)} of {steps} steps"
