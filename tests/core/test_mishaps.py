"""No step with bad numbers is taken, those that come again and again are told, and a resumed guard judges alike."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtune.core.mishaps import FEW, IN_A_ROW, OVERFLOWS, RETURNS, WINDOW, Guard, Judgement, Shown, Verdict
from sdtune.errors import TrainingError

NAN, INF = math.nan, math.inf
BAD = [NAN, INF, -INF]
numbers = st.one_of(st.floats(0, 10), st.sampled_from(BAD))
steps = st.lists(st.tuples(numbers, numbers, st.sampled_from([True] * 9 + [False])), max_size=60)


def seen() -> list[Shown]:
    return [Shown("a.png", "a red apple", 13), Shown("b.png", "a disc", 998)]


def never() -> list[Shown]:
    raise AssertionError("asked though nothing is wrong")


def judged(guard: Guard, told: Sequence[tuple[float, float, bool]], first: int = 0, **more: Any) -> list[Any]:
    """A verdict and a line for each step, and how it ends."""
    out: list[Any] = []
    for step, (loss, norm, weights) in enumerate(told, first):
        try:
            out.append(guard.judge(step, loss, norm, weights, shown=seen, **more))
        except TrainingError as error:
            return [*out, str(error)]
    return out


@given(steps, st.booleans())
def test_a_step_is_taken_where_all_its_numbers_are_finite_and_nowhere_else(
    told: list[tuple[float, float, bool]], scaled: bool
) -> None:
    for (loss, norm, weights), verdict in zip(told, judged(Guard(), told, overflow_is_usual=scaled), strict=False):
        good = math.isfinite(loss) and math.isfinite(norm) and weights
        assert isinstance(verdict, str) or (verdict.verdict == Verdict.TAKE) == good


@given(steps, st.integers(0, 60), st.booleans())
def test_what_it_told_makes_another_judge_alike(told: list[tuple[float, float, bool]], at: int, scaled: bool) -> None:
    whole = judged(Guard(), told, overflow_is_usual=scaled)
    first = Guard()
    before = judged(first, told[:at], overflow_is_usual=scaled)
    if before and isinstance(before[-1], str):
        return
    second = Guard()
    second.load(json.loads(json.dumps(first.told(), allow_nan=False)))
    assert second.rate == first.rate
    assert second.skipped == first.skipped
    assert before + judged(second, told[at:], at, overflow_is_usual=scaled) == whole


@pytest.mark.parametrize(
    "told",
    [
        [(0.1, INF, True)] * (OVERFLOWS + IN_A_ROW),
        [(0.1 + 0.01 * (step % 5), 1.0, True) for step in range(FEW)] + [(0.9, 1.0, True)] * IN_A_ROW,
        [(NAN, 1.0, True)] * IN_A_ROW * (RETURNS + 1),
    ],
    ids=["overflows", "spikes", "no numbers"],
)
def test_it_may_be_told_and_loaded_between_any_two_steps(told: list[tuple[float, float, bool]]) -> None:
    whole = judged(Guard(), told, overflow_is_usual=True)
    assert any(isinstance(one, str) or one.told for one in whole), "else this tests nothing"
    for at in range(len(told)):
        first, second = Guard(), Guard()
        before = judged(first, told[:at], overflow_is_usual=True)
        second.load(json.loads(json.dumps(first.told())))
        assert before + judged(second, told[at:], at, overflow_is_usual=True) == whole


@pytest.mark.parametrize(("loss", "norm", "what"), [(NAN, 1.0, "loss is nan"), (0.1, INF, "gradient's norm is inf")])
def test_a_bad_step_is_told_with_its_images_captions_and_timesteps(loss: float, norm: float, what: str) -> None:
    found = Guard().judge(411, loss, norm, shown=seen)
    assert found.verdict == Verdict.SKIP
    assert found.told == (
        f'step 412: the {what}, so it is not taken; it saw a.png "a red apple" at timestep 13, '
        'b.png "a disc" at timestep 998'
    )


def test_a_line_is_one_line_of_bearable_length() -> None:
    many = [Shown(f"{number}.png", "red\napple " * 99, 1) for number in range(64)]
    told = Guard().judge(0, NAN, 1.0, shown=lambda: many).told
    assert told is not None
    assert told.endswith(" and 60 more")
    assert "\n" not in told
    assert len(told) < 500


def test_where_images_losses_are_known_the_guilty_one_is_named_alone() -> None:
    shown = [Shown("a.png", "a", 1, 0.3), Shown("b.png", "b", 2, NAN)]
    told = Guard().judge(0, NAN, 1.0, shown=lambda: shown).told
    assert told is not None
    assert told.endswith('it saw b.png "b" at timestep 2')


def test_three_in_a_row_go_back_at_half_the_rate_past_them_and_a_good_one_between_forgives() -> None:
    guard = Guard()
    pattern = [NAN, NAN, 0.1, NAN, INF, NAN]
    verdicts = [guard.judge(step, loss, 1.0, shown=seen).verdict.value for step, loss in enumerate(pattern)]
    assert verdicts == ["skip", "skip", "take", "skip", "skip", "rewind"]
    assert (guard.rate, guard.skipped) == (0.5, {3, 4, 5})
    assert guard.judge(3, 0.1, 1.0, shown=never).verdict == Verdict.TAKE


def test_weights_that_are_no_numbers_go_back_at_once() -> None:
    guard = Guard()
    found = guard.judge(7, 0.1, 1.0, False, shown=seen)
    assert found == Judgement(Verdict.REWIND, "step 8: the weights are no numbers any more; going on at 0.5 x the rate")
    assert (guard.rate, guard.skipped) == (0.5, set())


def test_after_three_returns_it_ends_with_the_image_that_comes_again_and_again() -> None:
    guard, last = Guard(), RETURNS * IN_A_ROW + IN_A_ROW - 1
    shown = [[Shown("bad.png", "x", 5), Shown(f"{step}.png", "x", 5)] for step in range(last + 1)]
    verdicts = [guard.judge(step, NAN, 1.0, shown=lambda at=step: shown[at]).verdict for step in range(last)]
    assert verdicts.count(Verdict.REWIND) == RETURNS
    with pytest.raises(TrainingError) as caught:
        guard.judge(last, NAN, 1.0, shown=lambda: shown[last])
    (line,) = caught.value.problems
    assert line == (
        "step 12: the loss is nan, again after going back 3 times; bad.png came up 12 of 12 times: "
        "look at it, or leave it out; what was saved before is intact"
    )


def test_where_no_image_stands_out_the_rate_is_to_be_lowered() -> None:
    guard, last = Guard(), RETURNS * IN_A_ROW + IN_A_ROW - 1
    for step in range(last):
        guard.judge(step, 0.1, NAN, shown=lambda step=step: [Shown(f"{step}.png", "x", 5)])
    with pytest.raises(TrainingError, match=r"lower --lr, or compute with .*; what was saved before is intact"):
        guard.judge(last, 0.1, NAN, shown=lambda: [Shown("last.png", "x", 5)])


def test_with_a_scaler_gradients_that_overflow_count_from_twenty_in_a_row_on_but_losses_at_once() -> None:
    guard = Guard()
    for step in range(OVERFLOWS - 1):
        assert guard.judge(step, 0.1, INF, shown=never, overflow_is_usual=True) == Judgement(Verdict.SKIP)
    verdicts = [
        guard.judge(step, 0.1, INF, shown=seen, overflow_is_usual=True).verdict
        for step in range(OVERFLOWS - 1, OVERFLOWS - 1 + IN_A_ROW)
    ]
    assert verdicts == [Verdict.SKIP, Verdict.SKIP, Verdict.REWIND]
    assert Guard().judge(0, NAN, INF, shown=seen, overflow_is_usual=True).told is not None
    for step in range(99):
        assert guard.judge(step, 0.1, 1.0 if step % 19 == 0 else INF, shown=never, overflow_is_usual=True).told is None


def lines(losses: Sequence[float]) -> list[tuple[int, str]]:
    guard = Guard()
    found = [(step, guard.judge(step, loss, 1.0, shown=never)) for step, loss in enumerate(losses)]
    assert {judgement.verdict for _, judgement in found} == {Verdict.TAKE}
    return [(step, judgement.told) for step, judgement in found if judgement.told]


USUAL = [0.1 + 0.01 * (step % 5) for step in range(WINDOW)]


def test_three_spikes_in_a_row_are_told_once() -> None:
    ((step, told),) = lines([*USUAL, *[0.9] * 6])
    assert step == WINDOW + 2
    assert told == "steps 51 to 53: the loss rose to 0.9 from about 0.12; if it stays there, lower --lr"


@pytest.mark.parametrize(
    "losses",
    [
        [*USUAL, 0.9, 0.9, 0.1, 0.9, 0.9, 0.1],  # never three in a row
        [*USUAL, *[0.15] * 9],  # a bit higher
        [*USUAL[: FEW - 3], 9.0, 9.0, 9.0],  # too few to compare with
        [*[0.1] * WINDOW, *[0.105] * 3],  # all alike before
        [*USUAL, *[0.0] * 3],  # lower
    ],
)
def test_nothing_else_is_a_spike(losses: list[float]) -> None:
    assert lines(losses) == []
