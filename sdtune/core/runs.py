"""The command `sdtune runs`: trainings in a folder, what came of them and what sets them apart."""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import psutil
from filelock import FileLock, Timeout

from sdtune.config import Runs
from sdtune.core.reports import Listed, Listing, Telling
from sdtune.core.toml_file import toml_of
from sdtune.errors import DataError, why

SETTINGS_BYTES = 2**20
TAIL_BYTES = 2**16  # of a file of lines, of which the last ones count
LETTERS = 40  # of a value that is told
LEFT_OUT = ("out", "resume", "allow_changes", "model", "steps", "data.folder", "dry_run", "probe", "stop.minutes")
"""settings that have a column of their own, or say nothing of what was trained"""
TABLES_LEFT_OUT = ("save", "samples", "track", "limits", "cache")
"""these likewise"""
LOCK = ".lock"


@dataclass(frozen=True)
class _Found:
    """A run with its settings."""

    run: Listed
    settings: Mapping[str, Any]
    """{"optimizer.lr": 1e-4}"""


def runs(config: Runs) -> Telling[None]:
    """Lists the runs in a folder, or the run that it is; of each it reads little, however long it was."""
    folder = config.folder
    try:
        folders = [folder] if _is_run(folder) else [path for path in _inside(folder) if _is_run(path)]
    except FileNotFoundError:
        if "folder" not in config.model_fields_set:  # nothing was trained here yet
            yield Listing(folder, ())
            return
        raise DataError(f"{folder}: no such folder; give one of runs, or begin with sdtune train-lora") from None
    except NotADirectoryError:
        raise DataError(f"{folder}: is no folder; give one that holds runs") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: cannot be read ({why(error, 'folder')}); give another folder") from None
    found = sorted((_look(path) for path in folders), key=lambda one: (one.run.changed, str(one.run.path)))
    yield Listing(folder, tuple(_set_apart(found)))


def _inside(folder: Path) -> list[Path]:
    return [folder / entry.name for entry in os.scandir(folder) if _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _is_run(folder: Path) -> bool:
    return any(os.path.lexists(folder / name) for name in ("run.toml", "metrics.jsonl", "ended.json"))


def _look(path: Path) -> _Found:
    """What the files of a run tell; one that cannot be read leaves its part unknown."""
    problems: list[str] = []
    settings = _settings(path / "run.toml", problems)
    ended = _ended(path / "ended.json", problems)
    last = next(_last_rows(path / "metrics.jsonl", problems), {})
    checks = list(_last_rows(path / "validation.jsonl", problems))
    step = _whole(ended.get("steps")) or _whole(last.get("number")) or 0
    of = _whole(last.get("of")) or _whole(settings.get("steps")) or 0
    best, held_out = _best(ended, checks)
    lora = _lora(path)
    state = _state(path, ended, step, of, lora)
    listed = Listed(
        path=path,
        state="broken" if problems and not settings else state,
        step=step,
        of=of,
        model=_short(PurePath(str(settings.get("model", ""))).name),
        held_out=held_out,
        best=best,
        lora=lora,
        changed=_changed(path),
        apart={},
        problem=problems[0] if problems else None,
    )
    return _Found(listed, settings)


def _state(path: Path, ended: Mapping[str, Any], step: int, of: int, lora: Path | None) -> str:
    if _is_locked(path):
        return "at work"
    if ended:
        return "early stop" if ended.get("why") == "early" else "finished"
    if not step:
        return "empty"
    if step == of and lora:
        return "finished"
    return "stopped" if lora or os.path.lexists(path / "checkpoints" / "latest") else "failed"


def _is_locked(path: Path) -> bool:
    """Whether a training holds the folder, looked at so that none which begins just now is kept from it."""
    file = path / LOCK
    try:
        holder = int(_read(file, 100))
        if not psutil.pid_exists(holder):
            return False
    except PermissionError:  # Windows, where what is locked cannot be read
        return os.name == "nt"
    except (OSError, ValueError, OverflowError):
        return False
    lock = FileLock(file)  # another program may have got the number of one that was killed
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


def _best(ended: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> tuple[int | None, float | None]:
    """The step with the least held-out loss, and that relative to the base's; the newest comes first."""
    told = [ended.get("best"), *(check.get("best") for check in checks[:1])]
    best = next((step for one in told if (step := _whole(one)) is not None), None)
    for check in checks:
        measure = check.get("held_out")
        relative = measure.get("relative") if isinstance(measure, dict) else None
        if best and _whole(check.get("step")) == best and isinstance(relative, float) and math.isfinite(relative):
            return best, float(relative)
    return best, None


def _lora(path: Path) -> Path | None:
    """The best, else the last, else that of the latest step."""
    with contextlib.suppress(OSError):
        files = sorted(one for one in path.glob("*.safetensors") if not one.name.startswith("."))
        ranked = sorted(files, key=lambda one: (one.stem.endswith("-best"), "-step-" not in one.stem))
        return ranked[-1] if ranked else None
    return None


def _changed(path: Path) -> float:
    """Of its own files: a picture or a note that somebody adds is no news of the run."""
    times = []
    for name in ("run.toml", "metrics.jsonl", "ended.json"):
        with contextlib.suppress(OSError):
            times.append((path / name).stat().st_mtime)
    return max(times, default=0.0)


def _settings(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        read = toml_of(_read(path, SETTINGS_BYTES))
        return dict(_flat("", read))
    except FileNotFoundError:
        problems.append(f"{path.name} is missing")
    except (OSError, ValueError, RecursionError):
        problems.append(f"{path.name} cannot be read")
    return {}


def _ended(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        read = json.loads(_read(path, SETTINGS_BYTES))
        if isinstance(read, dict):
            return read
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        pass
    problems.append(f"{path.name} cannot be read")
    return {}


def _last_rows(path: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """The last JSON objects of a file, the newest first; half-written lines are passed over."""
    try:
        end = _read(path, TAIL_BYTES, from_end=True)
    except FileNotFoundError:
        return
    except OSError:
        problems.append(f"{path.name} cannot be read")
        return
    for line in reversed(end.splitlines()):
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def _read(path: Path, most: int, *, from_end: bool = False) -> bytes:
    """A regular file, up to so many bytes; a pipe or the like would never end."""
    if not _is_file(path):
        raise OSError("is no file") if os.path.lexists(path) else FileNotFoundError(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most and not from_end:
            raise OSError("too large")
        file.seek(max(0, size - most))
        return file.read(most)


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISREG(path.stat().st_mode)
    return False


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _flat(f"{path}.{name}" if path else name, one)
    else:
        yield path, value


def _set_apart(found: Sequence[_Found]) -> Iterator[Listed]:
    """Each run with the settings that most others have otherwise; of equally many the earliest counts as usual."""
    counts: dict[str, Counter[str]] = {}
    read = [{name: _told(value) for name, value in one.settings.items()} for one in found]
    known = [one for one in read if one]
    for name in {name for one in known for name in one}:
        counts[name] = Counter(one.get(name, "") for one in known)
    usual = {name: count.most_common(1)[0][0] for name, count in counts.items()}
    short = _short_names(usual)
    for one, settings in zip(found, read, strict=True):
        apart = {
            short[name]: value
            for name, value in settings.items()
            if value != usual[name] and not _left_out(name) and not _of_another_kind(name, settings, usual)
        }
        yield replace(one.run, apart=apart)


def _left_out(name: str) -> bool:
    return name in LEFT_OUT or name.partition(".")[0] in TABLES_LEFT_OUT


def _of_another_kind(name: str, settings: Mapping[str, str], usual: Mapping[str, str]) -> bool:
    """Whether a setting belongs to a kind that the usual run has not: the kind says it all."""
    kind = f"{name.rpartition('.')[0]}.kind"
    return name != kind and settings.get(kind, "") != usual.get(kind, "") and not usual[name]


def _short_names(names: Mapping[str, object]) -> dict[str, str]:
    """optimizer.lr is lr, where no other setting ends so; optimizer.kind is optimizer."""
    lasts = Counter(name.rpartition(".")[2] for name in names)
    return {
        name: name.removesuffix(".kind")
        if name.endswith(".kind")
        else name.rpartition(".")[2]
        if lasts[name.rpartition(".")[2]] == 1
        else name
        for name in names
    }


def _told(value: object) -> str:
    return _short(
        value
        if isinstance(value, str)
        else f"{value:g}"
        if isinstance(value, float)
        else json.dumps(value, default=str)
    )


def _short(text: str) -> str:
    return text if len(text) <= LETTERS else text[: LETTERS - 3] + "..."


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
