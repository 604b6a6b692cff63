"""Standard streams that are closed, full or gone: notes are lost, results that cannot be written are told."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO, cast

from sdtune.errors import SdtuneError

GONE = 128 + 13
"""exit code where nobody reads standard output any more, as shells tell it of a SIGPIPE"""


def prepare() -> None:
    """Closed streams lead nowhere, names that the terminal's encoding lacks are spelt out, and lost notes do no harm.

    In the order of their numbers, so that no file of the work takes the number of a closed stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (open to the end)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stderr = cast(TextIO, Notes(sys.stderr))


class Notes:
    """Standard error, where a full disk or a terminal that is gone must not end work that goes well."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Lost where it cannot be written."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As write."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def put(line: str) -> None:
    """A line on standard output; a reader that has gone is the end, without a word."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        drop_output()
        raise SystemExit(GONE) from None  # a BrokenPipeError typer would take for itself, and leave with 1
    except OSError as error:
        raise SdtuneError(cannot_write(error)) from None


def cannot_write(error: OSError) -> str:
    """What is wrong with standard output, in one line."""
    return f"standard output: cannot be written ({error.strerror}); send it to another place"


def drop_output() -> None:
    """Standard output cannot be written: write no more, so that Python's own flush at the end stays silent."""
    with contextlib.suppress(OSError, ValueError):
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
