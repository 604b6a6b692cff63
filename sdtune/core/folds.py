"""Folds: short trainings beforehand, each without another part of the images, to find out how many steps are best.

For sets too small to hold images out for good: each image is held out once, and the training itself then sees them all.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.core import verdict
from sdtune.core.data.folder import Example, in_lowest_terms
from sdtune.core.held_out import alike
from sdtune.core.reports import Note, Telling, Validated, Warned
from sdtune.core.run_folder import write_atomically
from sdtune.errors import ConfigError, DataError, Paused, Stopped

LEAST = 2  # folds; of fewer nothing would be left to train on


@dataclass(frozen=True)
class Point:
    """What the folds have come to after so many steps."""

    step: int
    relative: float
    """held-out loss to the base's, the mean over folds"""
    error: float
    """its standard error over folds"""


@dataclass(frozen=True)
class Folded:
    """What all folds have found together."""

    folds: int
    curve: tuple[Point, ...]
    """at the steps that all of them validated"""

    @property
    def best(self) -> Point:
        """Where the held-out loss is least, the first of equals."""
        return min(self.curve, key=lambda one: one.relative)

    @property
    def better(self) -> bool:
        """Whether that is better than the base by more than its error."""
        return 1 - self.best.relative > self.best.error

    def __str__(self) -> str:
        best = self.best
        told = f"{100 * (best.relative - 1):+.1f} % against the base, standard error {100 * best.error:.1f} %"
        if not self.better:
            return f"{self.folds} folds: no verdict, since no step is better than the base beyond its error ({told})"
        end = "; still the last step, so more may help" if best == self.curve[-1] and len(self.curve) > 1 else ""
        return f"{self.folds} folds: best at step {best.step} ({told} over folds){end}"


def parts(examples: Sequence[Example], count: int) -> list[tuple[list[Example], list[Example]]]:
    """(trained, held out) of each fold; each image to learn is held out in one, with all that look like it.

    Out of the images' content alone. There are no more folds than images that differ.
    """
    families = alike([one for one in examples if not one.prior and one.weight])
    if len(families) < LEAST:
        raise DataError("validation.folds: needs two images that differ; give more images, or leave it out")
    count = min(max(count, LEAST), len(families))
    found = []
    for number in range(count):
        out = {id(one) for family in families[number::count] for one in family}
        held_out = [one for one in examples if id(one) in out]
        found.append((in_lowest_terms([one for one in examples if id(one) not in out]), held_out))
    return found


def rotate(
    examples: Sequence[Example],
    count: int,
    train_fold: Callable[[str, list[Example], list[Example]], Telling[list[Validated]]],
    path: Path | None,
    key: str,
) -> Telling[Folded]:
    """Trains every fold that was not finished before, and keeps what came of each in the file.

    `key` stands for all that the folds depend on: settings, model and images; those of another key are not used. Each
    is told its name, "fold 2 of 4". Without a file nothing is kept.
    """
    all_parts = parts(examples, count)
    done = _read(path, key)[: len(all_parts)] if path else []
    new = 0  # finished by this process
    for number, (trained, held_out) in enumerate(all_parts, 1):
        name = f"fold {number} of {len(all_parts)}"
        if number <= len(done):
            yield Note(f"{name}: finished before")
            continue
        try:
            yield Note(f"{name}: {len(trained)} images trained, {len(held_out)} held out")
            done.append((yield from train_fold(name, trained, held_out)))
            new += 1
        except (Stopped, Paused) as ended:
            if isinstance(ended, Paused) and not new:  # the same command would never come further
                raise ConfigError(f"{name} takes longer than --max-minutes; give more, or leave it out") from None
            kept = (
                "the folds before it are kept, and the same command goes on"
                if path and done
                else "nothing of it is kept"
            )
            raise type(ended)(f"{str(ended) or 'stopped'} in {name}; {kept}") from None
        if path:
            yield from _keep(path, key, done)
    return folded(done)


def folded(folds: Sequence[Sequence[Validated]]) -> Folded:
    """The mean of the folds' curves."""
    curves = [{one.step: one.held_out.relative for one in validations if one.step} for validations in folds]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    assert steps, "each fold is validated at its last step, which is the same for all"
    points = []
    for step in steps:
        values = [curve[step] for curve in curves]
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else statistics.mean(values)
        points.append(Point(step, statistics.mean(values), error))
    return Folded(len(folds), tuple(points))


def _read(path: Path, key: str) -> list[list[Validated]]:
    """The folds that are finished; none where the file is not there, damaged or of other settings."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return [verdict.from_json(one) for one in told["folds"]] if told["key"] == key else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _keep(path: Path, key: str, folds: Sequence[Sequence[Validated]]) -> Telling[None]:
    text = json.dumps({"key": key, "folds": [verdict.to_json(one) for one in folds]})
    try:
        write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
    except OSError as error:
        yield Warned(f"{path}: cannot be written ({error.strerror}), so a run that is ended begins its folds anew")
