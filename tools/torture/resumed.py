"""R2: a training that is saved and resumed after any of its steps ends in the same bits."""

from __future__ import annotations

import random
import signal
import tempfile
from itertools import product
from pathlib import Path

from sdtune.config import Tables
from sdtune.core.checkpoint import Checkpoints
from sdtune.core.reports import Step
from sdtune.core.state import State
from tools.torture.ground import STEPS, Ground, kinds, result, unlike, watch
from tools.torture.outcome import Outcome, Tally, scaled
from tools.torture.workshop import Workshop, state_print, to_the_end, workshop

ON_DISK = 10  # every so many-th goes through files


def resumed(ground: Ground, share: float) -> Outcome:
    """Every step of every optimizer, accumulation and average; in memory, on disk, in processes."""
    what = "save and resume at every step of 60, every optimizer, accumulation 1 and 3, EMA off and on: bit-identical"
    tally = Tally("R2", what)
    chance = random.Random(2)
    every = list(product(kinds().items(), (1, 3), (0.0, 0.9)))
    for (kind, own), accumulate, decay in chance.sample(every, min(len(every), scaled(len(every), 10 * share))):
        settings: Tables = own | {"accumulate": accumulate, "ema": {"decay": decay}, "batch_size": 1}
        name = f"{kind}, accumulate {accumulate}, EMA {decay:g}"
        _in_memory(tally, workshop(ground, settings), name, share, chance)
        _in_processes(tally, ground, settings, name, chance)
    return tally.outcome()


def _in_memory(tally: Tally, shop: Workshop, name: str, share: float, chance: random.Random) -> None:
    """One training that is never stopped, and one for each of its steps that begins with the state after it."""
    training, _ = shop.training()
    states: list[State] = [training.state()]
    states += [training.state() for report in training.steps(STEPS) if isinstance(report, Step)]
    wanted = state_print(states.pop())
    steps = sorted(chance.sample(range(STEPS), scaled(STEPS, share)))
    for number, step in enumerate(steps):
        state = states[step]
        if number % ON_DISK == 0:
            with tempfile.TemporaryDirectory() as folder:
                Checkpoints(Path(folder)).save(state, keep=1)
                read, lines = Checkpoints(Path(folder)).newest()
            if read is None or lines or state_print(read) != state_print(state):
                tally.count(f"{name}: step {step} comes back from the disk as another: {lines}")
                continue
            state = read
        other, _ = shop.training()
        other.load(state)
        to_the_end(other, STEPS)
        differs = unlike(state_print(other.state()), wanted)
        tally.count(*([f"{name}: resumed after step {step}, {', '.join(differs)} differ"] if differs else []))


def _in_processes(tally: Tally, ground: Ground, settings: Tables, name: str, chance: random.Random) -> None:
    """The same with the command line, SIGTERM and --resume."""
    wanted, out, step = result(ground.finished(settings)), ground.new(), chance.randrange(1, STEPS)
    process = ground.train(out, settings)
    watch(process, lambda told: any(one["report"] == "step" and one["number"] >= step for one in told))
    process.kill(signal.SIGTERM)
    process.wait()
    again = ground.resume(out, settings)
    if again.wait() != 0:
        tally.count(f"{name}: resume left with {again.code}: {again.told()[-300:]}")
        return
    differs = unlike(result(out), wanted)
    tally.count(*([f"{name}: stopped at step {step}, {', '.join(differs)} differ"] if differs else []))
