"""Two processes train as one does, end together, and nobody waits for one that is gone."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tools.torture.alike import processes, together
from tools.torture.ground import Ground, ground, watch
from tools.torture.nursery import Process
from tools.torture.outcome import Tally

ENDLESS = {"steps": 100_000}
SPELLED = "of 2: another has ended"


@pytest.fixture(scope="module")
def place() -> Iterator[Ground]:
    """One for all."""
    with ground() as made:
        yield made


def in_the_midst(place: Ground, out: Path, at: int = 5) -> list[Process]:
    """Two processes that have learned something."""
    started = together(place, place.words(out, ENDLESS))
    assert watch(started[0], lambda told: any(one["report"] == "step" and one["number"] >= at for one in told))
    return started


def codes(started: Sequence[Process]) -> list[int | None]:
    """What they leave with, well before the day is over."""
    return [process.wait(60) for process in started]


def test_two_processes_learn_what_one_does_and_each_goes_on_where_the_other_stopped(place: Ground) -> None:
    tally = Tally("R8", "two processes")
    processes(tally, place)
    assert tally.problems == []
    assert tally.tried == 3


def test_a_signal_ends_both_and_the_leader_alone_writes_and_speaks(place: Ground) -> None:
    out = place.new()
    leader, other = started = in_the_midst(place, out)
    for process in started:
        process.kill(signal.SIGTERM)
    assert codes(started)[0] == 143
    assert other.code in (0, 143)
    last = max(one["number"] for one in map(json.loads, leader.out.read_text().splitlines()) if one["report"] == "step")
    assert (out / "checkpoints" / f"step-{last:06d}").is_dir()
    assert len((out / "metrics.jsonl").read_text().splitlines()) == last
    assert other.out.read_text() == ""
    assert "training" not in other.told()


@pytest.mark.parametrize("gone", [0, 1])
def test_who_is_killed_ends_the_other_with_a_line(place: Ground, gone: int) -> None:
    out = place.new()
    started = in_the_midst(place, out, at=15)
    stays = started[1 - gone]
    started[gone].kill(signal.SIGKILL)
    assert codes(started)[1 - gone] == 1
    told = [line for line in stays.told().splitlines() if SPELLED in line]
    assert len(told) == 1, stays.told()
    assert "Traceback" not in stays.told()
    again = place.resume(out, {"steps": 25})
    assert again.wait() == 0, again.told()
