"""R1: a training that is killed again and again, and resumed until it is done, ends in the same bits."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tools.torture.ground import STEPS, Ground, kinds, result, unlike, watch
from tools.torture.nursery import Process
from tools.torture.outcome import Outcome, Tally, scaled

KILLS, IN_SAVING = 200, 50
A_RUN = 5  # kills of one run, at most
TRIES = 3  # to hit a save
WRITING = 0.008  # seconds after which a small checkpoint is written
EVERY = {"save": {"every": 3}}

Moment = Callable[[Process, Path, random.Random], bool]
"""waits, kills, and says whether it was still running"""


def killed(ground: Ground, share: float) -> Outcome:
    """SIGKILL at random moments; LoRA, adapter, EMA and optimizer of the finished run are an undisturbed one's."""
    tally = Tally("R1", "SIGKILL at a random moment, a quarter of them inside saving; then --resume: bit-identical")
    left = {in_saving: scaled(IN_SAVING, share), in_steps: scaled(KILLS // 2, share)}
    left[at_any_time] = max(1, scaled(KILLS, share) - sum(left.values()))
    chance, number, inside = random.Random(1), 0, 0
    every = chance.sample([*kinds().values()], min(len(kinds()), scaled(len(kinds()), 10 * share)))
    wanted: dict[int, dict[str, str]] = {}
    while any(left.values()):
        which = number % len(every)
        settings = every[which] | EVERY
        if which not in wanted:
            wanted[which] = result(ground.finished(settings))
        out, number, kills = ground.new(), number + 1, 0
        problems: list[str] = []
        for _ in range(A_RUN * TRIES):
            moments = [moment for moment, count in left.items() if count]
            if not moments or kills == A_RUN:
                break
            moment = chance.choice(moments)
            process = ground.resume(out, settings)
            hit = moment(process, out, chance)
            code = process.wait()
            if code not in (0, -signal.SIGKILL):
                problems.append(f"{settings['optimizer']}: resume left with {code}: {process.told()[-300:]}")
                break
            if hit and code == -signal.SIGKILL:
                left[moment] -= 1
                kills += 1
                inside += moment is in_saving
                out = out if _has_learned(out) else ground.new()
            if code == 0:
                break
        process = ground.resume(out, settings)
        if process.wait() != 0:
            problems.append(f"{settings['optimizer']}: resume left with {process.code}: {process.told()[-300:]}")
        elif differs := unlike(result(out), wanted[which]):
            problems.append(f"{settings['optimizer']}: {', '.join(differs)} differ after {kills} kills")
        for _ in range(kills):
            tally.count(*problems)
            problems = problems and ["as above"]
        if problems and not kills:
            tally.count(*problems)
    return tally.outcome(f"{number} runs, {inside} kills inside saving")


def at_any_time(process: Process, _out: Path, chance: random.Random) -> bool:
    """Within the first seconds: reading, encoding, loading, the first steps."""
    time.sleep(chance.uniform(0, 3))
    return _kill(process)


def in_steps(process: Process, _out: Path, chance: random.Random) -> bool:
    """Some milliseconds after a random step."""
    step = chance.randrange(1, STEPS)
    if not watch(process, lambda told: any(one["report"] == "step" and one["number"] >= step for one in told)):
        return False
    time.sleep(chance.uniform(0, 0.05))
    return _kill(process)


def in_saving(process: Process, out: Path, chance: random.Random) -> bool:
    """While a checkpoint is being written: what is half-written is left to see."""
    before, after = chance.randrange(6), chance.uniform(0, WRITING)
    seen: set[str] = set()
    while process.poll() is None:
        now = set(unfinished(out))
        if now - seen:
            seen |= now
            if len(seen) > before:
                time.sleep(after)
                _kill(process)
                process.wait()
                return bool(unfinished(out))
    return False


def unfinished(out: Path) -> list[str]:
    """Names of checkpoints that are being written, or whose writer is gone."""
    try:
        return [name for name in os.listdir(out / "checkpoints") if ".tmp-" in name]
    except FileNotFoundError:
        return []


def _has_learned(out: Path) -> bool:
    """Whether there is something to resume; before the first checkpoint --resume says to begin a new run."""
    return (out / "checkpoints" / "latest").exists()


def _kill(process: Process) -> bool:
    if process.poll() is not None:
        return False
    process.kill(signal.SIGKILL)
    return True
