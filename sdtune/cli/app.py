"""The door: a command line in, an exit code out; a signal at any time leaves without a traceback.

It imports nothing heavy, so that a signal is already heeded while everything else is imported.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage or input, 128 + a signal."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        _stand_somewhere()
        from sdtune.cli.commands import commands

        code = int(commands().main(given or ["--help"], prog_name="sdtune", standalone_mode=False) or 0)
        if code == 128 + signal.SIGINT:  # typer makes an exit out of it, without a word
            raise KeyboardInterrupt
        return code
    except BaseException as error:
        from sdtune.cli.failures import leave

        return leave(error, given)


def run() -> None:
    """The console script.

    Looking for cycles among the objects of imports takes a fifth of the time of a short command: `following` begins
    with it once there is work, and at the end it is left out.
    """
    gc.disable()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as in `sdtune ... &` of a shell script, or under nohup
            signal.signal(number, _leave_at_once)
    from sdtune.cli import streams

    streams.prepare()
    code = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        streams.drop_output()
        code = code or streams.GONE
    except OSError as error:
        from sdtune.cli.console import complain

        complain(streams.cannot_write(error))
        streams.drop_output()
        code = code or 1
    gc.freeze()
    sys.exit(code)


def _stand_somewhere() -> None:
    try:
        os.getcwd()
    except OSError:
        from sdtune.errors import InputError

        raise InputError("the folder that you are in is gone; go to one that is there (cd)") from None


def _leave_at_once(number: int, _frame: Any) -> None:
    """Nothing has been begun that would have to be ended in order."""
    with contextlib.suppress(OSError):
        os.write(2, b"sdtune: interrupted\n")
    os._exit(128 + number)
