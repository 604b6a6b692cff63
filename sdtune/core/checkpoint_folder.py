"""One checkpoint: the files that a state becomes, and all that is checked of them on the way back.

adapter.safetensors     and optimizer, ema: the tensors of a state, a file each
state.json              the step, and what is told beside the tensors
manifest.json           {file: {"bytes", "sha256"}}, written last: without it, or with another, the rest counts nothing

There is no pickle in it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sdtune import __version__
from sdtune.core import disk
from sdtune.core.header import read_header
from sdtune.core.state import State
from sdtune.errors import InputError, TrainingError

FORMAT = 1
"""of state.json; the manifest has the same form in all of them"""
MANIFEST = "manifest.json"
STATE = "state.json"
MOST_BYTES = 2**36
"""of one file; Adam's moments of a whole SDXL take 2^34"""
JSON_BYTES = 2**24
DEPTH = 32
"""of tables in tables, in state.json"""
_TENSORS = ".safetensors"
_STEP = re.compile(r"step-(\d{6,15})")
_FILE = re.compile(r"[a-z0-9_]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9_.\-/]{1,512}")
_PASSING = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""what says nothing of the files themselves"""


class Broken(InputError):  # noqa: N818 (as its siblings: of what it is, not that it is one)
    """A checkpoint is not as it was written."""


def read(folder: Path) -> State:
    """The state in the folder of a checkpoint, all of it checked; InputError where it is broken or too new."""
    try:
        data, manifest, listed = _data(folder)
    except OSError as error:
        if error.errno in _PASSING:
            raise unreadable(folder, error) from None
        raise Broken(f"{folder}: broken ({error.strerror})") from None
    for name, entry in listed.items():
        if entry != _told(data[name]):
            raise Broken(f"{folder}: {name} is not as it was written")
    if manifest != _json({name: _told(one) for name, one in sorted(data.items())}):
        raise Broken(f"{folder}: {MANIFEST} is not as it was written")
    told = _parsed(folder, STATE, data.get(STATE, b""))
    if type(told.get("format")) is not int or told["format"] < 1:
        raise Broken(f"{folder}: {STATE} does not tell its format")
    if told["format"] > FORMAT:
        raise InputError(
            f"{folder}: made by a newer sdtune ({str(told.get('sdtune'))[:20]!a}); update sdtune to go on from it, "
            "or move this folder away to go on from an older checkpoint"
        )
    files = sorted(data.keys() - {STATE})
    if type(told.get("step")) is not int or name_of(told["step"]) != folder.name:
        raise Broken(f"{folder}: {STATE} tells of another step")
    if told.get("files") != files or not isinstance(told.get("told"), dict):
        raise Broken(f"{folder}: {STATE} tells of other files")
    if wrong := _wrong(told["told"], "told"):
        raise Broken(f"{folder}: {wrong}")
    tensors = {name.removesuffix(_TENSORS): _tensors(folder / name, data[name]) for name in files}
    return State(told["step"], tensors, told["told"])


def as_files(state: State) -> dict[str, bytes]:
    """What a checkpoint consists of, the manifest last; TrainingError where a number is none."""
    for file, tensors in state.tensors.items():
        assert _FILE.fullmatch(file), f"{file} is no name for a file of tensors"
        for name, value in tensors.items():
            readable = _NAME.fullmatch(name) is not None and ".." not in name
            assert readable, f"{name} is no name that header.py would read back"
            if not _finite(value):
                raise TrainingError(_no_number(state.step, f"{name} ({file})"))
    if wrong := _wrong(state.told, "told"):
        raise TrainingError(_no_number(state.step, wrong))
    names = sorted(f"{file}{_TENSORS}" for file in state.tensors)
    files = {
        f"{file}{_TENSORS}": save({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()})
        for file, tensors in state.tensors.items()
    }
    files[STATE] = _json(
        {"format": FORMAT, "sdtune": __version__, "step": state.step, "files": names, "told": dict(state.told)}
    )
    return files | {MANIFEST: _json({name: _told(data) for name, data in sorted(files.items())})}


def holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Whether the folder holds these files and no other."""
    try:
        there = {name for name in os.listdir(folder) if not name.startswith(".")}
        return there == files.keys() and all(
            disk.read(folder / name, len(data)) == data for name, data in files.items()
        )
    except OSError:
        return False


def is_whole(folder: Path) -> bool:
    """Whether `read` would read it."""
    try:
        read(folder)
    except InputError:
        return False
    return True


def name_of(step: int) -> str:
    """What the folder of a checkpoint is called."""
    return f"step-{step:06d}"


def step_of(name: str) -> int:
    """The step in such a name."""
    return int(name.removeprefix("step-"))


def is_name(name: str) -> bool:
    """Whether a folder is called as a checkpoint is."""
    return _STEP.fullmatch(name) is not None and name_of(step_of(name)) == name


def unreadable(path: Path, error: OSError) -> InputError:
    """What is told where the system lets nobody look."""
    return InputError(f"{path}: cannot be read ({error.strerror}); check its permissions")


def _data(folder: Path) -> tuple[dict[str, bytes], bytes, dict[str, Any]]:
    """The files of a checkpoint but for its manifest, that, and what it says of them: both are of the same names."""
    if folder.is_symlink() or not folder.is_dir():
        raise Broken(f"{folder}: no folder")
    manifest = disk.read(folder / MANIFEST, JSON_BYTES)
    listed = _parsed(folder, MANIFEST, manifest)
    there = {name for name in os.listdir(folder) if not name.startswith(".")} - {MANIFEST}
    for name in sorted(there ^ listed.keys()):
        raise Broken(f"{folder}: {ascii(name)[1:-1][:100]} is {'not listed' if name in there else 'missing'}")
    for name in listed:
        if name != STATE and not (name.endswith(_TENSORS) and _FILE.fullmatch(name.removesuffix(_TENSORS))):
            raise Broken(f"{folder}: {ascii(name)[1:-1][:100]} does not belong to a checkpoint")
    return {name: disk.read(folder / name, MOST_BYTES) for name in listed}, manifest, listed


def _parsed(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data) if len(data) <= JSON_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Broken(f"{folder}: {name} is not as it was written")
    return found


def _tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        read_header(path, Broken)
    except Broken:
        raise Broken(f"{path}: its header is not as sdtune writes it") from None
    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, RuntimeError, KeyError, AssertionError) as problem:
        raise Broken(f"{path}: not as safetensors writes it ({type(problem).__name__})") from None
    for name, value in tensors.items():
        if not _finite(value):
            raise Broken(f"{path}: {name} holds what is no number")
    return tensors


def _no_number(step: int, what: str) -> str:
    return f"step {step} is not saved, as {what} holds what is no number: the training broke down; lower the rate"


def _finite(value: Tensor) -> bool:
    """Integers are; of 8-bit floats torch knows no test of its own."""
    if not (value.is_floating_point() or value.is_complex()):
        return True
    return bool(torch.isfinite(value.float() if value.element_size() == 1 else value).all())


def _wrong(value: object, where: str, depth: int = 0) -> str | None:
    """Where something is that state.json must not hold: no finite number, or too deep a table."""
    if depth > DEPTH or (isinstance(value, float) and not math.isfinite(value)):
        return ascii(where)[1:-1][:200]
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        assert all(isinstance(key, str) for key in value), f"{where}: JSON has no other keys than text"
        pairs = list(value.items())
    elif isinstance(value, list | tuple):
        pairs = list(enumerate(value))
    return next((told for key, one in pairs if (told := _wrong(one, f"{where}.{key}", depth + 1))), None)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode("ascii") + b"\n"


def _told(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
