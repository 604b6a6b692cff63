"""The lock of a run's folder, which one training holds at a time; the system lets it fall when its process ends."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sdtune.errors import OutputError

NAME = ".lock"


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """No other training works in the folder meanwhile; OutputError at once where one does."""
    file = run / NAME
    held = FileLock(file)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise OutputError(
            f"{run}: another training{_who(file)} is at work in it; wait for it, or stop it and run this again"
        ) from None
    except OSError as error:
        told = error.strerror or type(error).__name__
        raise OutputError(
            f"{run}: cannot be locked against a second training ({told}); check the folder and its permissions"
        ) from None
    try:
        with contextlib.suppress(OSError):  # Windows lets nobody write into what is locked
            file.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()  # while it is held; who waits for it looks whether it is there still
        held.release()


def _who(file: Path) -> str:
    """The process that holds the lock, as it has written itself down, or nothing."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        if found := re.fullmatch(rb"(\d{1,20})\s*", opened.read(100)):
            return f" (process {found[1].decode()})"
    return ""
