"""Draws depend on (seed, purpose, step, slot) alone, however a batch is split."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sdtune.core.draws import Draws, generator

seeds = st.integers(0, 2**63 - 1)
steps = st.integers(0, 10**6)


@given(seeds, steps, st.integers(1, 8), st.data())
def test_a_batch_split_anywhere_draws_the_same(seed: int, step: int, size: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, size))
    whole, left, right = (Draws(seed, step, slots, size) for slots in (range(size), range(cut), range(cut, size)))
    for draw in (lambda draws: draws.normal("a", (2, 3)), lambda draws: draws.uniform("a"), Draws.numbers):
        parts = [draw(part) for part in (left, right) if len(part.slots)]
        assert torch.equal(torch.cat(parts), draw(whole))
    assert whole.part(cut, size - cut) == Draws(seed, step, range(cut, size), size)


@given(seeds, steps)
def test_another_seed_step_slot_or_purpose_draws_something_else(seed: int, step: int) -> None:
    draws = Draws(seed, step, range(2), 2)
    first, second = draws.normal("a", (4,))
    others = [second, draws.normal("b", (4,))[0]]
    others += [
        other.normal("a", (4,))[0] for other in (Draws(seed ^ 1, step, range(2), 2), Draws(seed, step + 1, range(2), 2))
    ]
    assert not any(torch.equal(first, other) for other in others)


def test_the_numbers_of_a_run_follow_each_other() -> None:
    told = [number for step in range(3) for number in Draws(0, step, range(4), 4).numbers().tolist()]
    assert told == list(range(12))


def test_draws_are_the_same_on_every_machine() -> None:
    assert generator(0, "noise", 1, 2).initial_seed() == 5938781660159604271
    assert Draws(0, 0, range(1), 1).uniform("a").item() == 0.8920534525642755
    assert Draws(7, 0, range(1), 1).constant("timestep") == Draws(7, 9, range(5), 8).constant("timestep")


def test_draws_have_the_distribution_that_they_should() -> None:
    draws = Draws(3, 0, range(2000), 2000)
    normal, uniform = draws.normal("n", (4,)), draws.uniform("u")
    assert abs(normal.mean()) < 0.05
    assert abs(normal.std() - 1) < 0.05
    assert 0 <= uniform.min() <= uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.03
    assert uniform.dtype == torch.float64
