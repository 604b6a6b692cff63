"""Following work to its end: what it tells is shown, and a signal ends it in order."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sdtune.cli.app import SIGNALS
from sdtune.cli.console import JsonLines, Terminal, complain
from sdtune.errors import Interrupted

if TYPE_CHECKING:
    from sdtune.core.reports import Report


def follow(work: Iterator[Report], as_json: bool) -> None:
    """Run the work to its end and show what it tells.

    A signal before the first step leaves at once, one after it at the end of its step, so that what is learned is kept.
    """
    view: Terminal = JsonLines() if as_json else Terminal()
    with _signals(view) as caught, contextlib.closing(work), view:  # type: ignore[type-var]
        for report in work:
            try:
                view.show(report)
            except KeyboardInterrupt as asked:
                work.throw(asked)  # type: ignore[attr-defined]  # what works knows what is kept
                raise
            if caught.number:
                break
    if caught.number:
        raise Interrupted("interrupted; what was complete is kept", caught.number)


@dataclasses.dataclass
class _Caught:
    """The signal that asked for the end."""

    number: int = 0


@contextlib.contextmanager
def _signals(view: Terminal) -> Iterator[_Caught]:
    """Notes the first of SIGNALS; the second one ends the process at once."""
    caught = _Caught()

    def remember(number: int, _frame: Any) -> None:
        if caught.number:
            view.restore()
            os._exit(128 + number)
        caught.number = number
        if not view.in_steps:
            raise KeyboardInterrupt
        complain("stopping after this step; again to leave at once")

    numbers = [one for one in SIGNALS if signal.getsignal(one) != signal.SIG_IGN]
    old = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield caught
    except KeyboardInterrupt as asked:
        told = f"interrupted; {asked}" if str(asked) else "interrupted"
        raise Interrupted(told, caught.number or signal.SIGINT) from None
    except Exception:
        if caught.number and not view.in_steps:  # a library took the interruption for a fault of its own
            raise Interrupted("interrupted", caught.number) from None
        raise
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
