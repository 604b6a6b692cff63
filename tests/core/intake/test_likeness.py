from __future__ import annotations

import subprocess
import sys
import time
from unittest.mock import patch

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sdtune.core.intake import likeness
from sdtune.core.intake.likeness import Group, groups
from sdtune.core.intake.measures import alike

Images = tuple[NDArray[numpy.uint64], NDArray[numpy.uint8]]


@st.composite
def images(draw: st.DrawFn) -> Images:
    """Images around a few others, so that many pairs are just near enough or just not."""
    random = numpy.random.default_rng(draw(st.integers(0, 2**32)))
    count, kinds = draw(st.integers(0, 60)), draw(st.integers(1, 4))
    hashes = random.integers(0, 2**64, kinds, dtype=numpy.uint64)[random.integers(0, kinds, count)]
    for _ in range(draw(st.integers(0, 6))):
        hashes ^= numpy.uint64(1) << random.integers(0, 16, count, dtype=numpy.uint64)
    base = random.integers(60, 180, (2, 192))[random.integers(0, 2, count)]
    wide = draw(st.integers(5, 20))  # two such noises are two thirds of it apart in the mean; 12 is alike
    noise = random.integers(-wide, wide + 1, (count, 192)) + random.integers(-3, 4, (count, 1))
    return hashes, (base + noise).astype(numpy.uint8)


def plain(images: Images, order: list[int], bits: int) -> list[Group]:
    hashes, tints = images
    found: dict[int, list[int]] = {}
    for one in order:
        for leader in found:
            if alike(hashes[[one]], hashes[[leader]], tints[[one]], tints[[leader]], bits).all():
                found[leader].append(one)
                break
        else:
            found[one] = []
    return [Group(leader, tuple(members)) for leader, members in found.items() if members]


@settings(max_examples=300, deadline=None)
@given(images(), st.integers(0, 16), st.data())
def test_as_a_plain_double_loop_whatever_the_chunks(images: Images, bits: int, data: st.DataObject) -> None:
    count = len(images[0])
    order = data.draw(st.permutations(range(count)))[: data.draw(st.integers(0, count))]
    sizes = {name: data.draw(st.integers(1, 70)) for name in ("BLOCK", "SPAN", "PAIRS")}
    with patch.multiple(likeness, **sizes):
        assert groups(*images, order, bits) == plain(images, order, bits)


def test_the_examples_above_hold_groups_of_all_sorts() -> None:
    """Else the test above would show little."""
    sizes: set[int] = set()

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(images())
    def look(images: Images) -> None:
        sizes.update(len(group.members) for group in groups(*images, range(len(images[0])), 6))

    look()
    assert {1, 2, 3, 5, 8} <= sizes


def test_no_chains() -> None:
    hashes = numpy.array([0b0, 0b111, 0b111111, 0b1], dtype=numpy.uint64)
    tints = numpy.zeros((4, 192), dtype=numpy.uint8)
    assert groups(hashes, tints, [0, 1, 2, 3], 3) == [Group(0, (1, 3))]
    assert groups(hashes, tints, [1, 0, 2, 3], 3) == [Group(1, (0, 2, 3))]
    assert groups(hashes, tints, [3, 2, 1], 2) == [Group(3, (1,))]
    assert groups(hashes, tints, [], 3) == []


LARGE = """
import resource, numpy
from sdtune.core.intake.likeness import groups
random = numpy.random.default_rng(0)
count = 20_000
hashes = random.integers(0, 2**64, count, dtype=numpy.uint64)
tints = random.integers(0, 256, (count, 192), dtype=numpy.uint8)
hashes[count // 2 :: 7], tints[count // 2 :: 7] = hashes[0], tints[0]  # one group of many
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = groups(hashes, tints, range(count), 6)
print(len(found), len(found[0].members), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_many_images_take_little_memory_and_time() -> None:
    start = time.monotonic()
    told = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True).stdout
    count, members, megabytes = map(int, told.split())
    assert (count, members) == (1, 1429)
    assert megabytes < 60
    assert time.monotonic() - start < 200
