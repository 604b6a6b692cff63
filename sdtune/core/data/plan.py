"""The plan: which images a step sees, as a pure function of (manifest, seed, epoch)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby, islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from sdtune.core.draws import generator

Place = tuple[int, int]
"""which image, which of its sizes"""
Size = tuple[int, int]
Integers = NDArray[np.int64]


class Stream(Protocol):
    """Endless steps over images, by number."""

    steps_an_epoch: int
    """steps in which all images are seen (of a training with priors: all but them)"""

    def at(self, number: int) -> list[list[Place]]:
        """The images of step `number` (from 0, without end): one list for each size."""


class Plan:
    """The endless stream of steps over a data set, by number.

    `sizes` holds the bucket sizes of each image, one for each resolution that it can have; `repeats` how often it comes
    an epoch. The last step of an epoch may be short; with `full`, a step that would be goes on with the next epoch.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[Size]],
        repeats: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        manifest: str,
        name: str = "order",
        full: bool = False,
    ) -> None:
        assert sizes, "a plan is of some images"
        assert all(sizes), "each image has a size"
        assert min(repeats) >= 1, "each image comes once an epoch at least"
        self.batch_size = batch_size
        self._key = (seed, manifest, name)
        self._repeats = np.array(repeats, dtype=np.int64)
        self._seen = np.repeat(np.arange(len(sizes)), self._repeats)  # the image that is seen, each time of an epoch
        self._turn = np.arange(len(self._seen)) - np.repeat(np.cumsum(self._repeats) - self._repeats, self._repeats)
        self._counts = np.array([len(one) for one in sizes])
        self._starts = np.cumsum(self._counts) - self._counts  # number of each image's first place
        self._image = np.repeat(np.arange(len(sizes)), self._counts)  # of each place
        known = {size: kind for kind, size in enumerate(sorted({size for one in sizes for size in one}))}
        self._kind = np.array([known[size] for one in sizes for size in one])  # the size of each place, by number
        self._offsets = (_uniform(len(sizes), generator(*self._key, "sizes")) * self._counts).astype(np.int64)
        self.steps_an_epoch = -(-len(self._seen) // batch_size)
        self._an_epoch = self.steps_an_epoch * batch_size if full else len(self._seen)
        self._plan = lru_cache(maxsize=2)(self._epoch)

    def at(self, number: int) -> list[list[Place]]:
        """The images of step `number` (from 0, without end): one list for each size."""
        epoch, step = divmod(number, self.steps_an_epoch)
        places, order = self._plan(epoch)
        start = int(order[step]) * self.batch_size
        chosen = places[start : start + self.batch_size]
        kinds, images = self._kind[chosen], self._image[chosen]
        told = zip(kinds.tolist(), images.tolist(), (chosen - self._starts[images]).tolist(), strict=True)
        return [[(image, which) for _, image, which in group] for _, group in groupby(told, key=lambda one: one[0])]

    def _epoch(self, epoch: int) -> tuple[Integers, Integers]:
        """The places of an epoch, batch after batch, and the order in which the steps take the batches."""
        first, total = epoch * self._an_epoch, len(self._seen)
        rounds = range(first // total, -(-(first + self._an_epoch) // total))
        start = first - rounds.start * total
        places = np.concatenate([self._round(number) for number in rounds])[start : start + self._an_epoch]
        random = generator(*self._key, epoch)
        kinds = self._kind[places]
        by_kind = np.argsort(kinds, kind="stable")
        groups = np.split(places[by_kind], np.flatnonzero(np.diff(kinds[by_kind])) + 1)
        whole, rest = [], []
        for number in torch.randperm(len(groups), generator=random).tolist():
            group = self._apart(groups[number])
            full = len(group) // self.batch_size * self.batch_size
            whole.append(group[:full])
            rest.append(group[full:])
        # The whole batches of all sizes fill steps evenly, so what is left over begins a step of its own.
        return np.concatenate(whole + rest), torch.randperm(self.steps_an_epoch, generator=random).numpy()

    def _round(self, number: int) -> Integers:
        """All images once, times their repeats, in random order; what repeats comes at about even distances."""
        drawn = _uniform(len(self._seen), generator(*self._key, number, "round"))
        order = np.argsort((self._turn + drawn) / self._repeats[self._seen], kind="stable")
        image, turn = self._seen[order], self._turn[order] + number * self._repeats[self._seen[order]]
        places: Integers = self._starts[image] + (self._offsets[image] + turn) % self._counts[image]
        return places

    def _apart(self, group: Integers) -> Integers:
        """The same places in such an order that no batch holds an image more often than it must."""
        images = self._image[group].tolist()
        times = Counter(images)
        if len(times) == len(images):
            return group
        batches = -(-len(group) // self.batch_size)
        coming, waiting = iter(zip(images, group.tolist(), strict=True)), defaultdict[int, list[int]](list)
        ordered: list[int] = []
        while len(ordered) < len(images):
            here = list(islice(waiting, self.batch_size))  # those that were put off come first, one of each
            held = Counter(here)
            ordered += [_take(waiting, image) for image in here]
            missing = self.batch_size - len(here)
            while missing and (follows := next(coming, None)):
                image, place = follows
                if held[image] * batches >= times[image]:
                    waiting[image].append(place)
                else:
                    held[image] += 1
                    ordered.append(place)
                    missing -= 1
            while missing and waiting:  # nothing else is left
                ordered.append(_take(waiting, next(iter(waiting))))
                missing -= 1
        return np.array(ordered)


class Alternating:
    """Own images and priors together, half of each step each; with one image a step they take turns."""

    def __init__(
        self,
        sizes: Sequence[Sequence[Size]],
        repeats: Sequence[int],
        priors: Sequence[bool],
        *,
        batch_size: int,
        seed: int,
        manifest: str,
    ) -> None:
        self._sizes = sizes
        self._turns = batch_size == 1
        own, prior = (
            [image for image, is_prior in enumerate(priors) if is_prior == wanted] for wanted in (False, True)
        )

        def plan(images: Sequence[int], batch_size: int, name: str, full: bool) -> Plan:
            chosen = [sizes[image] for image in images], [repeats[image] for image in images]
            return Plan(*chosen, batch_size=batch_size, seed=seed, manifest=manifest, name=name, full=full)

        self._images = own, prior
        self._plans = (
            plan(own, -(-batch_size // 2), "order", full=False),
            plan(prior, max(1, batch_size // 2), "order of priors", full=True),
        )
        self.steps_an_epoch = self._plans[0].steps_an_epoch * (2 if self._turns else 1)

    def at(self, number: int) -> list[list[Place]]:
        """The images of step `number`: own and prior ones of the same size share a pass."""
        if self._turns:
            return self._of(number % 2, number // 2)
        passes: dict[Size, list[Place]] = defaultdict(list)
        for places in self._of(0, number) + self._of(1, number):
            passes[self._sizes[places[0][0]][places[0][1]]] += places
        return list(passes.values())

    def _of(self, which: int, number: int) -> list[list[Place]]:
        images = self._images[which]
        return [[(images[image], size) for image, size in places] for places in self._plans[which].at(number)]


class LargestFirst:
    """Steps of which the one that needs the most memory comes first, so that it fails in the first second or never.

    It changes places with the first one. It is the step of the first epoch that has the most pixels of one size.
    """

    def __init__(self, stream: Stream, sizes: Sequence[Sequence[Size]]) -> None:
        self.stream = stream
        self.steps_an_epoch = stream.steps_an_epoch

        def pixels(number: int) -> int:
            return max(math.prod(sizes[places[0][0]][places[0][1]]) * len(places) for places in stream.at(number))

        self._largest = max(range(self.steps_an_epoch), key=pixels)

    def at(self, number: int) -> list[list[Place]]:
        """The images of step `number`: one list for each size."""
        return self.stream.at({0: self._largest, self._largest: 0}.get(number, number))


def plan_for(
    sizes: Sequence[Sequence[Size]],
    repeats: Sequence[int],
    priors: Sequence[bool],
    *,
    batch_size: int,
    seed: int,
    manifest: str,
) -> Stream:
    """The steps, of `batch_size` images each, over images of which some may be priors; places count in the whole list.

    `batch_size` is that of a whole step: over all that is accumulated, and over all processes.
    """
    stream: Stream = (
        Alternating(sizes, repeats, priors, batch_size=batch_size, seed=seed, manifest=manifest)
        if any(priors) and not all(priors)
        else Plan(sizes, repeats, batch_size=batch_size, seed=seed, manifest=manifest)
    )
    return LargestFirst(stream, sizes)


def _take(waiting: dict[int, list[int]], image: int) -> int:
    """One of those of an image that wait, and with the last of them the image."""
    place = waiting[image].pop()
    if not waiting[image]:
        del waiting[image]
    return place


def _uniform(count: int, random: Generator) -> NDArray[np.float64]:
    drawn: NDArray[np.float64] = torch.rand(count, generator=random, dtype=torch.float64).numpy()
    return drawn
