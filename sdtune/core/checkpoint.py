"""Checkpoints: states of a training on disk, whole or not at all, and back bit for bit.

step-000400/             what is known after so many steps (checkpoint_folder.py)
latest                   the name of the newest one
step-000400.tmp-1234/    one that a process is writing or removing, or all that a killed one left of it
step-000400.old-1234/    what stood in its place, until the new one does
quarantine/              those that turned out to be broken

Whoever saves or reads holds the run's lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdtune.core import disk
from sdtune.core.checkpoint_folder import Broken, as_files, holds, is_name, is_whole, name_of, read, step_of, unreadable
from sdtune.core.run_folder import QUARANTINE
from sdtune.core.state import State
from sdtune.errors import FULL, OutputError, Paused, SdtuneError, TrainingError

LATEST = "latest"
ROOM = 2
"""times the bytes of a checkpoint must be free"""
_OLD = re.compile(r"(step-\d{6,15})\.old-\d+")
_TEMPORARY = re.compile(rf"(step-\d{{6,15}}|{LATEST})\.tmp-\d+")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run."""

    folder: Path
    """<run>/checkpoints; made where it is needed"""

    def save(self, state: State, keep: int) -> Path:
        """The folder in which the state now lies; the newest `keep` stay, of which this is one.

        Paused where the disk is full, TrainingError where it cannot be written or holds what is no number: then what
        was there before is there still.
        """
        files = as_files(state)
        target = self.folder / name_of(state.step)
        try:
            disk.make_folder(self.folder)
            self._put_back()
            try:
                self._put(target, files)
            except OSError as error:
                if error.errno not in FULL or not self._spare():
                    raise
                self._put(target, files)
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._put_back()
            with contextlib.suppress(OSError):
                self._sweep()
            if not isinstance(error, OSError):
                raise
            raise self._unsaved(state.step, files, error) from None
        with contextlib.suppress(OSError):  # it is saved, and what is too much goes the next time
            order = sorted(self._names(), key=lambda name: (step_of(name) <= state.step, step_of(name)))
            self._drop(order[: -max(1, keep)])  # later ones first: those of a past that was given up
            self._drop_old(target.name)
            self._sweep()
        return target

    def newest(self) -> tuple[State | None, list[str]]:
        """The newest whole checkpoint, and a line for each newer one that is broken and now lies in quarantine.

        InputError for one that a newer sdtune has made, or that this user may not read.
        """
        try:
            return self._newest()
        except OSError as error:
            raise unreadable(self.folder, error) from None

    def _newest(self) -> tuple[State | None, list[str]]:
        lines, stuck = [], set()
        with contextlib.suppress(OSError):
            self._put_back()
        if os.path.lexists(self.folder / LATEST) and self._latest() not in self._names():
            lines.append(f"{self.folder / LATEST}: names no checkpoint that is there; the highest step is taken")
        while left := [name for name in self._newest_first() if name not in stuck]:
            try:
                state = read(self.folder / left[0])
            except Broken as broken:
                moved = self._set_aside(left[0])
                if moved is None:
                    stuck.add(left[0])
                lines.append(f"{broken}; {f'moved to {moved}' if moved else 'it cannot be moved away'}")
                with contextlib.suppress(OSError):
                    self._put_back()
            else:
                with contextlib.suppress(OSError):  # where nothing can be written, saving will tell
                    self._name_latest(left[0])
                return state, lines
        return None, lines

    def clean(self) -> list[str]:
        """Remove what processes that are gone have left unfinished; a line each."""
        try:
            self._put_back()
            for name in dict(self._old()):
                if is_whole(self.folder / name):
                    self._drop_old(name)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written ({error.strerror}); check its permissions") from None
        return [f"{path}: left unfinished by a process that is gone; removed" for path in self._sweep()]

    def _put(self, target: Path, files: Mapping[str, bytes]) -> None:
        """The files stand in the folder `target`, and `latest` names it."""
        if not holds(target, files):
            if disk.free(self.folder) < ROOM * _size(files):
                raise OSError(FULL[0], os.strerror(FULL[0]))
            temporary = self._temporary(target.name)
            disk.remove(temporary)
            disk.make_folder(temporary)
            for name, data in files.items():
                disk.write(temporary / name, data)
            disk.sync_folder(temporary)
            if os.path.lexists(target):  # the same step with another past
                disk.move(target, self.folder / f"{target.name}.old-{os.getpid()}")
            disk.move(temporary, target)
        self._name_latest(target.name)

    def _name_latest(self, name: str) -> None:
        if self._latest() != name:
            disk.replace(self.folder / LATEST, f"{name}\n".encode(), self._temporary(LATEST))

    def _latest(self) -> str | None:
        """What `latest` says, where it says a checkpoint's name."""
        try:
            name = disk.read(self.folder / LATEST, 100).decode("ascii").strip()
        except (OSError, ValueError):
            return None
        return name if is_name(name) else None

    def _names(self) -> list[str]:
        """All that are called checkpoints, by step."""
        return sorted((name for name in self._listed() if is_name(name)), key=step_of)

    def _listed(self) -> list[str]:
        try:
            return os.listdir(self.folder)
        except FileNotFoundError:
            return []

    def _newest_first(self) -> list[str]:
        """That which `latest` names, then by step."""
        latest = self._latest()
        return sorted(self._names(), key=lambda name: (name == latest, step_of(name)), reverse=True)

    def _old(self) -> list[tuple[str, Path]]:
        """What stood in a checkpoint's place: its name, and where it lies."""
        return [(found[1], self.folder / found[0]) for name in self._listed() if (found := _OLD.fullmatch(name))]

    def _put_back(self) -> None:
        """A checkpoint that was to be replaced, and was not, takes its place again."""
        for name, path in self._old():
            if not os.path.lexists(self.folder / name):
                disk.move(path, self.folder / name)

    def _drop_old(self, name: str) -> None:
        """What stood in its place is a temporary from now on."""
        for of, path in self._old():
            if of == name:
                disk.remove(self._temporary(name))
                disk.move(path, self._temporary(name))

    def _drop(self, names: list[str]) -> None:
        """Remove checkpoints, of which none is ever half there."""
        for name in names:
            disk.remove(self._temporary(name))
            disk.move(self.folder / name, self._temporary(name))
            disk.remove(self._temporary(name))

    def _spare(self) -> bool:
        """Whether room was made, by removing all that are older than the newest whole one."""
        self._sweep()
        order = self._newest_first()
        while order and not is_whole(self.folder / order.pop(0)):
            pass
        self._drop(order)
        return bool(order)

    def _sweep(self) -> list[Path]:
        """Remove temporaries, whose they may be, as the lock is ours; told are those that were there."""
        removed = []
        for name in sorted(self._listed()):
            if _TEMPORARY.fullmatch(name):
                with contextlib.suppress(OSError):
                    disk.remove(self.folder / name)
                    removed.append(self.folder / name)
        return removed

    def _temporary(self, name: str) -> Path:
        return self.folder / f"{name}.tmp-{os.getpid()}"

    def _set_aside(self, name: str) -> Path | None:
        """Where a broken one now lies in quarantine; None where it cannot be moved."""
        places = (self.folder / QUARANTINE / f"{name}-{number}" for number in range(1, 10**6))
        place = next(place for place in places if not os.path.lexists(place))
        try:
            disk.make_folder(place.parent)
            disk.move(self.folder / name, place)
        except OSError:
            return None
        return place

    def _unsaved(self, step: int, files: Mapping[str, bytes], error: OSError) -> SdtuneError:
        try:
            names = self._newest_first()
        except OSError:
            names = []
        stays = f"that of step {step_of(names[0])} is there" if names else "there is none that is older"
        if error.errno not in FULL:
            return TrainingError(
                f"{self.folder}: step {step} could not be saved ({error.strerror}); {stays}; "
                "see to the disk and its permissions, then go on with --resume"
            )
        needed = ROOM * _size(files)
        now = ""
        with contextlib.suppress(OSError):
            free = disk.free(self.folder)
            now = f" and {free >> 20} MB are free" if free < needed else ""
        full = "this user's share of the disk is used up" if error.errno == errno.EDQUOT else "the disk is full"
        return Paused(
            f"{self.folder}: {full}, so step {step} is not saved: {-(-needed >> 20)} MB are needed{now}; {stays}; "
            "free room on this disk, then run the same command with --resume"
        )


def _size(files: Mapping[str, bytes]) -> int:
    return sum(map(len, files.values()))
