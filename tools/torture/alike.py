"""R8: what should not matter does not: workers, validation, previews, how reports look, how a batch is split."""

from __future__ import annotations

import math
import random
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from sdtune.config import Tables
from tools.torture.ground import STEPS, Ground, apart, metrics, result, unlike, watch, weights
from tools.torture.nursery import Process
from tools.torture.outcome import Outcome, Tally, scaled

NEVER = 10**6
SPLIT, PEERS = 1e-6, 1e-5
DRAWING: Tables = {"off": False, "every": 20, "steps": 3, "prompts": ["a red disc"]}
SAME: tuple[tuple[str, Tables], ...] = (
    ("one worker", {"limits": {"workers": 1}}),
    ("four workers", {"limits": {"workers": 4}}),
    ("validation at each step", {"validation": {"every": 1}}),
    ("validation every 7 steps", {"validation": {"every": 7}}),
    ("no validation", {"validation": {"every": NEVER}}),
    ("previews", {"samples": DRAWING}),
    ("no checkpoints on the way", {"save": {"every": NEVER}}),
    ("a checkpoint at each step", {"save": {"every": 1}}),
    ("a cache in memory", {"cache": {"place": "memory"}}),
    ("another cache of latents", {"cache": {"memory": 0.000001}}),
)
BATCHES: tuple[Tables, ...] = ({"batch_size": 2, "accumulate": 2}, {"batch_size": 1, "accumulate": 4})


def alike(ground: Ground, share: float) -> Outcome:
    """The same LoRA, in bits or as near as sums in another order can be."""
    tally = Tally(
        "R8", "workers, validation, previews, --json: bit-identical; batch 4x1, 2x2, 1x4: 1e-6; 2 processes: 1e-5"
    )
    wanted = result(ground.finished())
    for name, settings in random.Random(8).sample(SAME, scaled(len(SAME), share)):
        differs = unlike(result(ground.finished(settings)), wanted)
        tally.count(*([f"{name}: {', '.join(differs)} differ"] if differs else []))
    _plain_lines(tally, ground, wanted)
    split = batches(tally, ground, share)
    peers = processes(tally, ground) if share >= 1 / 3 else 0.0
    return tally.outcome(f"batches {split:.0e}, processes {peers:.0e} apart")


def _plain_lines(tally: Tally, ground: Ground, wanted: dict[str, str]) -> None:
    out = ground.new()
    words = ground.words(out, None, "--samples.off")
    process = ground.nursery.start(words)
    left = process.wait()
    differs = unlike(result(out), wanted) if left == 0 else [f"left with {left}: {process.told()[-300:]}"]
    tally.count(*([f"without --json: {', '.join(differs)}"] if differs else []))


def batches(tally: Tally, ground: Ground, share: float) -> float:
    """The largest distance of LoRAs whose steps of four images come in other portions."""
    whole = weights(ground.finished({"batch_size": 4, "save": {"dtype": "fp32"}}))
    largest = 0.0
    for settings in BATCHES[: scaled(len(BATCHES), share)]:
        distance = apart(weights(ground.finished(settings | {"save": {"dtype": "fp32"}})), whole)
        largest = max(largest, distance)
        tally.count(*([f"{settings}: {distance:.1e} from 4x1"] if distance > SPLIT else []))
    return largest


def processes(tally: Tally, ground: Ground) -> float:
    """Two processes of two images each, and one of four; each goes on with the other's checkpoint, too."""
    fp32: Tables = {"save": {"dtype": "fp32", "every": 7}}
    one, two = fp32 | {"batch_size": 4}, fp32 | {"batch_size": 2}
    alone = ground.finished(one)
    both = ground.new()
    largest = _compare(tally, "two processes", both, alone, together(ground, ground.words(both, two)))
    for name, first, second in (("one, then two", [one], [two, two]), ("two, then one", [two, two], [one])):
        out = ground.new()
        _stopped(ground, out, first)
        words = ground.words(out, second[0])
        place = words.index("--out")
        words[place : place + 2] = ["--resume", str(out), "--allow-changes"]
        largest = max(largest, _compare(tally, name, out, alone, together(ground, words, len(second))))
    return largest


def _compare(tally: Tally, name: str, out: Path, alone: Path, started: Sequence[Process]) -> float:
    """How far apart losses and weights are, once all processes have ended."""
    codes = [process.wait() for process in started]
    if any(codes):
        tally.count(f"{name}: left with {codes}: {' '.join(process.told()[-300:] for process in started)}")
        return math.inf
    losses, wanted = metrics(out), metrics(alone)
    if [step for step, _ in losses] != [step for step, _ in wanted]:
        tally.count(f"{name}: steps {[step for step, _ in losses]}")
        return math.inf
    far = max(abs(loss - other) / abs(other) for (_, loss), (_, other) in zip(losses, wanted, strict=True))
    far = max(far, apart(weights(out), weights(alone)))
    tally.count(*([f"{name}: {far:.1e} from one process"] if far > PEERS else []))
    return far


def _stopped(ground: Ground, out: Path, settings: Sequence[Tables]) -> None:
    """A training that was ended in the middle."""
    started = together(ground, ground.words(out, settings[0]), len(settings))
    watch(started[0], lambda told: any(one["report"] == "step" and one["number"] >= STEPS // 2 for one in told))
    for process in started:  # as torchrun passes a signal on
        process.kill(signal.SIGTERM)
    for process in started:
        process.wait()


def together(ground: Ground, words: Sequence[str], of: int = 2) -> list[Process]:
    """Processes as torchrun starts them; the first one leads."""
    if of == 1:
        return [ground.nursery.start(words)]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(of), "LOCAL_WORLD_SIZE": str(of)}
    own = [{"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(of)]
    return [ground.nursery.start(words, **where, **one) for one in own]
