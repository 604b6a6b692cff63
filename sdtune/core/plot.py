"""The plot of a run: its losses, what validation says of them, and the learning rate, as a PNG."""

from __future__ import annotations

import gc
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sdtune.core.run_folder import write_atomically
from sdtune.errors import SdtuneError

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
"""told apart by colour-blind eyes, too (Okabe and Ito 2008)"""
INCHES, DOTS = (10.0, 7.0), 100  # 1000 x 700 pixels
MOST = 20_000  # steps that are read of a run, evenly spread
DRAWN = 2_000  # of these, as single points
LINE_BYTES = 150  # of metrics.jsonl, about
SMOOTH = 40  # the mean is over this part of the run


@dataclass(frozen=True)
class _Steps:
    """What metrics.jsonl tells, each [N]."""

    numbers: np.ndarray
    losses: np.ndarray
    """NaN where a step was not taken"""
    rates: np.ndarray
    of: int


def plot(metrics: Path, validations: Path, out: Path) -> None:
    """Draw what the two files tell, wholly or not at all; raises OSError or SdtuneError alone."""
    steps, checks = _steps(metrics), _checks(validations)
    if not len(steps.numbers) and not checks:
        raise SdtuneError(f"{metrics}: holds no step yet, so there is nothing to plot")
    try:
        write_atomically(out, partial(_figure(steps, checks).savefig, format="png"))
    except OSError:
        raise
    except Exception as error:  # no picture is worth a training, whatever a matplotlibrc asks for
        raise SdtuneError(f"{out}: cannot be drawn ({type(error).__name__}); look into {metrics.name}") from error
    gc.collect()  # a figure is 5 MB that refer to each other, and Python looks for such after dozens of them


def _figure(steps: _Steps, checks: list[dict[str, Any]]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DOTS, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    tall = [4.0] if checks else []
    panels = list(
        np.atleast_1d(figure.subplots(len(tall) + 2, 1, sharex=True, gridspec_kw={"height_ratios": [*tall, 4.0, 1.0]}))
    )
    for panel in panels:
        panel.grid(color="#e6e6e6", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=11)
    if checks:
        _draw_checks(panels[0], checks)
    _draw_losses(panels[-2], steps)
    panels[-1].plot(steps.numbers, steps.rates, color=GREY, linewidth=1.5)
    panels[-1].set_ylabel("rate", fontsize=12)
    panels[-1].set_ylim(bottom=0)
    panels[-1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    panels[-1].set_xlabel("step", fontsize=12)
    panels[-1].set_xlim(0, max([steps.of, 1, *(check["step"] for check in checks)]))
    return figure


def _draw_checks(panel: Any, checks: list[dict[str, Any]]) -> None:
    """How many per cent the loss is above or below the base's, with a band of one standard error."""
    at = np.array([check["step"] for check in checks])
    for name, told, colour, mark in (("held_out", "held out", BLUE, "o"), ("trained", "trained", ORANGE, "s")):
        mean = 100 * (np.array([check[name]["relative"] for check in checks]) - 1)
        error = 100 * np.array([check[name]["relative_error"] for check in checks])
        panel.fill_between(at, mean - error, mean + error, color=colour, alpha=0.18, linewidth=0)
        panel.plot(at, mean, color=colour, marker=mark, markersize=4, linewidth=2, label=told)
    best = checks[-1]["best"]
    found = [check["held_out"]["relative"] for check in checks if check["step"] == best]
    if found:
        told = f"best: step {best}, {100 * (found[-1] - 1):+.1f} %"
        panel.axvline(best, color=GREEN, linestyle="--", linewidth=1.5)
        panel.plot([best], [100 * (found[-1] - 1)], "*", color=GREEN, markersize=15, label=told, zorder=5)
    panel.axhline(0, color="black", linewidth=1)
    panel.set_ylabel("loss against the base, %", fontsize=12)
    panel.legend(fontsize=11, frameon=False, loc="best")


def _draw_losses(panel: Any, steps: _Steps) -> None:
    known = np.isfinite(steps.losses)
    numbers, losses = steps.numbers[known], steps.losses[known]
    panel.set_ylabel("training loss", fontsize=12)
    if not len(losses):
        return
    every = -(-len(losses) // DRAWN)
    panel.plot(numbers[::every], losses[::every], ".", color=GREY, alpha=0.35, markersize=4, label="single steps")
    width = max(1, len(losses) // SMOOTH)
    span = width * (numbers[-1] - numbers[0] + 1) / len(losses)
    panel.plot(
        _means(numbers, width), _means(losses, width), color=BLUE, linewidth=2, label=f"mean over {span:.0f} steps"
    )
    low, high = np.percentile(losses, [0.5, 99])  # a single spike shall not flatten the rest
    room = 0.15 * (high - low) or 0.1 * abs(high) or 1.0
    panel.set_ylim(max(0.0, low - room), high + room)
    panel.legend(fontsize=11, frameon=False, loc="upper right")


def _means(values: np.ndarray, width: int) -> np.ndarray:
    """Means over `width` values in a row, [N - width + 1]."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    means: np.ndarray = (sums[width:] - sums[:-width]) / width
    return means


def _steps(path: Path) -> _Steps:
    """Steps that a run took again, after it went back or was resumed, count as they were taken last."""
    rows: list[tuple[int, float, float]] = []
    of = 0
    for row in _rows(path):
        try:
            loss = row["loss"]
            number, rate, of = int(row["number"]), float(row["lr"]), int(row["of"])
            value = math.nan if loss is None else float(loss)
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        while rows and rows[-1][0] >= number:
            rows.pop()
        rows.append((number, value, rate))
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return _Steps(table[:, 0], table[:, 1], table[:, 2], of)


def _checks(path: Path) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for row in _rows(path):
        try:
            figures = [
                float(row[name][what]) for name in ("held_out", "trained") for what in ("relative", "relative_error")
            ]
            step = int(row["step"])
            int(row["best"])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if all(math.isfinite(figure) for figure in figures):
            while kept and kept[-1]["step"] >= step:
                kept.pop()
            kept.append(row)
    return kept


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, of a long one evenly spread; half-written lines are passed over."""
    try:
        every = 1 + path.stat().st_size // (LINE_BYTES * MOST)
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in itertools.islice(file, 0, None, every):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict):
                    yield row
    except FileNotFoundError:
        return
