"""Following work to its end: what it tells is shown, and a signal ends it in order."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdtune.cli.app import SIGNALS
from sdtune.cli.console import JsonLines, Terminal
from sdtune.errors import Interrupted, Stopped

if TYPE_CHECKING:
    from sdtune.core.reports import Report

KEPT = "interrupted; what was complete is kept"
SAME = 2.0  # seconds in which a launcher passes on to its processes what the terminal has told them already


def leads() -> bool:
    """Whether this process speaks for all that train together; alone it does."""
    return _number("RANK", _number("LOCAL_RANK", 0)) == 0


def follow(work: Generator[Report, None, Any], as_json: bool) -> None:
    """Run the work to its end and show what it tells.

    A signal before the first step leaves at once; later the work is asked at its next report, a Pulse being one for
    that alone, so that it can save what was learned.
    """
    view: Terminal = Silent() if not leads() else JsonLines() if as_json else Terminal()
    caught = _Caught(view)
    with _signals(caught), contextlib.closing(work), view:
        report = next(work, None)
        while report is not None:
            report = _after(report, work, caught)
    if caught.number:
        raise Interrupted(KEPT, caught.number)


class Silent(Terminal):
    """Nothing: another process tells it all."""

    def show(self, report: Report) -> None:
        """Not shown."""


@dataclass
class _Caught:
    """The signal that asked for the end."""

    view: Terminal
    number: int = 0
    at: float = 0.0
    """seconds of the clock"""
    in_steps: bool = False
    """whether something is being learned that an end must not lose"""
    asked: bool = False
    """whether the work knows"""


def _after(report: Report, work: Generator[Report, None, Any], caught: _Caught) -> Report | None:
    """Shows a report and returns the next one, None at the end."""
    from sdtune.core.reports import Note, Pulse, Step, Warned

    if not gc.isenabled() and not isinstance(report, Note | Warned):  # it is no longer all imports
        gc.freeze()
        gc.enable()
    try:
        caught.in_steps = caught.in_steps or isinstance(report, Step | Pulse)
        if not isinstance(report, Pulse):
            caught.view.show(report)
        if caught.number and not caught.asked and leads():
            raise Stopped
    except KeyboardInterrupt as asked:
        caught.asked = True
        try:
            return work.throw(asked)  # what works knows what is kept
        except StopIteration:
            return None
    return next(work, None)


@contextlib.contextmanager
def _signals(caught: _Caught) -> Iterator[None]:
    """Notes the first of SIGNALS; the second one ends the process at once."""

    def remember(number: int, _frame: Any) -> None:
        if caught.number:
            if _launched() and time.monotonic() - caught.at < SAME:
                return
            caught.view.restore()
            os._exit(128 + number)
        caught.number, caught.at = number, time.monotonic()
        if not caught.in_steps:
            raise KeyboardInterrupt
        if leads():  # the others are told by the one that does
            with contextlib.suppress(OSError):  # not by print, which may be what the signal came between
                echoed = b"\n" if number == signal.SIGINT and os.isatty(2) else b""  # the terminal shows ^C
                os.write(2, echoed + b"sdtune: stopping after this step; again to leave at once\n")

    numbers = [one for one in SIGNALS if signal.getsignal(one) != signal.SIG_IGN]
    old = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield
    except Stopped as stopped:
        told = str(stopped) or KEPT
        raise Interrupted(told, caught.number or signal.SIGINT, stopped.resume) from None
    except KeyboardInterrupt as asked:
        told = f"interrupted; {asked}" if str(asked) else "interrupted"
        raise Interrupted(told, caught.number or signal.SIGINT) from None
    except Exception:
        if caught.number and not caught.in_steps:  # a library took the interruption for a fault of its own
            raise Interrupted("interrupted", caught.number) from None
        raise
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _launched() -> bool:
    """Whether torchrun or accelerate has started this process beside others."""
    return _number("WORLD_SIZE", 1) > 1


def _number(name: str, otherwise: int) -> int:
    told = os.environ.get(name, "")
    return int(told) if told.isdecimal() else otherwise
