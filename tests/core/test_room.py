"""A batch that is too large is split without a trace in what it learns, and what did not fit is remembered."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdtune.core.data.batches import Batch
from sdtune.core.draws import Draws
from sdtune.core.room import Room, free, is_out_of_memory, one_by_one, pieces
from sdtune.errors import TrainingError

TOO_MANY = 2**60  # bytes


def too_much() -> None:
    """What a CPU raises for want of memory."""
    torch.empty(TOO_MANY, dtype=torch.uint8)


def batch(count: int, masked: bool = True) -> Batch:
    number = torch.arange(float(count))
    return Batch(
        number[:, None, None, None].expand(-1, 4, 2, 3),
        {"text": number[:, None], "time_ids": number[:, None, None]},
        number,
        number[:, None, None, None].expand(-1, 1, 2, 3) if masked else None,
        tuple(f"caption {one}" for one in range(count)),
        tuple(f"{one}.png" for one in range(count)),
    )


@given(st.integers(1, 12), st.one_of(st.none(), st.integers(1, 14)), st.integers(0, 9), st.booleans())
def test_pieces_are_the_batch_in_order_each_with_the_draws_of_its_own_slots(
    count: int, most: int | None, first: int, masked: bool
) -> None:
    whole, draws = batch(count, masked), Draws(5, 3, range(first, first + count), 32)
    parts = list(pieces(whole, draws, most))
    assert all(0 < len(part.latents) <= (most or count) for part, _ in parts)
    assert len(parts) == -(-count // (most or count))
    for name in ("latents", "weights"):
        assert torch.equal(torch.cat([getattr(part, name) for part, _ in parts]), getattr(whole, name))
    for name, value in whole.conditioning.items():
        assert torch.equal(torch.cat([part.conditioning[name] for part, _ in parts]), value)
    if whole.masks is None:
        assert all(part.masks is None for part, _ in parts)
    else:
        assert torch.equal(torch.cat([part.masks for part, _ in parts if part.masks is not None]), whole.masks)
    assert tuple(one for part, _ in parts for one in part.captions) == whole.captions
    assert tuple(one for part, _ in parts for one in part.names) == whole.names
    assert [slot for _, own in parts for slot in own.slots] == list(draws.slots)
    assert torch.equal(torch.cat([own.normal("noise", (2,)) for _, own in parts]), draws.normal("noise", (2,)))
    assert {(own.seed, own.step, own.images_a_step) for _, own in parts} == {(5, 3, 32)}


@given(st.integers(1, 64))
def test_halves_until_one_then_computes_again_then_gives_up(images: int) -> None:
    room, size = Room(), (64, 64)
    told = []
    at_once = images
    while at_once > 1:
        told.append(room.too_much(size, at_once))
        assert room.most(size) == (at_once + 1) // 2
        at_once = room.most(size) or 0
    assert not room.checkpointing
    assert room.most((64, 96)) is None, "another size is another matter"
    assert "--memory.gradient-checkpointing from now on" in room.too_much(size, 1)
    assert room.checkpointing
    with pytest.raises(TrainingError, match="out of memory with 1 image of 64 x 64 latents, and with") as caught:
        room.too_much(size, 1)
    assert "use a smaller --resolution" in caught.value.problems[0]
    assert len(set(told)) == len(told)


def test_what_was_told_is_known_after_loading() -> None:
    room = Room()
    room.too_much((64, 64), 5)
    room.too_much((96, 64), 1)
    other = Room()
    other.too_much((64, 64), 4)
    other.load(json.loads(json.dumps(room.told())))
    assert (other.most((64, 64)), other.most((96, 64)), other.checkpointing) == (2, None, True)
    fresh = Room()
    fresh.load(room.told())
    assert fresh.told() == room.told()


def test_want_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as real:
        too_much()
    with pytest.raises(MemoryError) as python:
        bytearray(2**62)
    others = ("CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED when")
    memory = [real.value, python.value, torch.OutOfMemoryError("x"), *map(RuntimeError, others)]
    assert all(is_out_of_memory(error) for error in memory)
    with pytest.raises(RuntimeError) as shapes:
        torch.ones(2) @ torch.ones(3)
    no_memory = [shapes.value, ValueError("out of memory"), RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")]
    assert not any(is_out_of_memory(error) for error in no_memory)
    free()


def test_what_does_not_fit_together_is_worked_on_alone() -> None:
    sizes = []

    def work(things: Sequence[int]) -> list[int]:
        sizes.append(len(things))
        if len(things) > 1:
            too_much()
        return [2 * thing for thing in things]

    assert one_by_one(work, [1, 2, 3]) == [2, 4, 6]
    assert sizes == [3, 1, 1, 1]
    assert one_by_one(lambda things: [2 * thing for thing in things], [1, 2, 3]) == [2, 4, 6]


def test_what_does_not_fit_alone_and_other_errors_are_raised() -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        one_by_one(lambda _: too_much() or [], [1, 2])
    with pytest.raises(ZeroDivisionError):
        one_by_one(lambda things: [1 // (len(things) - 2)], [1, 2])
