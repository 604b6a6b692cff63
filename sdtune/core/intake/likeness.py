"""Groups of near-duplicates: each image goes to the first that was kept and that it is alike to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from sdtune.core.intake.measures import alike

BLOCK = 64  # images that are compared at once
SPAN = 4096  # leaders that they are compared with at once: 64 x 4096 hashes of 8 bytes are 2 MB, which a cache holds
PAIRS = 4096  # pairs of tints compared at once: 4096 x 192 numbers of 8 bytes are 6 MB

Indices = NDArray[numpy.int64]


@dataclass(frozen=True)
class Group:
    """Images that are alike to one of them; by their index."""

    leader: int
    """the one that came first"""
    members: tuple[int, ...]
    """the others, at least one, in the order given"""


def groups(hashes: NDArray[numpy.uint64], tints: NDArray[numpy.uint8], order: Sequence[int], bits: int) -> list[Group]:
    """Groups of two and more of the images with these hashes [n] and tints [n, 192], ordered by their leaders.

    Images come in the given order (indices, the best first). Each joins the first leader that it is alike to, else it
    is one itself: there are no chains, at whose ends images are no longer alike.
    """
    places = numpy.asarray(order, dtype=numpy.int64)
    leaders = numpy.empty(len(places), dtype=numpy.int64)
    count = 0
    members: dict[int, list[int]] = {}
    for start in range(0, len(places), BLOCK):
        block = places[start : start + BLOCK]
        found = _first(hashes, tints, block, leaders[:count], bits)
        rest = block[found < 0]
        among = _all(hashes, tints, rest, bits)
        new: list[int] = []  # places in rest
        for place in range(len(rest)):
            hits = among[place, new]
            if hits.any():
                members.setdefault(int(rest[new[int(hits.argmax())]]), []).append(int(rest[place]))
            else:
                new.append(place)
        for image, leader in zip(block[found >= 0], leaders[found[found >= 0]], strict=True):
            members.setdefault(int(leader), []).append(int(image))
        leaders[count : count + len(new)] = rest[new]
        count += len(new)
    return [Group(int(one), tuple(members[one])) for one in leaders[:count].tolist() if one in members]


def _first(
    hashes: NDArray[numpy.uint64], tints: NDArray[numpy.uint8], images: Indices, leaders: Indices, bits: int
) -> Indices:
    """For each image the place of the first leader that it is alike to; -1: none."""
    found = numpy.full(len(images), -1, dtype=numpy.int64)
    for start in range(0, len(leaders), SPAN):
        still = numpy.flatnonzero(found < 0)
        span = leaders[start : start + SPAN]
        rows, columns = _near(hashes[images[still]], hashes[span], bits)
        for part in range(0, len(rows), PAIRS):
            row, column = still[rows[part : part + PAIRS]], columns[part : part + PAIRS]
            a, b = images[row], span[column]
            same = alike(hashes[a], hashes[b], tints[a], tints[b], bits)
            row, first = numpy.unique(row[same], return_index=True)  # columns rise within a row
            fresh = found[row] < 0
            found[row[fresh]] = start + column[same][first[fresh]]
    return found


def _all(
    hashes: NDArray[numpy.uint64], tints: NDArray[numpy.uint8], images: Indices, bits: int
) -> NDArray[numpy.bool_]:
    """Which images of a block are alike to which, [b, b]."""
    matrix = numpy.zeros((len(images), len(images)), dtype=numpy.bool_)
    rows, columns = _near(hashes[images], hashes[images], bits)
    for part in range(0, len(rows), PAIRS):
        row, column = rows[part : part + PAIRS], columns[part : part + PAIRS]
        a, b = images[row], images[column]
        matrix[row, column] = alike(hashes[a], hashes[b], tints[a], tints[b], bits)
    return matrix


def _near(a: NDArray[numpy.uint64], b: NDArray[numpy.uint64], bits: int) -> tuple[Indices, Indices]:
    """Places in a and b of the pairs whose hashes are near enough, row by row; tints are then looked at for few."""
    rows, columns = numpy.nonzero(numpy.bitwise_count(a[:, None] ^ b[None, :]) <= bits)
    return rows.astype(numpy.int64, copy=False), columns.astype(numpy.int64, copy=False)
