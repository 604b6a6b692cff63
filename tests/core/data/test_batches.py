"""Every image comes once an epoch, in batches of one size, as a pure function of (seed, number)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from sdtune.core.data.batches import Batches
from sdtune.core.data.encode import Encoded
from sdtune.core.draws import Draws

SHAPES = ((4, 2, 2), (4, 2, 3), (4, 3, 2))
BLANK = {"text": torch.zeros(3)}


def encoded(shapes: list[int]) -> list[Encoded]:
    """Images whose mean is their number."""
    return [
        Encoded(
            torch.full(SHAPES[shape], float(number)),
            torch.zeros(SHAPES[shape]),
            ({"text": torch.full((3,), float(number))},),
            {"size": torch.full((2,), float(number))},
            float(number),
        )
        for number, shape in enumerate(shapes)
    ]


def batches(shapes: list[int], batch_size: int, seed: int = 0, dropout: float = 0.0) -> Batches:
    return Batches(encoded(shapes), BLANK, batch_size=batch_size, seed=seed, caption_dropout=dropout)


sets = st.lists(st.integers(0, 2), min_size=1, max_size=30)


@given(sets, st.integers(1, 7), st.integers(0, 2**63 - 1), st.integers(0, 50))
def test_an_epoch_holds_every_image_once_and_a_batch_one_size(
    shapes: list[int], size: int, seed: int, epoch: int
) -> None:
    stream = batches(shapes, size, seed)
    plan = [stream.members(epoch * stream.an_epoch + place) for place in range(stream.an_epoch)]
    assert sorted(index for batch in plan for index in batch) == list(range(len(shapes)))
    assert all(len({shapes[index] for index in batch}) == 1 for batch in plan)
    assert all(1 <= len(batch) <= size for batch in plan)


@given(sets, st.integers(1, 7), st.integers(0, 2**63 - 1), st.lists(st.integers(0, 10_000), min_size=1, max_size=9))
def test_a_batch_depends_on_seed_and_number_alone(shapes: list[int], size: int, seed: int, numbers: list[int]) -> None:
    stream, again = batches(shapes, size, seed), batches(shapes, size, seed)
    told = {number: stream.members(number) for number in numbers}
    assert told == {number: again.members(number) for number in sorted(numbers)}


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    stream, other = batches([0] * 20, 1), batches([0] * 20, 1, seed=1)
    orders = [
        [one.members(start + place) for place in range(20)] for one, start in ((stream, 0), (stream, 20), (other, 0))
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_a_batch_brings_each_image_with_its_caption_size_and_weight() -> None:
    stream = batches([0, 0, 1, 1, 1], 2)
    for number in range(stream.an_epoch):
        members = stream.members(number)
        batch = stream.at(number, Draws(0, number, range(2), 2))
        expected = torch.tensor(members, dtype=torch.float32)
        assert torch.equal(batch.latents[:, 0, 0, 0], expected)
        assert torch.equal(batch.conditioning["text"][:, 0], expected)
        assert torch.equal(batch.conditioning["size"][:, 0], expected)
        assert torch.equal(batch.weights, expected)


def test_a_dropped_caption_leaves_the_sizes_standing() -> None:
    batch = batches([0, 0, 0], 3, dropout=1.0).at(0, Draws(0, 0, range(3), 3))
    assert batch.conditioning["text"].abs().max() == 0
    assert batch.conditioning["size"].abs().max() == 2


def test_captions_are_dropped_as_often_as_asked() -> None:
    stream = batches([0] * 10, 10, dropout=0.2)
    shown = [stream.at(n, Draws(0, n, range(10), 10)).conditioning["text"][:, 0] for n in range(60)]
    kept = [stream.members(n) for n in range(60)]
    dropped = sum(int(((told == 0) & (torch.tensor(who) != 0)).sum()) for told, who in zip(shown, kept, strict=True))
    assert 0.14 < dropped / (60 * 9) < 0.26


def test_latents_are_drawn_with_their_spread() -> None:
    image = Encoded(torch.full((4, 16, 16), 3.0), torch.full((4, 16, 16), 0.5), ({"text": torch.ones(3)},), {})
    stream = Batches([image], BLANK, batch_size=1, seed=0, caption_dropout=0)
    first, second = (stream.at(n, Draws(0, n, range(1), 1)).latents for n in (0, 1))
    assert not torch.equal(first, second)
    assert abs(first.mean() - 3) < 0.1
    assert abs(first.std() - 0.5) < 0.1
    assert torch.equal(first, stream.at(0, Draws(0, 0, range(1), 1)).latents)


@given(sets, st.integers(1, 7), st.lists(st.integers(1, 4), min_size=30, max_size=30))
def test_an_image_comes_as_often_as_it_repeats(shapes: list[int], size: int, repeats: list[int]) -> None:
    images = [replace(image, repeats=times) for image, times in zip(encoded(shapes), repeats, strict=False)]
    stream = Batches(images, BLANK, batch_size=size, seed=0, caption_dropout=0.0)
    seen = Counter(index for number in range(stream.an_epoch) for index in stream.members(number))
    assert seen == {index: image.repeats for index, image in enumerate(images)}


def test_of_several_captions_each_step_draws_one_and_all_come_alike() -> None:
    captions = tuple({"text": torch.full((3,), float(number))} for number in range(3))
    image = Encoded(torch.zeros(SHAPES[0]), torch.zeros(SHAPES[0]), captions, {})
    stream = Batches([image], BLANK, batch_size=1, seed=0, caption_dropout=0)
    told = [float(stream.at(n, Draws(0, n, range(1), 1)).conditioning["text"][0, 0]) for n in range(300)]
    assert all(70 < times < 130 for times in Counter(told).values())
    assert told == [float(stream.at(n, Draws(0, n, range(1), 1)).conditioning["text"][0, 0]) for n in range(300)]
