"""R3: SIGTERM in every phase ends a training within seconds, with the last finished step saved."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdtune.config import Tables
from tools.torture.ground import STEPS, Ground, result, unlike, watch
from tools.torture.killed import unfinished
from tools.torture.nursery import Process
from tools.torture.outcome import Outcome, Tally, scaled

TIMES = 10  # in each phase
SOON = 10.0  # seconds
ENDED = 143  # 128 + SIGTERM
EVERY = 20  # steps, from one validation or drawing to the next
Reports = list[dict[str, Any]]


@dataclass(frozen=True)
class Phase:
    """A part of a training's work, and how to come into it."""

    name: str
    reached: Callable[[Reports, int], bool]
    """whether what was told since the last look says that it is there, after so many steps"""
    learns: bool = True
    """whether there is something to save"""
    within: float = 0.02
    """seconds that the signal waits at most"""
    fresh: bool = False
    """whether the cache must be empty"""


def _progress(words: str) -> Callable[[Reports, int], bool]:
    return lambda told, _: any(one["report"] == "progress" and one["phase"].startswith(words) for one in told)


def _step(told: Reports, step: int) -> bool:
    return any(one["report"] == "step" and one["number"] >= step for one in told)


def _drawing(told: Reports, step: int) -> bool:
    phases = [one["phase"] for one in told if one["report"] == "progress" and one["phase"].startswith("samples after")]
    return any(int(phase.split()[-1]) >= step - EVERY for phase in phases)


PHASES = (
    Phase("reading", _progress("reading images"), learns=False, fresh=True),
    Phase("encoding images", _progress("encoding images"), learns=False, fresh=True),
    Phase("encoding captions", _progress("encoding captions"), learns=False, within=0.0, fresh=True),
    Phase("micro-step", _step, within=0.05),
    Phase("between steps", _step, within=0.0),
    Phase("validation", _progress("validating")),
    Phase("sampling", _drawing),
    Phase("saving", lambda _told, _step: False, within=0.005),
)
SETTINGS: Tables = {
    "accumulate": 2,
    "validation": {"every": EVERY, "timesteps": 8},
    "samples": {"off": False, "every": EVERY, "steps": 6, "guidance": 1.0, "prompts": ["a red disc"]},
    "save": {"every": 5},
}


def stopped(ground: Ground, share: float) -> Outcome:
    """SIGTERM in eight phases; out in time with the last step saved, and resumed to the bits of an undisturbed run."""
    tally = Tally(
        "R3", f"SIGTERM in eight phases: out within {SOON:g} s, last finished step saved; resume: bit-identical"
    )
    wanted = result(ground.finished(SETTINGS))
    chance, longest = random.Random(3), 0.0
    for phase in sorted(chance.sample(PHASES * TIMES, scaled(len(PHASES) * TIMES, share)), key=PHASES.index):
        out = ground.new()
        own = {"SDTUNE_CACHE": str(out.with_suffix(".cache"))} if phase.fresh else {}
        process = ground.train(out, SETTINGS, **own)
        reached = _saving(process, out, chance) if phase.name == "saving" else _reach(process, phase, chance)
        if not reached:
            process.wait()
            tally.count(f"{phase.name}: not reached, left with {process.code}: {process.told()[-300:]}")
            continue
        began = time.monotonic()
        process.kill(signal.SIGTERM)
        code = process.wait(3 * SOON)
        took = time.monotonic() - began
        longest = max(longest, took)
        problems = _judged(phase, process, out, code, took)
        again = ground.resume(out, SETTINGS)
        if again.wait() != 0:
            problems.append(f"{phase.name}: resume left with {again.code}: {again.told()[-300:]}")
        elif differs := unlike(result(out), wanted):
            problems.append(f"{phase.name}: {', '.join(differs)} differ")
        tally.count(*problems)
        shutil.rmtree(out.with_suffix(".cache"), ignore_errors=True)
    return tally.outcome(f"the longest took {longest:.1f} s")


def _judged(phase: Phase, process: Process, out: Path, code: int | None, took: float) -> list[str]:
    """What was wrong with how it left."""
    if code is None:
        process.kill(signal.SIGKILL)
        return [f"{phase.name}: still there {3 * SOON:g} s after SIGTERM"]
    problems = [] if code == ENDED else [f"{phase.name}: left with {code}: {process.told()[-300:]}"]
    if took > SOON:
        problems.append(f"{phase.name}: took {took:.1f} s")
    lines = process.out.read_text(encoding="utf-8").splitlines()
    last = max((one["number"] for one in map(json.loads, lines) if one["report"] == "step"), default=0)
    saved = out / "checkpoints" / f"step-{last:06d}"
    if last and not saved.is_dir():
        problems.append(f"{phase.name}: step {last} was told, and {saved.name} is not there")
    if not last and not phase.learns and out.exists() and not (out / "run.toml").is_file():
        problems.append(f"{phase.name}: left a folder that is no run: {sorted(path.name for path in out.iterdir())}")
    if left := unfinished(out):
        problems.append(f"{phase.name}: left {left} unfinished")
    if "Traceback" in process.told():
        problems.append(f"{phase.name}: a traceback: {process.told()[-300:]}")
    return problems


def _reach(process: Process, phase: Phase, chance: random.Random) -> bool:
    step = chance.randrange(1, STEPS - EVERY // 2)
    if not watch(process, lambda told: phase.reached(told, step)):
        return False
    time.sleep(chance.uniform(0, phase.within))
    return process.poll() is None


def _saving(process: Process, out: Path, chance: random.Random) -> bool:
    """Until a checkpoint is being written."""
    skip, seen = chance.randrange(4), set[str]()
    while process.poll() is None:
        now = set(unfinished(out))
        if now - seen:
            seen |= now
            if len(seen) > skip:
                time.sleep(chance.uniform(0, 0.003))
                return True
    return False
