"""The folder beside --out in which a merged model is made, and what is done about one that a killed merge has left.

.cats-sdxl-1f3a5b7c.merging/
    lock                    held by the process that works in it
    new, new.safetensors    the model in the making, a folder or a file
    old                     the folder that was at --out, between the two renames that put the new one there
    gone                    the same afterwards, while it is removed
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sdtune.core import disk
from sdtune.errors import OutputError, SdtuneError

LOCK, NEW, OLD, GONE = "lock", "new", "old", "gone"
_OURS = re.compile(rf"{NEW}|{NEW}\.safetensors|\.{NEW}-[a-z0-9_]{{8}}\.safetensors|{OLD}|{GONE}")
"""what may lie there; anything else is left alone"""


def clear_up(out: Path) -> str | None:
    """Removes what a killed merge has left, and brings back what that had taken away; returns what was done, in words.

    OutputError where another process is at work there.
    """
    place = Path(os.path.realpath(out))
    work = _beside(place)
    if not _is_folder(work):
        return None
    with _held(work, out):
        return _cleared(work, place, out)


@contextlib.contextmanager
def making(out: Path) -> Iterator[Path]:
    """Where to write a file or a folder; it takes the place of `out` when the block ends well, else it is gone."""
    place = Path(os.path.realpath(out))
    work = _beside(place)
    work.mkdir(parents=True, exist_ok=True)
    if not _is_folder(work):
        raise OutputError(f"{work}: a link, where {out} is to be made; remove it")
    with _held(work, out):
        _cleared(work, place, out)
        made = work / f"{NEW}{place.suffix if place.suffix == '.safetensors' else ''}"
        try:
            yield made
            if made.is_dir():
                disk.sync_folder(made)
                if place.exists():
                    disk.move(place, work / OLD)
            disk.move(made, place)
        except SdtuneError as problem:
            raise type(problem)(*(line.replace(str(made), str(out)) for line in problem.problems)) from None
        finally:
            with contextlib.suppress(OSError):
                _cleared(work, place, out)


def _beside(place: Path) -> Path:
    """The same for the same place, and no other place's."""
    of_name = hashlib.sha256(os.fsencode(place.name)).hexdigest()[:8]
    return place.with_name(f".{place.name[:20]}-{of_name}.merging")


def _is_folder(path: Path) -> bool:
    """And no link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _held(work: Path, out: Path) -> Iterator[None]:
    """No other process is at work in the folder, which is gone afterwards where it is empty then."""
    held = FileLock(work / LOCK)
    try:
        held.acquire(timeout=0)
    except Timeout:
        told = "another merge is writing it at this moment; wait for it, or give another place with --out"
        raise OutputError(f"{out}: {told}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (work / LOCK).unlink()  # while it is held; who waits for it looks whether it is there still
        held.release()
        with contextlib.suppress(OSError):
            work.rmdir()


def _cleared(work: Path, place: Path, out: Path) -> str | None:
    """What stood at its place stands there, and nothing that a merge has made is in the folder."""
    is_back = os.path.lexists(work / OLD) and not os.path.lexists(place)
    if is_back:
        disk.move(work / OLD, place)
    elif os.path.lexists(work / OLD):
        disk.remove(work / GONE)
        disk.move(work / OLD, work / GONE)  # half of it is never brought back
    left = [name for name in os.listdir(work) if _OURS.fullmatch(name)]
    for name in left:
        disk.remove(work / name)
    if is_back:
        return f"{out}: a merge was killed while it replaced this folder; what stood here before is back"
    return f"{out}: what a killed merge has left beside it is removed" if left else None
