"""How each report looks: progress bars, one-line notes and errors, or JSON lines."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdtune.errors import Interrupted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from sdtune.core.reports import Report

# Controls that could move the cursor, change colours or reverse the reading order of a terminal.
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
PLAIN_SECONDS = 10.0  # without a terminal, a progress line this often


def plain(text: object) -> str:
    """Text from files and users without terminal controls."""
    return UNSAFE.sub("?", str(text))


def complain(message: str) -> None:
    """An error on standard error, a line for each problem."""
    for line in message.splitlines():
        print(f"sdtune: {plain(line)}", file=sys.stderr)


def drop_output() -> None:
    """The reader of a pipe has gone: write no more, so that Python's own flush at the end stays silent."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def prepare_libraries() -> None:
    """Keep third parties' warnings and bars away from the user; sdtune says what matters in its own words.

    SDTUNE_DEBUG=1 leaves them on.
    """
    if os.environ.get("SDTUNE_DEBUG"):
        return
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    for name in ("xformers", "bitsandbytes", "diffusers", "transformers", "accelerate", "peft", "torch", "PIL"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def follow(work: Generator[Report, None, None], as_json: bool) -> None:
    """Run the work to its end and show what it tells; a signal closes it, so that it can leave in order."""
    view = JsonLines() if as_json else Terminal()
    with _signals() as caught, contextlib.closing(work), view:
        for report in work:
            view.show(report)
            if caught:
                work.close()
                break
    if caught:
        name = signal.Signals(caught[0]).name
        raise Interrupted(f"interrupted by {name}; what was complete is kept", caught[0])


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM is remembered in the list, the second one ends the process at once."""
    caught: list[int] = []

    def remember(number: int, _frame: Any) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)
        complain("stopping after this step; again to leave at once")

    old = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class JsonLines:
    """Every report as one JSON object a line on standard output."""

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, report: Report) -> None:
        """One line: {"report": "step", "number": 1, ...}"""
        fields = {key: str(value) if isinstance(value, Path) else value for key, value in _fields(report).items()}
        print(json.dumps({"report": type(report).__name__.lower(), **fields}), flush=True)


def _fields(report: Report) -> dict[str, Any]:
    return {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}


class Terminal:
    """Bars and lines for people: results on standard output, the way there on standard error."""

    def __init__(self) -> None:
        from rich.console import Console

        self.out: Console = Console(highlight=False, markup=False, soft_wrap=True)
        self.err: Console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self.bar: Bar | None = None
        self.task: TaskID | None = None
        self.phase = ""
        self.last_line = 0.0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_bar()

    def show(self, report: Report) -> None:
        """Show one report in its own way: a method a type."""
        getattr(self, f"_show_{type(report).__name__.lower()}")(report)

    def _show_note(self, report: Any) -> None:
        self.err.print(plain(report.text))

    def _show_warned(self, report: Any) -> None:
        self.err.print(f"warning: {plain(report.text)}", style="yellow")

    def _show_skipped(self, report: Any) -> None:
        self.err.print(f"skipped {plain(report.path)}: {plain(report.reason)}", style="yellow")

    def _show_progress(self, report: Any) -> None:
        self._advance(report.phase, report.number, report.of, "")

    def _show_step(self, report: Any) -> None:
        details = f"loss {report.loss_average:.4f}  {report.images_per_second:.1f} images/s"
        self._advance("training", report.number, report.of, details)

    def _show_saved(self, report: Any) -> None:
        self._end_bar()
        self.err.print(f"{plain(report.what)}: {plain(report.path)}")

    def _show_drawn(self, report: Any) -> None:
        self._end_bar()
        self.out.print(plain(report.path))

    def _show_trained(self, report: Any) -> None:
        self._end_bar()
        self.err.print(f"trained in {_duration(report.seconds)}")
        self.out.print(f"LoRA      {plain(report.lora)}")
        if report.sheet:
            self.out.print(f"pictures  {plain(report.sheet)}")
        self.out.print(f"try next  {plain(report.try_next)}")

    def _advance(self, phase: str, number: int, of: int, details: str) -> None:
        if not self.err.is_terminal:
            self._plain_line(phase, number, of, details)
            return
        if phase != self.phase or self.bar is None:
            self._end_bar()
            self._begin_bar(phase, of)
        assert self.bar is not None and self.task is not None
        self.bar.update(self.task, completed=number, total=of, details=details)
        if number == of:
            self._end_bar()

    def _plain_line(self, phase: str, number: int, of: int, details: str) -> None:
        now = time.monotonic()
        if number == of or phase != self.phase or now - self.last_line >= PLAIN_SECONDS:
            self.err.print(f"{phase} {number}/{of}  {details}".rstrip())
            self.phase, self.last_line = phase, now

    def _begin_bar(self, phase: str, of: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("left", markup=False),
            console=self.err,
        )
        self.task = self.bar.add_task(phase, total=of, details="")
        self.phase = phase
        self.bar.start()

    def _end_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
        self.bar, self.task, self.phase = None, None, ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
