"""Folding: the trainings of the folds, before the training itself, which tell it how many steps are best."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import sdtune
from sdtune.config import OF_ONE_START, TrainLora
from sdtune.core.data.cache_folder import FOLDS, folder_of
from sdtune.core.data.folder import Example, triggers_of
from sdtune.core.data_list import data_list
from sdtune.core.folds import Folded, parts, rotate
from sdtune.core.making import Base, Made, Outline, make, outline
from sdtune.core.peers import Peers
from sdtune.core.priors import stamp
from sdtune.core.relay import quietly, retold
from sdtune.core.reports import Note, Progress, Pulse, Rewound, Step, Telling, Validated
from sdtune.core.room import free
from sdtune.core.run_folder import RunFolder
from sdtune.core.validation import Protocol, Validator, protocol_for
from sdtune.errors import Paused, TrainingError

SHARE = 0.1  # of a fold's work that validation may cost, as a fold is trained for that alone
BESIDE = ("model", "data", "prior", "cache", "limits", "samples", "track", "save", "stop")
"""settings on which no fold depends, or that count by what they have led to"""

Result = TypeVar("Result")


def fold(config: TrainLora, base: Base, examples: Sequence[Example], began: float) -> Telling[Folded]:
    """Trains the folds that no earlier run has finished, each as long as the training would be, and tells the result.

    `began` is when the command did, by time.monotonic.

    Nothing of a fold is left on disk but its validations, in the cache.
    """
    whole = quietly(outline(config, base, examples, (), Peers()))
    config, examples = _for_folds(whole.config), whole.trained
    protocol = _protocol(whole)
    key = _key(whole)
    ends = began + 60 * whole.config.stop.minutes if whole.config.stop.minutes else math.inf
    train_fold = partial(_train_fold, config, base, protocol, ends)
    del whole  # and the text encoders with it
    folder = folder_of(config.cache)
    path = folder / FOLDS / f"{key}.json" if folder else None
    folded = yield from rotate(examples, config.validation.folds, train_fold, path, key)
    free()
    yield Note(str(folded))
    return folded


def as_long_as_it_helps(config: TrainLora, folded: Folded, given: bool) -> Telling[TrainLora]:
    """Fewer steps than usual where they are not given and the window of usable ones ends before."""
    window, usual = config.stop.window, folded.curve[-1].step
    steps = math.ceil(window * folded.best.step)
    if given or not folded.better or steps >= usual:
        return config
    yield Note(f"--steps not given: {steps}, {window:g} x the best of the folds")
    return config.model_copy(update={"steps": steps})


def told_of_folds(planned: Outline, count: int) -> str:
    """What they would cost."""
    folds = len(parts(planned.trained, count))
    return (
        f"folds: {folds} x {planned.steps} steps beforehand, {folds * planned.steps} in all, unless they are finished; "
        "a dry run leaves them out"
    )


def _for_folds(config: TrainLora) -> TrainLora:
    """The same training, of which nothing but validations is wanted."""
    samples, track = config.samples.model_copy(update={"off": True}), config.track.model_copy(update={"to": ()})
    return config.model_copy(update={"samples": samples, "track": track})


def _protocol(whole: Outline) -> Protocol:
    """How all folds are validated: at the same steps and noise levels."""
    settings = whole.config.validation
    share = settings.model_copy(update={"share": max(settings.share, SHARE)})
    sizes = [(_different(held_out), _different(trained)) for trained, held_out in parts(whole.trained, settings.folds)]
    most = max(held_out for held_out, _ in sizes)
    return protocol_for(share, whole.steps, whole.images, most, max(trained for _, trained in sizes))


def _different(examples: Sequence[Example]) -> int:
    return len({one.sha256 for one in examples if not one.prior and one.weight})


def _train_fold(
    config: TrainLora,
    base: Base,
    protocol: Protocol,
    ends: float,
    name: str,
    trained: Sequence[Example],
    held_out: Sequence[Example],
) -> Telling[list[Validated]]:
    """What came of one fold; Paused where the clock passes `ends`."""
    free()  # of the fold before it
    planned = yield from _on_its_way(outline(config, base, trained, held_out, Peers()))
    made = yield from _on_its_way(make(planned, RunFolder(Path(), "fold"), Peers()))
    images = min(protocol.images, len(made.fed.held_out), len(made.fed.watched))
    validator = replace(made, protocol=replace(protocol, images=images)).validator()
    assert validator, "a fold has a protocol"
    of = planned.steps
    found = [(yield from _validated(made, validator))]
    with closing(made.training.steps(of)) as steps:
        for report in steps:
            if isinstance(report, Rewound):
                found = [one for one in found if one.step <= report.step]
            if not isinstance(report, Step):
                yield report
                continue
            yield Progress(name, report.number, of)
            if protocol.due(report.number, of) and found[-1].step < report.number:
                found.append((yield from _validated(made, validator)))
            if time.monotonic() > ends and report.number < of:
                raise Paused(f"the time is up (--max-minutes {config.stop.minutes:g})")
    return found


def _validated(made: Made, validator: Validator) -> Telling[Validated]:
    """The losses as the training stands; a signal is heeded between any two passes."""
    began, step = time.monotonic(), made.training.step
    with made.training.as_used():
        held_out, trained = yield from retold(validator.measure(made.net), lambda _: Pulse())
    if not math.isfinite(held_out.relative + trained.relative):
        raise TrainingError(f"step {step} of a fold: the loss on held-out images is no number; lower --lr")
    return Validated(step, made.outline.steps, held_out, trained, step, time.monotonic() - began)


def _on_its_way(work: Telling[Result]) -> Telling[Result]:
    """Work of whose reports only what is on its way is passed on: all else comes again with the training."""
    return retold(work, lambda report: report if isinstance(report, Progress) else None)


def _key(whole: Outline) -> str:
    """All that the folds depend on: settings, model and images; 40 hex digits."""
    config, base = whole.config, whole.base
    images = data_list(config, "", whole.trained, ())["images"]
    told = [
        sdtune.__version__,
        base.identity.name,
        base.identity.location,
        stamp(base.identity),
        (base.device.type, str(base.dtype)),
        config.model_dump(mode="json", exclude={*OF_ONE_START, *BESIDE}),
        config.data.resolution,
        triggers_of(config),
        [{name: value for name, value in image.items() if name != "file"} for image in images],
    ]
    return blake2b(json.dumps(told, sort_keys=True).encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
