"""A run that is gone on with: its folder, its settings and its last state, and what is asked of it now."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from sdtune.config import Tables, TrainLora, laid_over, resolve
from sdtune.core.checkpoint import Checkpoints
from sdtune.core.course import KEPT
from sdtune.core.lock import lock
from sdtune.core.peers import Peers
from sdtune.core.reports import Note, Telling, Warned
from sdtune.core.resume import Change, agreed, changes, check, continued, find
from sdtune.core.run_folder import RunFolder
from sdtune.core.state import State
from sdtune.core.training import images_a_step
from sdtune.errors import ConfigError, OutputError


@dataclass(frozen=True)
class Resumption:
    """A run that is gone on with."""

    run: RunFolder
    before: TrainLora
    """as the checkpoint was made with, settled"""
    config: TrainLora
    """what is given now, over that"""
    state: State

    @property
    def images(self) -> int:
        """That a step learns from."""
        return int(self.state.told["course"]["images"])

    def agreed(self, config: TrainLora, data: Tables, images: int) -> tuple[str, ...]:
        """What is other than it was, a line each; `config` is settled. ConfigError where it cannot or must not be."""
        if config.steps is not None and config.steps < self.state.step:
            raise ConfigError(f"steps: {config.steps}, but {self.run.path} has taken {self.state.step}; give more")
        if images == self.images:  # the same step, whatever it is split into
            split = {name: getattr(self.before, name) for name in ("batch_size", "accumulate")}
            config = config.model_copy(update=split)
        return agreed(self.run, self.before, config, data)


def resumption(config: TrainLora, peers: Peers, held: contextlib.ExitStack) -> Telling[Resumption | Note | None]:
    """The run to go on with, from now on locked, and its newest whole checkpoint.

    A Note where it has finished and is asked for no more; None where a new one begins.
    """
    if config.resume is None:
        return None
    found = (yield from find(config)) if peers.leads else None
    place = peers.tell(str(found.path) if found else None)
    if place is None:
        return None
    run = RunFolder.at(Path(place))
    now = continued(config, run)
    if over := _over(run, now):
        return over
    checkpoints = Checkpoints(run.checkpoints)
    if peers.leads:
        held.enter_context(lock(run.path))
        for told in checkpoints.clean():
            yield Note(told)
    state, broken = checkpoints.newest()
    for told in broken:
        yield Warned(told)
    if state is None:
        raise OutputError(f"{run.path}: none of its checkpoints is whole; begin a new run")
    peers.wait()
    try:
        before = resolve(TrainLora, [state.told["course"]["settings"]])
        if not state.told["course"].keys() >= KEPT:
            raise KeyError
    except (KeyError, TypeError):
        raise OutputError(
            f"{run.path}: its checkpoint is of another version of sdtune, which cannot go on; its LoRA can be used"
        ) from None
    check(run, now, _early(before, now))
    return (yield from _as_many_images(Resumption(run, before, now, state), peers.of))


def _early(before: TrainLora, now: TrainLora) -> list[Change]:
    """What is other than it was, as far as it is known before the data is; a step may be split otherwise."""
    return [change for change in changes(before, now) if change.path not in ("batch_size", "accumulate")]


def _over(run: RunFolder, config: TrainLora) -> Note | None:
    """What is said where the run has finished and left its LoRA, and nothing asks for more."""
    ended = run.read_ended()
    steps = ended.get("steps")
    if not isinstance(steps, int) or not run.lora.is_file():
        return None
    early = ended.get("why") == "early"
    if (config.steps or 0) > steps and not (early and config.stop.early):
        return None
    if early and ended.get("stop") != [config.stop.early, config.stop.patience, config.stop.window]:
        return None
    if config.steps is not None and config.steps < steps and not early:
        raise ConfigError(f"steps: {config.steps}, but {run.path} has taken {steps}; give more")
    check(run, config, _early(resolve(TrainLora, laid_over(run.settings, [])), config))
    more = "--no-early-stop goes on" if early else f"--steps {2 * steps} would go on"
    after = f"{'early, ' * early}after {steps} step{'' if steps == 1 else 's'}"
    return Note(f"{run.path}: has finished, {after}: {run.lora}; {more}")


def _as_many_images(resumed: Resumption, processes: int) -> Telling[Resumption]:
    """With other processes than before, batches are added up so that a step learns from as many images."""
    config, before = resumed.config, resumed.before
    split = [(one.batch_size, one.accumulate) for one in (config, before)]
    at_once = config.batch_size * processes
    if images_a_step(config, processes) == resumed.images or split[0] != split[1] or resumed.images % at_once:
        return resumed
    batches = resumed.images // at_once
    yield Note(f"resume: {batches} x {at_once} images a step, as many as before")
    return replace(resumed, config=config.model_copy(update={"accumulate": batches}))
