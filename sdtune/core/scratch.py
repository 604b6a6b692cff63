"""Scratch: a folder that one process works in, and that goes with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sdtune.errors import OutputError, why

PREFIX = "sdtune-scratch-"
LOCK = ".lock"
"""behind the folder's name: the lock that its process holds"""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder where the system keeps what is temporary; those that killed processes have left go, too."""
    try:
        own, name = tempfile.mkstemp(prefix=PREFIX, suffix=LOCK)
    except OSError as problem:
        raise OutputError(
            f"what is temporary cannot be written ({why(problem)}); name a folder for it in TMPDIR"
        ) from None
    os.close(own)
    lock, folder = Path(name), Path(name.removesuffix(LOCK))
    with FileLock(lock):
        _remove_left(lock)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _remove_left(own: Path) -> None:
    """Folders of this user whose processes hold their locks no longer."""
    for lock in own.parent.glob(f"{PREFIX}*{LOCK}"):
        with contextlib.suppress(OSError, Timeout):
            if lock == own or lock.lstat().st_uid != own.lstat().st_uid:
                continue
            with FileLock(lock, timeout=0):
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
