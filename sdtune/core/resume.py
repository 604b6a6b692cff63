"""Resuming: which run goes on, whether it is still the same, and how equal it will be to one that was never stopped."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdtune.config import OF_ONE_START, Tables, TrainLora, laid_over, resolve
from sdtune.core.data_list import Listed, data_changes, listed_in
from sdtune.core.lock import lock
from sdtune.core.reports import Note, Telling
from sdtune.core.run_folder import RunFolder, name_for, newest
from sdtune.earlier import FLAG, NEWEST, RUN_SETTINGS, settings_in
from sdtune.errors import ConfigError

FREE = ("steps", "passes", "save", "samples", "track", "stop", "limits", "cache", "memory.threads", "data.folder")
"""settings that may change without a word, by the front of their paths; images are told apart by what they hold"""
FIXED = ("network.kind", "network.rank", "network.layers", "optimizer.kind", "text.train", "token")
"""settings that the checkpoint is made for"""
SHOWN = 60  # characters of a value


@dataclass(frozen=True)
class Change:
    """A setting that is another than it was."""

    path: str
    """optimizer.lr"""
    before: Any
    """as JSON has it, None where there was none"""
    after: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.before)} in the run, now {_shown(self.after)}"


def find(config: TrainLora) -> Telling[RunFolder | None]:
    """The run to go on with; None, and a Note, where the newest one is asked for and there is none."""
    if config.resume is None:
        return None
    if config.dry_run:
        raise ConfigError("--dry-run tells of a run that begins; leave --resume away")
    if config.resume != NEWEST:
        run = _named(config.resume)
        if config.out and os.path.realpath(config.out) != os.path.realpath(run.path):
            raise ConfigError(f"--out: {config.out}, but {run.path} goes on where it is; leave --out away")
        return run
    name = name_for(config.data.all_folders[0].path)
    place = config.out or newest(name)
    if place is None:
        yield Note(f"resume: no run of {name} yet, so a new one begins")
        return None
    if not (place / RUN_SETTINGS).is_file():
        yield Note(f"resume: no run in {place} yet, so a new one begins")
        return None
    run = RunFolder.at(place)
    if not run.has_learned and not run.ended.is_file():
        if place == config.out:
            with lock(place):
                if not run.clear():
                    raise ConfigError(
                        f"{place}: holds files of a run, but no checkpoint to go on from; give another --out"
                    )
        yield Note(f"resume: nothing was learned in {place} yet, so a new one begins")
        return None
    return run


def continued(config: TrainLora, run: RunFolder) -> TrainLora:
    """The run's settings, and over them those that were given now."""
    return resolve(TrainLora, laid_over(run.settings, [_given(config)])).model_copy(
        update={name: getattr(config, name) for name in OF_ONE_START}
    )


def agreed(run: RunFolder, before: TrainLora, config: TrainLora, data: Tables) -> tuple[str, ...]:
    """What is other than it was before, a line each; raises ConfigError where that cannot be, or was not allowed.

    `before` are the settings of the checkpoint, `config` is settled, and `data` of data_list.
    """
    found = changes(before, config)
    images = data_changes(listed_in(run.data), Listed.of(data))
    check(run, config, found, images)
    return (*map(str, found), *images)


def check(run: RunFolder, config: TrainLora, found: Sequence[Change], images: Sequence[str] = ()) -> None:
    """Stop at changes that cannot be, or that were not allowed."""
    never = [change for change in found if fixed(change)]
    if never:
        remedy = f"{run.path}: its checkpoints do not fit that; leave those flags out, or begin a new run"
        raise ConfigError(*map(str, never), remedy)
    refused = [*(str(change) for change in found if not free(change)), *images]
    if refused and not config.allow_changes:
        raise ConfigError(
            *refused,
            f"{run.path}: with other settings or data it would not end as it began; leave those flags out, put the "
            "data back, allow it with --allow-changes, or begin a new run",
        )


def changes(before: TrainLora, now: TrainLora) -> list[Change]:
    """Every setting of a run that differs, but for those of one start alone."""
    old, new = (_told(one) for one in (before, now))
    return list(_changes(old, new))


def _told(config: TrainLora) -> Tables:
    """Its settings; of folders but what they count, as images are told apart by what they hold."""
    told = config.model_dump(mode="json", exclude=set(OF_ONE_START))
    for row in told["data"]["folders"]:
        del row["path"]
    if Path(config.model).exists():
        told["model"] = os.path.realpath(config.model)
    return told


def free(change: Change) -> bool:
    """Whether it may change without a word."""
    return _under(change.path, FREE)


def fixed(change: Change) -> bool:
    """Whether what was learned would not fit."""
    return _under(change.path, FIXED)


def guarantee(config: TrainLora, device: torch.device, *, same: bool = True, as_begun: bool = True) -> str:
    """How equal a resumed run is to one that was never stopped.

    Not `same`: it goes on in other circumstances; not `as_begun`: with other settings or data.
    """
    if not as_begun:
        return "resume: with other settings or data than it began with, so not as if it had never stopped"
    if not same:
        return (
            "resume: order-identical (the machine, its threads or the split of a step are others than they were, so "
            "that the last digits may differ)"
        )
    if device.type == "cpu" or config.memory.deterministic:
        return "resume: bit-identical (stopped and gone on with, this run ends in the same bytes)"
    return (
        "resume: order-identical (same data, noise and order; the last digits may differ on this card; "
        "--deterministic makes them equal)"
    )


def command(run: RunFolder) -> str:
    """What goes on with a run, as a shell takes it."""
    path = str(run.path)
    return f"sdtune train-lora --resume {shlex.quote(f'./{path}' if path.startswith('-') or path == NEWEST else path)}"


def _named(named: str) -> RunFolder:
    """The run in a folder; raises ConfigError where there is none to go on with."""
    run = RunFolder.at(settings_in(named).parent)
    if not run.has_learned and not run.ended.is_file():
        told = "holds no checkpoint" if run.lora.is_file() else "has learned nothing yet"
        again = f"sdtune train-lora -p {shlex.quote(str(run.settings))}"
        raise ConfigError(f"{FLAG}: {named} {told}; begin a new run: {again}")
    return run


def _given(config: TrainLora) -> Tables:
    return config.model_dump(exclude_unset=True, exclude=set(OF_ONE_START))


def _changes(old: Any, new: Any, above: str = "") -> Iterator[Change]:
    if _rows(old) and _rows(new) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True), 1):
            yield from _changes(one, other, f"{above}.{number}")
        return
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old != new:
            yield Change(above, old, new)
        return
    if old.get("kind") != new.get("kind"):  # the settings of another kind are others altogether
        yield Change(f"{above}.kind", old.get("kind"), new.get("kind"))
        return
    for name in dict.fromkeys((*old, *new)):
        yield from _changes(old.get(name), new.get(name), f"{above}.{name}" if above else name)


def _rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _under(path: str, fronts: tuple[str, ...]) -> bool:
    return any(path == front or path.startswith(f"{front}.") for front in fronts)


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    if _rows(value):
        return f"{len(value)} tables"
    if isinstance(value, bool):
        return "on" if value else "off"
    text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value) or "empty"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
