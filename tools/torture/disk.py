"""Disks that fail, processes that are killed and power that is cut while a checkpoint is saved: what was there stays.

Every call to the system that a save makes is counted, and each is let fail in turn.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sdtune.core import checkpoint, checkpoint_folder, disk
from sdtune.core.checkpoint import Checkpoints
from sdtune.core.state import State
from sdtune.errors import SdtuneError
from tools.torture.outcome import Outcome, Tally

WRITING = ("open", "write", "fsync", "close", "replace", "mkdir", "unlink", "rmdir")
READING = ("read", "fstat", "lstat", "listdir")
FULL = {"no space": errno.ENOSPC, "no quota": errno.EDQUOT}
OTHER = {"input/output error": errno.EIO, "not permitted": errno.EACCES, "read-only": errno.EROFS}
LONGEST = 0.06  # seconds until a process is killed: some ten saves

Fault = Callable[["Shim", str, Callable[..., Any], tuple[Any, ...]], Any]


class Cut(BaseException):
    """The power is off."""


@dataclass
class Shim:
    """`os` for the code that keeps checkpoints, with a fault at the call number `at` (from 0), or from it on."""

    fault: Fault | None = None
    at: int = 0
    lasting: bool = False
    count: int = 0
    names: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in WRITING + READING:
            return real

        def call(*given: Any) -> Any:
            now, self.count = self.count, self.count + 1
            self.names.append(name)
            if self.fault and (now == self.at or (self.lasting and now > self.at)):
                return self.fault(self, name, real, given)
            return self.made(name, real, given)

        return call

    def made(self, _: str, real: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        """The call as the system answers it."""
        return real(*given)


@contextlib.contextmanager
def instead(shim: Shim) -> Iterator[Shim]:
    """Meanwhile the code that keeps checkpoints asks this one."""
    modules: tuple[Any, ...] = (disk, checkpoint, checkpoint_folder)
    for module in modules:
        module.os = shim
    try:
        yield shim
    finally:
        for module in modules:
            module.os = os


def failing(number: int, *, done: bool = False) -> Fault:
    """A call that fails; `done`: after all, as a network disk may say of what it has done."""

    def fault(shim: Shim, name: str, real: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        if name in READING and number in (*FULL.values(), errno.EROFS):
            return shim.made(name, real, given)
        if name == "open" and number in (*FULL.values(), errno.EROFS) and not given[1] & os.O_CREAT:
            return shim.made(name, real, given)
        if done or name == "close":  # Linux closes a file whatever it says
            result = shim.made(name, real, given)
            if name == "open":
                os.close(result)
        raise OSError(number, os.strerror(number))

    return fault


def _short(shim: Shim, name: str, real: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    if name == "write" and len(given[1]) > 1:
        given = (given[0], given[1][: len(given[1]) // 2])
    return shim.made(name, real, given)


def _half_and_full(shim: Shim, name: str, real: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    """A disk that is full in the midst of a write, and from then on."""
    if name == "write" and shim.count - 1 == shim.at:
        return _short(shim, name, real, given)
    return failing(errno.ENOSPC)(shim, name, real, given)


def _killed(shim: Shim, name: str, real: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    """After the call, or half of what it writes."""
    try:
        _short(shim, name, real, given)
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


def _killed_before(*_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def state_of(step: int, past: int = 0) -> State:
    """The state that is saved after so many steps; another past, other numbers."""
    generator = torch.Generator().manual_seed(1000 * past + step)
    weights = {f"unet.block.{n}.lora_A.default.weight": torch.randn(4, 8, generator=generator) for n in range(3)}
    moments = {f"{name}/exp_avg": torch.randint(0, 256, (32,), generator=generator).byte() for name in weights}
    return State(step, {"adapter": weights, "optimizer": moments}, {"past": past, "loss": step / 3})


def same(one: State | None, other: State | None) -> bool:
    """Whether two states are the same, bit for bit."""
    if one is None or other is None:
        return one is other
    return (one.step, dict(one.told), _bits(one)) == (other.step, dict(other.told), _bits(other))


def _bits(state: State) -> dict[tuple[str, str], tuple[torch.dtype, torch.Size, bytes]]:
    return {
        (file, name): (value.dtype, value.shape, value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for file, tensors in state.tensors.items()
        for name, value in tensors.items()
    }


@dataclass(frozen=True)
class Scene:
    """A save among what was there before it."""

    name: str
    before: tuple[State, ...]
    saved: State
    keep: int = 2

    def laid(self, folder: Path) -> Checkpoints:
        """A new folder with what was there before."""
        shutil.rmtree(folder, ignore_errors=True)
        checkpoints = Checkpoints(folder / "checkpoints")
        for state in self.before:
            checkpoints.save(state, self.keep)
        return checkpoints

    @property
    def old(self) -> State | None:
        """The newest before the save."""
        return self.before[-1] if self.before else None


SCENES = (
    Scene("the first", (), state_of(1)),
    Scene("the third, the first goes", (state_of(1), state_of(2)), state_of(3)),
    Scene("the same step with another past", (state_of(1), state_of(2)), state_of(2, past=1)),
    Scene("the only step with another past", (state_of(2),), state_of(2, past=1), keep=1),
    Scene("an earlier step", (state_of(2), state_of(4)), state_of(3, past=1)),
    Scene("the same again", (state_of(1), state_of(2)), state_of(2)),
)


def faults(folder: Path, every: int = 1) -> Outcome:
    """Each call of a save, or each so-many-th, fails in each way: the newest is then the old or the new one, whole."""
    tally = Tally("R4", "faults at every file operation of a save")
    kinds: dict[str, tuple[Fault, bool, int]] = {}
    for name, number in {**FULL, **OTHER}.items():
        code = 75 if name in FULL else 1
        kinds |= {name: (failing(number), False, code), f"{name}, for good": (failing(number), True, code)}
    kinds["done, and told as failed"] = (failing(errno.EIO, done=True), False, 1)
    kinds["short write"] = (_short, False, 0)
    kinds["short write, then no space"] = (_half_and_full, True, 75)
    turn = 0
    for scene in SCENES:
        for kind, (fault, lasting, code) in kinds.items():
            for at in range(_calls(scene, folder)):
                turn += 1
                if turn % every:
                    continue
                checkpoints = scene.laid(folder)
                with instead(Shim(fault, at, lasting)) as shim:
                    ended = _ended(checkpoints, scene)
                where = f"{scene.name}, {kind} at {at} ({(shim.names + ['none'] * at)[at]})"
                tally.count(*_wrong_after(checkpoints, scene, ended, (0, code), where))
    return tally.outcome()


def power_cuts(folder: Path, every: int = 1) -> Outcome:
    """The power is cut before each call; what was not flushed is lost: what was written alone, or names, too."""
    tally = Tally("R4", "power cut before every file operation of a save")
    turn = 0
    for scene in SCENES:
        for names_too in (False, True):
            for at in range(_calls(scene, folder) + 1):
                turn += 1
                if turn % every:
                    continue
                checkpoints = scene.laid(folder)
                with instead(Disk(_cut, at, True)) as shim:
                    ended = None
                    with contextlib.suppress(Cut):
                        ended = _ended(checkpoints, scene)
                assert isinstance(shim, Disk)
                shim.lose(names_too)
                where = f"{scene.name}, power cut at {at}, {'names lost' if names_too else 'names kept'}"
                tally.count(*_wrong_after(checkpoints, scene, ended, (None, 0), where))
    return tally.outcome()


def kills(folder: Path, every: int = 1, at_random: int = 150) -> Outcome:
    """SIGKILL at each call of a save, and at random moments of a process that saves without end."""
    tally = Tally("R1", "SIGKILL while saving")
    turn = 0
    for scene in SCENES:
        for fault in (_killed, _killed_before):
            for at in range(_calls(scene, folder)):
                turn += 1
                if turn % every:
                    continue
                checkpoints = scene.laid(folder)

                def save(
                    checkpoints: Checkpoints = checkpoints, scene: Scene = scene, fault: Fault = fault, at: int = at
                ) -> None:
                    with instead(Shim(fault, at)):
                        checkpoints.save(scene.saved, scene.keep)

                child = _forked(save)
                _, status = os.waitpid(child, 0)
                where = f"{scene.name}, killed at {at}"
                unkilled = [] if os.WIFSIGNALED(status) else [f"{where}: it was not killed"]
                tally.count(*unkilled, *_wrong_after(checkpoints, scene, None, (None,), where))
    dice = random.Random(0)
    for number in range(at_random):
        tally.count(*_killed_at_random(folder, dice.uniform(0, LONGEST), f"killed at random ({number})"))
    return tally.outcome()


def _killed_at_random(folder: Path, seconds: float, where: str) -> list[str]:
    shutil.rmtree(folder, ignore_errors=True)
    checkpoints = Checkpoints(folder / "checkpoints")
    hear, say = os.pipe()

    def save() -> None:
        for step in range(1, 10**6):
            checkpoints.save(state_of(step), 2)
            os.write(say, step.to_bytes(4))

    child = _forked(save)
    os.close(say)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(hear, "rb") as heard:
        steps = heard.read()
    finished = int.from_bytes(steps[-4:])
    found, lines = checkpoints.newest()
    checkpoints.clean()
    step = found.step if found else 0
    wrong = [f"{where}: {line}" for line in lines]
    if step < finished:
        wrong.append(f"{where}: step {finished} was saved, and {step} is found")
    if found and not same(found, state_of(step)):
        wrong.append(f"{where}: step {step} is not as it was saved")
    return [*wrong, *(f"{where}: {name} is left" for name in _strays(checkpoints))]


def _forked(work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(0)


def _calls(scene: Scene, folder: Path) -> int:
    checkpoints = scene.laid(folder)
    with instead(Shim()) as shim:
        checkpoints.save(scene.saved, scene.keep)
    return shim.count


def _ended(checkpoints: Checkpoints, scene: Scene) -> int | str:
    """The exit code of the save, or what is wrong with its end."""
    try:
        checkpoints.save(scene.saved, scene.keep)
    except SdtuneError as error:
        told = str(error)
        return error.exit_code if "checkpoints" in told and "\n" not in told else f"it tells {told!r}"
    except Exception as error:  # what users would see as a traceback
        return f"it ends with {error!r}"
    return 0


def _wrong_after(
    checkpoints: Checkpoints, scene: Scene, ended: int | str | None, allowed: tuple[int | None, ...], where: str
) -> list[str]:
    """What is not as it should be: `ended` is the exit code, None where there was none."""
    wrong = []
    if ended not in allowed:
        wrong.append(f"exit {ended}")
    latest = checkpoints.folder / "latest"
    named = latest.read_text().strip() if latest.exists() else None
    if named is not None and not any(
        name.split(".old")[0] == named for name in os.listdir(checkpoints.folder) if ".tmp" not in name
    ):
        wrong.append(f"latest names {named!r}")
    found, lines = checkpoints.newest()
    wrong += lines
    if not (same(found, scene.saved) or (ended != 0 and same(found, scene.old))):
        wrong.append(f"found is {found and (found.step, found.told)}")
    checkpoints.clean()
    for path in checkpoints.folder.glob("step-*"):
        if checkpoint_folder.is_name(path.name) and not checkpoint_folder.is_whole(path):
            wrong.append(f"{path.name} counts, and is broken")
    wrong += [f"{name} is left" for name in _strays(checkpoints)]
    on = state_of(7)
    checkpoints.save(on, scene.keep)
    if not same(checkpoints.newest()[0], on):
        wrong.append("it does not go on")
    return [f"{where}: {one}" for one in wrong]


def _strays(checkpoints: Checkpoints) -> list[str]:
    names = os.listdir(checkpoints.folder) if checkpoints.folder.exists() else []
    return [name for name in names if not checkpoint_folder.is_name(name) and name != "latest"]


def _cut(*_: Any) -> Any:
    raise Cut


@dataclass
class Disk(Shim):
    """A disk that keeps only what was flushed to it: a file's bytes by its own fsync, names by their folder's."""

    paths: dict[int, Path] = field(default_factory=dict)
    """of what is open"""
    unflushed: dict[int, int] = field(default_factory=dict)
    """of files that were written: {inode: a handle of our own}"""
    made_names: list[Path] = field(default_factory=list)
    moved: list[tuple[Path, Path, bytes | None]] = field(default_factory=list)
    """from where, to where, and the bytes of the file that was there"""

    def made(self, name: str, real: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        """The call, and what of it is not yet certain."""
        before = None
        if name == "replace" and Path(given[1]).is_file():
            before = Path(given[1]).read_bytes()
        new = name == "open" and bool(given[1] & os.O_CREAT)
        result = real(*given)
        if name == "open":
            self.paths[result] = Path(given[0])
            if new:
                self.made_names.append(Path(given[0]))
                self.unflushed[os.fstat(result).st_ino] = os.dup(result)
        elif name == "close":
            self.paths.pop(given[0], None)
        elif name == "mkdir":
            self.made_names.append(Path(given[0]))
        elif name == "fsync":
            self._flushed(self.paths[given[0]], os.fstat(given[0]).st_ino)
        elif name == "replace":
            source, target = Path(given[0]), Path(given[1])
            self.moved.append((source, target, before))
            self.made_names = [
                target / path.relative_to(source) if path.is_relative_to(source) and path != source else path
                for path in self.made_names
            ]
        return result

    def _flushed(self, path: Path, inode: int) -> None:
        if inode in self.unflushed:
            os.close(self.unflushed.pop(inode))
        self.made_names = [one for one in self.made_names if one.parent != path]
        self.moved = [one for one in self.moved if path not in (one[0].parent, one[1].parent)]

    def lose(self, names_too: bool) -> None:
        """The power comes back."""
        for handle in self.paths:
            os.close(handle)
        for handle in self.unflushed.values():
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            os.close(handle)
        if not names_too:
            return
        for path in sorted(self.made_names, reverse=True):
            if path.is_dir() and not any(path == target for _, target, _ in self.moved):
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()
        for source, target, before in reversed(self.moved):
            if target.exists():
                os.replace(target, source)
            if before is not None:
                target.write_bytes(before)
