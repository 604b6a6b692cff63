"""A sample of every proof in tools/torture, whose whole is `make torture`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tools.torture.__main__ import table
from tools.torture.alike import batches
from tools.torture.bad_numbers import bad_numbers
from tools.torture.ground import Ground, ground
from tools.torture.killed import killed
from tools.torture.no_room import no_room
from tools.torture.outcome import Outcome, Tally
from tools.torture.repeats import repeats
from tools.torture.resumed import resumed
from tools.torture.stopped import stopped


@pytest.fixture(scope="module")
def place() -> Iterator[Ground]:
    """One for all."""
    with ground() as made:
        yield made


def portions(at: Ground, share: float) -> Outcome:
    """Batches in other portions."""
    tally = Tally("R8", "batches")
    batches(tally, at, share)
    return tally.outcome()


@pytest.mark.parametrize(
    ("experiment", "share", "least"),
    [
        (killed, 0.01, 2),
        (resumed, 0.005, 2),
        (stopped, 0.025, 2),
        (bad_numbers, 0.03, 7),
        (no_room, 0.01, 1),
        (portions, 0.5, 1),
        (repeats, 0.05, 1),
    ],
)
def test_a_sample(place: Ground, experiment: Callable[[Ground, float], Outcome], share: float, least: int) -> None:
    outcome = experiment(place, share)
    assert outcome.passed == outcome.tried, table([outcome]) + "\n".join(outcome.problems)
    assert outcome.tried >= least
