"""One progress bar on the terminal, by rich."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

WIDEST, NARROWEST = 30, 6  # columns of a bar; where there are fewer, it is left out
CLOCK = 10  # columns of "59:59 left"


class Bar:
    """A bar that is drawn from its making to its end, and stays on the screen only where it `stays`."""

    def __init__(self, phase: str, of: int, *, stays: bool, counted: bool = True) -> None:
        self.stays, self._counted = stays, counted
        self._count = f"{of}/{of} " if counted else ""
        self._widest = phase
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar = BarColumn()
        self._others: tuple[str | ProgressColumn, ...] = (
            *([MofNCompleteColumn()] if counted else []),
            TextColumn("{task.fields[details]}", markup=False),
            _TimeLeft(),
        )
        self._name = TextColumn("{task.description}", markup=False)
        self._progress = Progress(
            self._name, self._bar, *self._others, console=self._console, transient=not stays, redirect_stdout=False
        )  # what goes to standard output is written there, or by `above`
        self._task = self._progress.add_task(phase, total=of, details="")
        self._progress.start()

    def move(self, number: float, details: Sequence[str], phase: str | None = None) -> None:
        """So many are done; of the details the last ones go where the terminal is narrow, a count of steps remains."""
        self._widest = max(self._widest, phase or "", key=len)
        kept = list(details)
        while len(kept) > self._counted and self._room(kept) < -1:  # without the bar's own space
            kept.pop()
        self._bar.bar_width = min(WIDEST, self._room(kept) - len("^C"))  # which a terminal writes behind it
        drawn = (self._bar,) if self._bar.bar_width >= NARROWEST else ()
        self._progress.columns = (self._name, *drawn, *self._others)
        described = f"{phase:<{len(self._widest)}}" if phase else None
        self._progress.update(self._task, completed=number, details="  ".join(kept), description=described)

    def above(self, text: str) -> None:
        """A line above the bar, as long as it is."""
        self._console.print(Text(text), soft_wrap=True)

    def pause(self) -> None:
        """Make room for another bar; the clock goes on."""
        self._progress.live.transient = True
        self._progress.stop()

    def go_on(self) -> None:
        """Be drawn again."""
        self._progress.live.transient = not self.stays
        self._progress.start()

    def end(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()

    def _room(self, details: Sequence[str]) -> int:
        """Columns that are left for the bar."""
        taken = len(f"{self._widest} {self._count}") + len(" ") + CLOCK
        return self._console.width - taken - len("  ".join(details)) - len(" ")


class _TimeLeft(ProgressColumn):
    """1:23 left, by the mean speed since the first; in 2:03 when all is done."""

    def __init__(self) -> None:
        super().__init__()
        self._began: tuple[float, float] | None = None

    def render(self, task: Task) -> Text:
        """The column's text."""
        now = time.monotonic()
        if task.finished:
            return Text(f"in {_clock(task.finished_time or 0)}", style="progress.elapsed")
        if task.completed and self._began is None:
            self._began = (now, task.completed)
        if self._began is None or task.completed <= self._began[1] or task.total is None:
            return Text("")
        each = (now - self._began[0]) / (task.completed - self._began[1])
        return Text(f"{_clock(each * (task.total - task.completed))} left", style="progress.remaining")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
