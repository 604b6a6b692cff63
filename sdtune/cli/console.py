"""How each report looks: progress bars and lines for people, JSON lines for programs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdtune.cli.pictures import JSON_SECONDS, Pace, done, step, which
from sdtune.cli.streams import put

if TYPE_CHECKING:
    from sdtune.cli.bar import Bar
    from sdtune.core.reports import Report

UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f"  # C0 and C1 controls, ESC among them
    r"\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # line ends, and what reverses the reading order
    r"\u00ad\u180e\u200b\u2060-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # what is not seen
    r"\ud800-\udfff]"  # bytes of a file name that are no UTF-8
)
SUMMARIES = dict.fromkeys(("prepared", "cached", "planned", "listing", "statistics"), "sdtune.cli.summaries") | (
    dict.fromkeys(("written", "inspected", "differing"), "sdtune.cli.lora_summaries")
    | dict.fromkeys(("evaluated", "compared"), "sdtune.cli.evaluation_summaries")
)
"""{report: where a function of its name makes lines of it, all of them for standard output}"""
PLAIN_SECONDS = 10.0  # without a terminal, a progress line this often
LIBRARIES = (
    "xformers",
    "bitsandbytes",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "matplotlib",
    "torch",
    "PIL",
    "huggingface_hub",
)


def plain(text: object) -> str:
    """Text from files and users on one line, without anything that a terminal would obey."""
    return UNSAFE.sub(lambda found: " " if found[0] in "\t\r\n" else "?", str(text))


def complain(message: str) -> None:
    """One line on standard error."""
    print(f"sdtune: {plain(message)}", file=sys.stderr, flush=True)


def prepare_libraries() -> None:
    """Keep third parties' warnings and bars away from the user; sdtune says what matters in its own words.

    SDTUNE_DEBUG=1 leaves them on. Threads that wait sleep instead of spinning: where another program uses a core, small
    models otherwise run up to a hundred times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.environ.get("SDTUNE_DEBUG"):
        return
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)


class Terminal:
    """Bars and lines for people: results on standard output, the way there on standard error."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._phase, self._last_line = "", 0.0
        self._paused: tuple[str, Bar] | None = None
        """the bar of longer work in whose midst another phase is"""
        self._told: set[tuple[str, bool]] = set()
        """phases whose first line, or last one, has been written where there is no terminal"""
        self._held_out: tuple[str, ...] = ()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_bar()

    def show(self, report: Report) -> None:
        """Show one report in its own way: a method a type, or a function that makes lines of it."""
        name = type(report).__name__.lower()
        if name in SUMMARIES:
            for line in getattr(import_module(SUMMARIES[name]), name)(report):
                self.result(line)
        else:
            getattr(self, f"_show_{name}")(report)

    def restore(self) -> None:
        """Give the terminal back as it was, in the middle of anything."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                os.write(2, b"\x1b[?25h\n")  # the cursor, which a bar hides

    def result(self, text: object, *, amid: bool = False) -> None:
        """A line on standard output, amid work above its bar."""
        if not amid:
            self._end_bar()
        self._put(plain(text))

    def _put(self, line: str) -> None:
        if self._bar is not None and _one_terminal():
            self._bar.above(line)
        else:
            put(line)

    def _say(self, text: str, *, warning: bool = False, sentences: bool = False) -> None:
        """A line on standard error, above a bar; sentences are folded between words where a terminal is narrower."""
        line = _folded(plain(text)) if sentences else plain(text)
        if warning and _in_colour():
            line = f"\x1b[33m{line}\x1b[0m"
        print(line, file=sys.stderr, flush=True)

    def _show_note(self, report: Any) -> None:
        self._say(report.text, sentences=True)

    def _show_warned(self, report: Any) -> None:
        self._say(f"warning: {report.text}", warning=True, sentences=True)

    def _show_skipped(self, report: Any) -> None:
        self._say(f"skipped {report.path}: {report.reason}", warning=True)

    def _show_progress(self, report: Any) -> None:
        speed = [_speed(report.speed, report.phase)] if report.speed else []
        self._advance(report.phase, report.number, report.of, *speed)

    def _show_bucketed(self, report: Any) -> None:
        from sdtune.cli.summaries import bucketed

        for line in bucketed(report):
            self._say(line)

    def _show_step(self, report: Any) -> None:
        loss = f"loss {report.loss_average:.4f}"
        memory = [f"{report.memory:.{1 if report.memory < 10 else 0}f} GB"] if report.memory else []
        details = (loss, *self._held_out, _speed(report.images_per_second), *memory)
        self._advance("training", report.number, report.of, *details, stays=True)

    def _show_validated(self, report: Any) -> None:
        from sdtune.cli.summaries import per_cent, validated

        if report.step:
            self._held_out = (f"held out {per_cent(report.held_out.relative)}",)
        self._say(validated(report))

    def _show_rewound(self, report: Any) -> None:
        self._say(f"back to step {report.step}: {report.reason}", warning=True)

    def _show_resumed(self, report: Any) -> None:
        self._say(f"going on with {report.run} after step {report.step} of {report.of}")
        for line in report.changed:
            self._say(f"changed: {line}", warning=True)

    def _show_saved(self, report: Any) -> None:
        self._end_bar()
        self._say(f"{report.what}: {report.path}")

    def _show_drawn(self, report: Any) -> None:
        self.result(report.path, amid=True)

    def _show_drawing(self, report: Any) -> None:
        if _is_terminal():
            if self._phase != "drawing" or self._bar is None:
                self._begin_bar("drawing", report.of, stays=report.of > 1, counted=False)
            assert self._bar
            self._bar.move(done(report), [step(report, width=len(str(report.steps)))], which(report))
        else:
            end = done(report) == report.of
            self._plain_line("drawing", f"{which(report)}, {step(report)}", end=end)

    def _show_there(self, report: Any) -> None:
        self.result(report.path, amid=True)

    def _show_setaside(self, report: Any) -> None:
        self._say(f"set aside {report.path}: {report.reason}")

    def _show_trained(self, report: Any) -> None:
        self._end_bar()
        from sdtune.cli.summaries import trained

        self._say(f"trained in {duration(report.seconds)}")
        for line in trained(report):
            self.result(line)

    def _show_captioned(self, report: Any) -> None:
        if report.written:
            self._advance("captions", report.number, report.of, _speed(report.images_per_second), stays=True)
        else:
            self._show_captions(report.path, report.captions)

    def _show_described(self, report: Any) -> None:
        self._end_bar()
        left = f"; {report.skipped} left out, as told above" if report.skipped else ""
        if report.images or report.skipped:
            images = "1 image" if report.images == 1 else f"{report.images} images"
            took = f"in {duration(report.seconds)}" if report.written else "told, none written (--dry-run)"
            self._say(f"captions of {images} {took}{left}")
        for path, caption in report.examples if report.try_next else ():
            self._show_captions(path, [caption])
        if report.try_next:
            self.result(f"try next  {report.try_next}")

    def _show_captions(self, path: Path, captions: Sequence[str]) -> None:
        self.result(str(path))
        for caption in captions:
            self.result(f"    {caption}")

    def _show_merged(self, report: Any) -> None:
        from sdtune.cli.lora_summaries import merged

        self._end_bar()
        self._say(f"merged in {duration(report.seconds)}")
        for line in merged(report):
            self.result(line)

    def _show_problem(self, report: Any) -> None:
        self.result(report.told)
        self.result(f"    {report.remedy}")

    def _advance(self, phase: str, number: int, of: int, *details: str, stays: bool = False) -> None:
        if not _is_terminal():
            self._plain_line(phase, f"{phase} {number}/{of}  {'  '.join(details)}", end=number == of)
            return
        if phase != self._phase or self._bar is None:
            self._begin_bar(phase, of, stays=stays)
        assert self._bar
        self._bar.move(number, details)
        if number == of:
            self._end_bar()

    def _begin_bar(self, phase: str, of: int, *, stays: bool, counted: bool = True) -> None:
        """A new bar, or the one that another phase came in the midst of."""
        from sdtune.cli.bar import Bar

        if self._bar is not None and self._bar.stays:
            self._bar.pause()
            self._paused, self._bar = (self._phase, self._bar), None
        self._end_bar()
        if self._paused and self._paused[0] == phase:
            self._bar, self._paused = self._paused[1], None
            self._bar.go_on()
        else:
            self._bar = Bar(plain(phase), of, stays=stays, counted=counted)
        self._phase = phase

    def _plain_line(self, phase: str, line: str, *, end: bool) -> None:
        """At the beginning and the end of each kind of phase, and now and then between."""
        now = time.monotonic()
        begins = phase != self._phase and (phase, False) not in self._told
        ends = end and (phase, True) not in self._told
        self._phase = phase
        if begins or ends or now - self._last_line >= PLAIN_SECONDS:
            self._say(line.rstrip())
            self._last_line = now
            self._told |= {(phase, False)} | ({(phase, True)} if end else set())

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.end()
            self._bar, self._phase = None, ""


class JsonLines(Terminal):
    """Every report as one JSON object a line on standard output; bars and notes on standard error stay."""

    def __init__(self) -> None:
        super().__init__()
        self._pace = Pace(JSON_SECONDS)

    def show(self, report: Report) -> None:
        """One line: {"report": "step", "number": 1, ...}; a drawing's steps now and then."""
        super().show(report)
        name = type(report).__name__.lower()
        if name != "drawing" or self._pace.due():
            self._put(json.dumps({"report": name, **_value(report)}))

    def result(self, text: object, *, amid: bool = False) -> None:  # noqa: ARG002 (it stands in the JSON)
        """Standard output is for the JSON lines alone."""
        if not amid:
            self._end_bar()


def duration(seconds: float) -> str:
    """5 s, 2 min 5 s, 1 h 2 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _speed(each_second: float, phase: str = "images") -> str:
    things = phase.rpartition(" ")[2]
    if 0 < each_second < 0.1:
        return f"{1 / each_second:.1f} s/{things.removesuffix('s')}"
    return f"{each_second:.1f} {things}/s"


def _value(value: Any) -> Any:
    """A report's value as JSON has it, whatever it holds."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _value(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_value(one) for one in value]
    if dataclasses.is_dataclass(value):
        return {field.name: _value(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _folded(text: str) -> str:
    """On as many lines as the terminal needs, if standard error is one."""
    from sdtune.cli.summaries import folded

    columns = 0
    if _is_terminal():
        with contextlib.suppress(OSError, ValueError):
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
    return "\n".join(folded(text, columns)) if columns else text


def _one_terminal() -> bool:
    """Whether standard output is the terminal on which the bar is."""
    try:
        return sys.stdout.isatty() and os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))
    except (OSError, ValueError):
        return False


def _in_colour() -> bool:
    return _is_terminal() and not os.environ.get("NO_COLOR")
