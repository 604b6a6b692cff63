"""The course of a training: its steps, and between them what is measured, drawn and saved, up to its end."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from sdtune.config import OF_ONE_START, TrainLora
from sdtune.core import verdict
from sdtune.core.checkpoint import Checkpoints
from sdtune.core.learned import told as told_of_updates
from sdtune.core.learned import update_norms
from sdtune.core.lora_place import step_of
from sdtune.core.memory import maker_of
from sdtune.core.plot import plot
from sdtune.core.reports import Note, Pulse, Report, Rewound, Saved, Step, Telling, Trained, Validated, Warned
from sdtune.core.results import Results, drawn_every
from sdtune.core.resume import command
from sdtune.core.run_folder import RunFolder
from sdtune.core.state import State
from sdtune.core.tracking import Trackers
from sdtune.core.training import Training, images_a_step
from sdtune.core.validation import Validator, as_shared, from_json, to_json
from sdtune.errors import ConfigError, OutputError, Paused, SdtuneError, Stopped

KEPT = frozenset(
    {"validations", "seconds", "images", "settings", "folded", "marked", "base", "prompts", "circumstances"}
)
"""what a checkpoint tells of the course"""
UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)
"""what comes of a checkpoint whose hashes fit, but that somebody has edited"""


@dataclass
class Course:
    """A training on its way, in the process that leads it."""

    config: TrainLora
    """settled"""
    run: RunFolder
    training: Training
    results: Results
    validator: Validator | None
    trackers: Trackers
    steps: int
    validations: list[Validated] = field(default_factory=list)
    seconds: float = 0.0
    """that the steps have taken, in earlier processes too"""
    folded: str | None = None
    """what folds have found out before it"""
    marked: int | None = None
    """the step that they found to be best, whose LoRA is kept"""

    def __post_init__(self) -> None:
        self.checkpoints = Checkpoints(self.run.checkpoints)
        self.same = True
        """whether a run that is resumed goes on as it would have, to the last bit"""
        self.began = self._saved = time.monotonic()
        """when the command did"""
        self._earlier = self.seconds

    def load(self, state: State) -> None:
        """Go on from a checkpoint."""
        try:
            self._load(state)
        except UNREADABLE as error:
            told = f"its checkpoint of step {state.step} is not as sdtune writes it ({type(error).__name__})"
            raise OutputError(f"{self.run.path}: {told}; begin a new run") from error

    def _load(self, state: State) -> None:
        own = state.told["course"]
        if own["base"] != self.results.base and not self.config.allow_changes:
            raise ConfigError(
                f"{self.run.path}: the weights of {self.config.model} are others than the run began with; put them "
                "back, allow it with --allow-changes, or begin a new run"
            )
        self.training.load(state)
        self.validations = verdict.from_json(own["validations"])
        same = own["settings"]["validation"] == self.config.validation.model_dump(mode="json")
        if self.validator and "validation" in own and same:
            protocol, self.validator.base = from_json(own["validation"])
            self.validator.protocol = as_shared(protocol, self.steps, self._images())
        self.seconds = self._earlier = own["seconds"]
        self.folded, self.marked = own["folded"], own["marked"]
        self.same = own["circumstances"] == self._circumstances()
        self._drop_later(state.step)
        if own["prompts"] != list(self.results.prompts):
            self.run.start_samples_anew(state.step)
        if self.validations and self.validations[-1].step == state.step > 0:
            self._keep(state.step)  # what the end of a run, or a kill, has not left

    def begin(self) -> Telling[None]:
        """What is measured and drawn before the first step, to compare with."""
        yield from self._look()

    def go(self) -> Telling[str]:
        """From where it stands to its end; returns why it ended, "steps" or "early".

        What ends it before leaves a checkpoint of the last finished step, and the LoRA as far as it came.
        """
        try:
            yield Pulse()
            why = yield from self._go()
            yield from self._save()
        except Stopped:
            yield from self._leave()
            raise Stopped(f"stopped after step {self.training.step}", resume=command(self.run)) from None
        except GeneratorExit:
            with contextlib.suppress(SdtuneError):
                for _ in self._leave():
                    pass
            raise
        except Paused as paused:
            paused.resume = command(self.run) if self.run.has_learned else None
            raise
        except SdtuneError:
            with contextlib.suppress(SdtuneError):
                yield from self._leave()
            raise
        return why

    def end(self, why: str) -> Telling[None]:
        """All that is left in the run's folder when nothing more is learned."""
        try:
            yield from self._end(why)
        except Stopped:
            told = f"stopped after step {self.training.step}, the last; what is learned is saved"
            raise Stopped(told, resume=command(self.run)) from None

    def _end(self, why: str) -> Telling[None]:
        step, last = self.training.step, self.validations[-1] if self.validations else None
        best = last.best if last else step
        if self.results.prompts and not self.run.sample(step, 1).exists():
            yield from self._draw(step)
        warning = self._save_lora(self.run.lora)
        if warning:
            yield Warned(warning)
        yield from map(partial(Saved, "embedding"), self.results.embeddings)
        with self.training.as_used():
            updates = tuple(update_norms(self.results.parts))
        for line in told_of_updates(updates, last):
            yield Warned(line)
        yield from self._plot()
        compared = self.results.compare(step)
        kept = {one for one in verdict.kept(self.validations) if one not in (step, best)}
        kept |= {self.marked} if self.marked else set()
        self.run.keep_partials(kept)  # not those of a stop on the way, nor the same as another
        told = [verdict.sentence(self.validations)] if last else []
        sentence = "; ".join([*told, self.folded] if self.folded else told) or None
        if best in (0, step):
            self.run.best.unlink(missing_ok=True)
        self.run.finish(
            {
                "steps": step,
                "why": why,
                "stop": [self.config.stop.early, self.config.stop.patience, self.config.stop.window],
                "verdict": sentence,
                "best": best if last else None,
                "held_out": asdict(last.held_out) if last else None,
                "seconds": self.seconds,
                "update": [asdict(one) for one in updates],
            }
        )
        other = self.run.best if best not in (0, step) and self.run.best.is_file() else None
        worse = last is not None and last.held_out.relative >= 1  # than the base
        next_ = self.results.try_next(other if other and worse else None)
        yield from self.trackers.close()
        plot = self.run.plot if self.run.plot.is_file() else None
        yield Trained(self.run.lora, compared, self.seconds, next_, step, other, sentence, updates, plot)

    def _go(self) -> Telling[str]:
        yield from self._look()  # what a stop left undone
        steps: Generator[Report, None, None] = self.training.steps(self.steps)
        with contextlib.closing(steps):
            while not self._stops_early():
                report = next(steps, None)
                if report is None:
                    return "steps"
                if isinstance(report, Rewound):
                    self._rewind(report.step)
                if not isinstance(report, Step):
                    yield report
                    continue
                self.seconds = self._earlier + report.seconds
                self.run.record(report)
                yield report
                yield from self.trackers.log(report)
                yield from self._look()
                if report.number == self.marked and report.number < self.steps:
                    self._save_lora(self.run.partial(report.number))
                    yield Saved("best of the folds", self.run.partial(report.number))
                if report.number < self.steps:
                    yield from self._save_when_due(report.number)
        told = f"held-out loss above its minimum of step {self.validations[-1].best}"
        yield Note(f"stopping early, after step {self.training.step}: {told}; --no-early-stop goes on")
        return "early"

    def _look(self) -> Telling[None]:
        """Validates and draws, where this step is one for that and it has not been done."""
        step = self.training.step
        if self.validator and self.validator.protocol.due(step, self.steps) and step not in self._validated():
            yield from self._validate(step)
        if self.results.prompts and self._draws_after(step) and not self.run.sample(step, 1).exists():
            yield from self._draw(step)

    def _validated(self) -> set[int]:
        return {one.step for one in self.validations}

    def _draws_after(self, step: int) -> bool:
        every = drawn_every(self.config, self.steps)
        return step in (0, self.steps) or (every > 0 and step % every == 0)

    def _validate(self, step: int) -> Telling[None]:
        assert self.validator
        began = time.monotonic()
        with self.training.as_used():
            parts = [one for one in self.results.parts.values() if one is not self.results.net]
            held_out, trained = yield from self.validator.measure(self.results.net, parts, learned=step > 0)
        if not math.isfinite(held_out.relative + trained.relative):
            yield Warned(f"step {step}: the loss on held-out images is no number, and does not count")
            return
        now = Validated(step, self.steps, held_out, trained, step, time.monotonic() - began)
        now = replace(now, best=verdict.best([*self.validations, now]))
        self.validations.append(now)
        self.run.record(now)
        yield now
        yield from self.trackers.log(now)
        if step:
            if not self.run.has_learned:
                yield from self._save()  # before there is a LoRA to go with it
            self._keep(step)
            yield from self._plot()

    def _keep(self, step: int) -> None:
        """The LoRA of the least held-out loss, and a few from there on."""
        if self.validations[-1].best == step:
            self._save_lora(self.run.best)
        kept = set(verdict.kept(self.validations))
        if step in kept:
            self._save_lora(self.run.partial(step))
        for other in self._validated() - kept:
            self.run.partial(other).unlink(missing_ok=True)

    def _draw(self, step: int) -> Telling[None]:
        try:
            with self.training.as_used():
                yield from self.results.draw(step)
            yield from self.trackers.show(self.run, step)
        except SdtuneError as error:
            if not step:
                raise
            yield Warned(f"no samples after step {step}: {error}; the training goes on")

    def _plot(self) -> Telling[None]:
        try:
            plot(self.run.metrics, self.run.validations, self.run.plot)
        except (OSError, SdtuneError) as error:
            yield Warned(f"{self.run.plot.name}: not drawn ({error}); the training goes on")

    def _stops_early(self) -> bool:
        return self.config.stop.early and verdict.should_stop(self.validations, self.config.stop)

    def _save_when_due(self, step: int) -> Telling[None]:
        save, stop, now = self.config.save, self.config.stop, time.monotonic()
        if stop.minutes and now - self.began >= 60 * stop.minutes:
            yield from self._leave()
            raise Paused(f"the time is up (--max-minutes {stop.minutes:g}): saved after step {step} of {self.steps}")
        by_steps = save.every is not None and step % save.every == 0
        if by_steps or (save.minutes and now - self._saved >= 60 * save.minutes):
            yield from self._save()

    def _save(self) -> Telling[None]:
        """A checkpoint of the last finished step."""
        yield Pulse()
        state = self.training.state()
        own = {
            "validations": verdict.to_json(self.validations),
            "seconds": self.seconds,
            "images": self._images(),
            "settings": self.config.model_dump(mode="json", exclude=set(OF_ONE_START)),
            "folded": self.folded,
            "marked": self.marked,
            "base": self.results.base,
            "prompts": list(self.results.prompts),
            "circumstances": self._circumstances(),
        }
        if self.validator:
            own["validation"] = to_json(self.validator.protocol, self.validator.base)
        self.checkpoints.save(replace(state, told={**state.told, "course": own}), self.config.save.keep)
        self._saved = time.monotonic()

    def _images(self) -> int:
        return images_a_step(self.config, self.training.peers.of)

    def _leave(self) -> Telling[None]:
        """All that a later process needs, and what can be used before."""
        yield from self._save()
        if self.training.step:
            path = self.run.partial(self.training.step)
            self._save_lora(path)
            yield Saved("saved as far as it came", path)

    def _save_lora(self, path: Path) -> str | None:
        with self.training.as_used():
            return self.results.save(path, self.training.step)

    def _circumstances(self) -> list[str]:
        """What the last digits depend on."""
        split = (self.config.batch_size, self.config.accumulate, self.training.peers.of)
        return [torch.__version__, *maker_of(self.results.net.device), *map(str, split)]

    def _rewind(self, step: int) -> None:
        self.validations = [one for one in self.validations if one.step <= step]
        self._drop_later(step)

    def _drop_later(self, step: int) -> None:
        """What was left by later steps, which are taken otherwise now."""
        self.run.rewind(step)
        self.run.keep_partials({one for one in (*self._validated(), self.marked or 0) if one <= step})
        best = self.validations[-1].best if self.validations else 0
        if self.run.best.is_file() and step_of(self.run.best) != best:
            self.run.best.unlink(missing_ok=True)
