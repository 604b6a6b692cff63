"""R9: a long training takes no more memory and no more open files at its end than at its beginning."""

from __future__ import annotations

import contextlib
import statistics
import time

import psutil

from sdtune.config import Tables
from tools.torture.ground import Ground
from tools.torture.outcome import Outcome, Tally, scaled

STEPS = 20_000
WARM = 0.2  # of the run
MOST = 0.01  # of growth
SAVES, VALIDATIONS, DRAWINGS = 40, 20, 8  # in the run


def settings(steps: int) -> Tables:
    """Of a run in which everything comes several times, in its warm-up, too."""
    drawing = {"off": False, "every": steps // DRAWINGS, "steps": 2, "guidance": 1.0, "prompts": ["a red disc"]}
    return {
        "steps": steps,
        "batch_size": 1,
        "save": {"every": steps // SAVES},
        "validation": {"every": steps // VALIDATIONS},
        "samples": drawing,
    }


def soak(ground: Ground, share: float) -> Outcome:
    """20,000 steps with checkpoints, validation and previews."""
    steps = max(200, scaled(STEPS, share))
    tally = Tally(
        "R9", f"{steps:,} steps with checkpoints, validation, previews: memory and open files grow less than 1 %"
    )
    out = ground.new()
    process = ground.train(out, settings(steps))
    seen: list[tuple[int, int, int]] = []
    own, step = psutil.Process(process.pid), 0
    while process.poll() is None:
        step = max([step, *(one["number"] for one in process.reports() if one["report"] == "step")])
        with contextlib.suppress(psutil.Error):
            if step:
                seen.append((step, own.memory_info().rss, own.num_fds()))
        time.sleep(0.05)
    if process.code != 0:
        tally.count(f"left with {process.code}: {process.told()[-300:]}")
        return tally.outcome()
    early = [one for one in seen if WARM * steps <= one[0] < 2 * WARM * steps]
    late = [one for one in seen if one[0] >= (1 - WARM) * steps]
    growth = []
    for name, place in (("memory", 1), ("open files", 2)):
        before, after = (statistics.median(one[place] for one in part) for part in (early, late))
        growth.append(after / before - 1)
        tally.count(*([f"{name}: from {before:,.0f} to {after:,.0f}"] if after / before - 1 > MOST else []))
    return tally.outcome(f"memory {growth[0]:+.2%}, open files {growth[1]:+.2%}")
