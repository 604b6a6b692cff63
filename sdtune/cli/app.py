"""The door: a command line in, an exit code out; a signal at any time leaves without a traceback.

It imports nothing heavy, so that a signal is already heeded while everything else is imported.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage or input, 130 or 143 interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        from sdtune.cli.commands import commands

        code = int(commands().main(given or ["--help"], prog_name="sdtune", standalone_mode=False) or 0)
        if code == 128 + signal.SIGINT:  # typer makes an exit out of it, without a word
            raise KeyboardInterrupt
        return code
    except BaseException as error:
        from sdtune.cli.failures import leave

        return leave(error, given)


def run() -> None:
    """The console script."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as in `sdtune ... &` of a shell script, or under nohup
            signal.signal(number, _leave_at_once)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks
    code = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        from sdtune.cli.console import drop_output

        drop_output()
    sys.exit(code)


def _leave_at_once(number: int, _frame: Any) -> None:
    """Nothing has been begun that would have to be ended in order."""
    os.write(2, b"sdtune: interrupted\n")
    os._exit(128 + number)
