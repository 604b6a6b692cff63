"""Every image comes as often as it should, in passes of one size, as a pure function of (manifest, seed, number)."""

from __future__ import annotations

import hashlib
import math
import os
import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdtune.core.data.buckets import Size
from sdtune.core.data.plan import Alternating, LargestFirst, Place, Plan, Stream, plan_for

ROOT = Path(__file__).parents[3]
SIZES = [(64, 64), (64, 96), (96, 64), (128, 64), (128, 128)]


@dataclass(frozen=True)
class Images:
    """What a plan is made of."""

    sizes: list[list[Size]]
    repeats: list[int]
    priors: list[bool]

    def plan(self, batch_size: int, seed: int = 0, manifest: str = "a", **more: Any) -> Plan:
        return Plan(self.sizes, self.repeats, batch_size=batch_size, seed=seed, manifest=manifest, **more)

    def stream(self, batch_size: int, seed: int = 0, manifest: str = "a") -> Stream:
        return plan_for(self.sizes, self.repeats, self.priors, batch_size=batch_size, seed=seed, manifest=manifest)

    def own(self, prior: bool = False) -> dict[int, int]:
        """{image: repeats} of those that are not priors, or are."""
        return {n: times for n, times in enumerate(self.repeats) if self.priors[n] == prior}


def some_images(draw: random.Random) -> Images:
    count = draw.choice((1, 2, 3, 5, 8, 20, 60))
    kinds, most, resolutions = draw.randint(1, len(SIZES)), draw.choice((1, 1, 3, 12)), draw.choice((1, 1, 3))
    return Images(
        [draw.sample(SIZES[:kinds], draw.randint(1, min(kinds, resolutions))) for _ in range(count)],
        [draw.randint(1, most) for _ in range(count)],
        [draw.random() < 0.4 for _ in range(count)],
    )


images = st.integers(0, 2**32).map(lambda seed: some_images(random.Random(seed)))
batch_sizes = st.integers(1, 9)
seeds = st.integers(0, 2**63 - 1)


def steps(stream: Stream, epoch: int = 0, epochs: int = 1) -> list[list[list[Place]]]:
    return [stream.at(epoch * stream.steps_an_epoch + number) for number in range(epochs * stream.steps_an_epoch)]


def seen(of: list[list[list[Place]]]) -> Counter[int]:
    return Counter(image for step in of for one in step for image, _ in one)


def must_be_of_one_size(told: Images, of: list[list[list[Place]]]) -> None:
    for step in of:
        found = [{told.sizes[image][which] for image, which in one} for one in step]
        assert all(len(sizes) == 1 for sizes in found)
        assert len(set.union(*found)) == len(found)  # and a size has one pass


def test_nothing_is_lost_or_repeated_in_an_epoch_of_1000_data_sets() -> None:
    draw = random.Random(0)
    for _ in range(1000):
        told, batch_size, epoch = some_images(draw), draw.randint(1, 9), draw.randint(0, 1000)
        plan = told.plan(batch_size, draw.getrandbits(63))
        epochs = steps(plan, epoch)
        assert seen(epochs) == dict(enumerate(told.repeats))
        must_be_of_one_size(told, epochs)
        total = sum(told.repeats)
        assert plan.steps_an_epoch == -(-total // batch_size)
        lengths = sorted(sum(map(len, step)) for step in epochs)
        assert lengths == sorted([batch_size] * (total // batch_size) + [total % batch_size] * bool(total % batch_size))


@given(images, batch_sizes, seeds, st.integers(0, 1000))
def test_whole_batches_are_of_one_size_as_far_as_they_go(told: Images, size: int, seed: int, epoch: int) -> None:
    epochs = steps(told.plan(size, seed), epoch)
    by_size = Counter(told.sizes[image][which] for step in epochs for one in step for image, which in one)
    assert sum(len(step[0]) == size for step in epochs) >= sum(count // size for count in by_size.values())
    left_over = sum(count % size > 0 for count in by_size.values())
    assert sum(map(len, epochs)) <= sum(count // size for count in by_size.values()) + left_over + (
        -(-sum(count % size for count in by_size.values()) // size)
    )


@given(images, batch_sizes, seeds, st.lists(st.integers(0, 10_000), min_size=1, max_size=9))
def test_a_step_depends_on_its_number_alone(told: Images, size: int, seed: int, numbers: list[int]) -> None:
    stream, again = told.stream(size, seed), told.stream(size, seed)
    expected = {number: stream.at(number) for number in numbers}
    assert expected == {number: again.at(number) for number in sorted(numbers)}


def fingerprint() -> str:
    """Of the plans of a few data sets."""
    draw = random.Random(7)
    streams = [some_images(draw).stream(size, seed=3) for size in (1, 2, 5, 8)]
    return hashlib.sha256(repr([steps(stream, 5, 3) for stream in streams]).encode()).hexdigest()


def test_another_process_has_the_same_plan() -> None:
    words = "from tests.core.data.test_plan import fingerprint; print(fingerprint())"
    environment = {**os.environ, "PYTHONHASHSEED": "99", "OMP_NUM_THREADS": "2"}
    told = subprocess.run([sys.executable, "-c", words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() == fingerprint()


@pytest.mark.parametrize("priors", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_seeds_manifests_and_epochs_have_orders_of_their_own(size: int, priors: bool) -> None:
    told = Images([[SIZES[0]]] * 60, [1] * 60, [priors and n % 2 == 0 for n in range(60)])
    first = told.stream(size)
    orders = [
        steps(first),
        steps(first, epoch=1),
        steps(told.stream(size, seed=1)),
        steps(told.stream(size, manifest="b")),
    ]
    assert len({repr(order) for order in orders}) == 4
    if size > 1:  # the images that stand together differ too
        batches = [{frozenset(image for one in step for image, _ in one) for step in order} for order in orders]
        assert all(len(one & other) <= 4 for n, one in enumerate(batches) for other in batches[:n])


def test_mixed_steps_stand_anywhere() -> None:
    told = Images([[SIZES[n % 5]] for n in range(18)], [1] * 18, [False] * 18)
    mixed = Counter(
        number for epoch in range(1000) for number, step in enumerate(steps(told.plan(4), epoch)) if len(step) > 1
    )
    assert set(mixed) == set(range(5))
    assert max(mixed.values()) < 1.5 * min(mixed.values())


@given(st.integers(2, 40), st.integers(1, 8), batch_sizes, seeds)
def test_what_repeats_does_not_stand_twice_in_a_whole_batch(count: int, times: int, size: int, seed: int) -> None:
    told = Images([[SIZES[0]]] * count, [times] * count, [False] * count)
    found = [Counter(image for image, _ in step[0]) for step in steps(told.plan(size, seed))]
    twice = sum(max(one.values()) > 1 for one in found)
    if count >= 2 * size:
        assert twice <= 1  # the last one, which holds what is left
    elif count >= size:
        assert twice <= 1 + len(found) / 4


def test_what_repeats_most_is_spread() -> None:
    told = Images([[SIZES[0]]] * 51, [50] + [1] * 50, [False] * 51)
    for epoch in range(20):
        held = [sum(image == 0 for image, _ in step[0]) for step in steps(told.plan(4), epoch)]
        assert sum(held) == 50
        assert sum(count == 2 for count in held) >= 15


@settings(max_examples=50)
@given(images, batch_sizes, seeds, st.integers(0, 100))
def test_all_sizes_of_an_image_come_evenly(told: Images, batch_size: int, seed: int, epoch: int) -> None:
    plan = told.plan(batch_size, seed)
    for epochs in (1, 2, 3, 6):
        shown = Counter(place for step in steps(plan, epoch, epochs) for one in step for place in one)
        for image, sizes in enumerate(told.sizes):
            times = [shown[image, which] for which in range(len(sizes))]
            assert sum(times) == epochs * told.repeats[image]
            assert max(times) - min(times) <= 1


def test_an_epoch_is_a_mix_of_sizes() -> None:
    told = Images([SIZES[:3]] * 300, [1] * 300, [False] * 300)
    for epoch in range(5):
        shown = Counter(which for step in steps(told.plan(4), epoch) for one in step for _, which in one)
        assert all(60 < shown[which] < 140 for which in range(3))


@given(images, batch_sizes, seeds, st.integers(0, 20))
def test_own_images_and_priors_share_each_step(told: Images, batch_size: int, seed: int, epoch: int) -> None:
    own, priors = told.own(), told.own(prior=True)
    stream = told.stream(batch_size, seed)
    epochs = steps(stream, epoch)
    must_be_of_one_size(told, epochs)
    assert isinstance(stream, LargestFirst)
    if not (own and priors):
        assert isinstance(stream.stream, Plan)
        assert seen(epochs) == dict(enumerate(told.repeats))
        return
    assert isinstance(stream.stream, Alternating)
    counts = seen(epochs)
    assert {image: counts[image] for image in own} == own
    for number, step in enumerate(epochs):
        kinds = Counter(told.priors[image] for one in step for image, _ in one)
        if batch_size == 1 and epoch:  # in the first, one of the largest has changed places
            assert kinds == {number % 2 == 1: 1}
        elif batch_size == 1:
            assert sum(kinds.values()) == 1
        else:
            assert kinds[True] == batch_size // 2
            assert 1 <= kinds[False] <= (batch_size + 1) // 2
    own_a_step = (batch_size + 1) // 2
    short = sum(sum(not told.priors[image] for one in step for image, _ in one) < own_a_step for step in epochs)
    assert short <= (1 if batch_size > 1 else len(epochs) // 2)


@settings(max_examples=50)
@given(images, batch_sizes, seeds)
def test_all_priors_come_equally_often(told: Images, batch_size: int, seed: int) -> None:
    own, priors = told.own(), told.own(prior=True)
    if not (own and priors):
        return
    stream = Alternating(told.sizes, told.repeats, told.priors, batch_size=batch_size, seed=seed, manifest="a")
    a_step, total = max(1, batch_size // 2), sum(priors.values())
    taken = Counter[int]()
    number = 0
    for _ in range(5):  # as long as it takes to go round all of them
        for _ in range(-(-total // a_step) * (2 if batch_size == 1 else 1)):
            taken += Counter(image for one in stream.at(number) for image, _ in one if told.priors[image])
            number += 1
        rounds = sum(taken.values()) / total
        for image, times in priors.items():
            assert abs(taken[image] - rounds * times) <= times


@given(images, st.integers(1, 40), seeds, st.integers(0, 50))
def test_with_full_steps_one_epoch_goes_on_where_the_last_ended(told: Images, size: int, seed: int, epoch: int) -> None:
    plan = told.plan(size, seed, full=True)
    shown = steps(plan, epoch, 3)
    assert {sum(map(len, step)) for step in shown} == {size}
    must_be_of_one_size(told, shown)
    before, after = (epoch * plan.steps_an_epoch * size, (epoch + 3) * plan.steps_an_epoch * size)
    total = sum(told.repeats)
    rounds = -(-after // total) - before // total, after // total - -(-before // total)
    for image, times in enumerate(told.repeats):
        assert rounds[1] * times <= seen(shown)[image] <= rounds[0] * times


@given(images, batch_sizes, seeds)
def test_the_step_with_the_most_pixels_of_a_size_comes_first_and_nothing_else_moves(
    told: Images, batch_size: int, seed: int
) -> None:
    stream = told.stream(batch_size, seed)
    assert isinstance(stream, LargestFirst)

    def pixels(step: list[list[Place]]) -> int:
        return max(math.prod(told.sizes[one[0][0]][one[0][1]]) * len(one) for one in step)

    first = steps(stream)
    assert pixels(first[0]) == max(map(pixels, first))
    before = steps(stream.stream)
    moved = [number for number, step in enumerate(first) if step != before[number]]
    assert len(moved) in (0, 2)
    if moved:
        assert (first[0], first[moved[1]]) == (before[moved[1]], before[0])
    assert steps(stream, 1, 2) == steps(stream.stream, 1, 2)


def test_a_plan_of_nothing_is_refused() -> None:
    with pytest.raises(AssertionError, match="some images"):
        Plan([], [], batch_size=1, seed=0, manifest="")


def test_memory_stays_flat_however_long_it_goes_on() -> None:
    told = Images([[SIZES[n % 5]] for n in range(20_000)], [1] * 20_000, [False] * 20_000)
    plan = told.plan(4)
    held = []
    tracemalloc.start()
    try:
        for epoch in range(12):
            plan.at(epoch * plan.steps_an_epoch)
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[0] > 8 * 20_000
    assert max(held[2:]) < 1.1 * held[1]
