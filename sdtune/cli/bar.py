"""One progress bar on the terminal, by rich."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

NARROW = 66  # columns that everything beside the bar needs while training


class Bar:
    """A bar that is drawn from its making to its end, and stays on the screen only where it `stays`."""

    def __init__(self, phase: str, of: int, *, stays: bool) -> None:
        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=max(8, min(30, console.width - NARROW))),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}", markup=False),
            _TimeLeft(),
            console=console,
            transient=not stays,
        )
        self._task = self._progress.add_task(phase, total=of, details="")
        self._progress.start()

    def move(self, number: int, details: str) -> None:
        """So many are done."""
        self._progress.update(self._task, completed=number, details=details)

    def end(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()


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
