"""Settings of a drawing without effect: each that was given though another keeps it from mattering, told by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sdtune.choices.samplers import is_flow
from sdtune.core.picture_notes import SUFFIXES
from sdtune.core.sampling.hires import has_second_pass, second_size
from sdtune.core.sampling.recipe import Recipe
from sdtune.errors import cut
from sdtune.sample_config import Sample


def unused_settings(config: Sample) -> Iterator[str]:
    """Warnings, one a setting, out of the settings alone."""
    fields = type(config).model_fields
    for name, flag, needed, is_there in (
        ("combinations", "--combinations", "--syntax a1111", config.syntax == "a1111"),
        ("wildcards", "--wildcards", "--syntax a1111", config.syntax == "a1111"),
        ("lora_folder", "--lora-folder", "--syntax a1111", config.syntax == "a1111" or bool(config.again)),
        ("add_trigger", "--no-add-trigger", "--run", bool(config.run or config.again)),
    ):
        if not is_there and getattr(config, name) != fields[name].default:
            yield f"{flag}: has no effect without {needed}"
    if config.hires.scale == 1:
        for name in ("strength", "steps"):
            if getattr(config.hires, name) != type(config.hires).model_fields[name].default:
                yield f"--hires.{name}: has no effect without --hires"
    if config.name != fields["name"].default and config.out.suffix.lower() in SUFFIXES and not _is_sheet(config):
        yield f"--name: has no effect, since --out {cut(config.out.name)} is the picture's name"
    if config.structure and config.strength == 0:
        yield "--structure: has no effect, since --strength is 0, which takes no steps"


def unused_in(config: Sample, recipes: Sequence[Recipe], base: Any, unit: int) -> Iterator[str]:
    """The same out of what is to be drawn: of all pictures, with the model's own scheduler and unit of sizes."""
    if all(one.guidance == 1 for one in recipes):
        if config.guidance_rescale:
            yield "--guidance-rescale: has no effect, since guidance is 1"
        if any(one.negative for one in recipes):
            yield "--negative: has no effect, since guidance is 1"
    for one in recipes[:1]:
        if has_second_pass(one) and second_size(one, unit) == (one.width, one.height):
            size = f"{one.width} x {one.height}"
            yield f"--hires {one.hires.scale:g}: the second pass is no larger than the first, {size} pixels"
    if is_flow(base) and any(getattr(one.sampler, "karras", True) is False for one in recipes):
        yield "--no-sampler.karras: has no effect, since the steps of SD3 follow its flow"


def _is_sheet(config: Sample) -> bool:
    return bool(config.compare or config.grid or config.animate)
