"""Prompts mean what they mean in A1111."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtune.core.data.weights import broken, weighted, without_breaks
from sdtune.core.sampling import grammar
from sdtune.core.sampling.grammar import LoraTag, check, schedule, without_loras
from sdtune.errors import ConfigError
from tests.core.sampling import prompt_cases as cases

MARKS = st.text("ab()[]:|\\ .15<>", max_size=40)
WHOLE = st.recursive(
    st.sampled_from(["", "a", "b c", " ", "1.5", r"\(", r"d\:", r"\\"]),
    lambda inner: st.builds(
        str.format,
        st.sampled_from(
            ["{0}{1}", "{0} ({1})", "{0}({1}:1.2)", "[{0}]{1}", "[{0}|{1}|]", "[{0}:{1}:3]", "{0}[{1}::.5]"]
        ),
        inner,
        inner,
    ),
    max_leaves=12,
)
"""prompts in which every bracket has its other half"""


def rows(table: list[Any]) -> Any:
    return [pytest.param(*row[1:], id=f"{row[0]}: {row[1][:40] or 'nothing'}") for row in table]


def at(told: grammar.Schedule, step: int) -> str:
    return next(text for last, text in told if step <= last)


@pytest.mark.parametrize(("text", "pieces"), rows(cases.WEIGHTS))
def test_weights(text: str, pieces: cases.Pieces) -> None:
    told = weighted(text)
    assert [piece for piece, _ in told] == [piece for piece, _ in pieces]
    assert [weight for _, weight in told] == pytest.approx([weight for _, weight in pieces])
    check(text, "p")


@pytest.mark.parametrize(("text", "steps", "told"), rows(cases.EDITS))
def test_editing(text: str, steps: int, told: list[tuple[int, str]]) -> None:
    assert schedule(text, steps) == tuple(told)


@pytest.mark.parametrize(("text", "steps", "told"), rows(cases.TURNS))
def test_alternation(text: str, steps: int, told: list[str]) -> None:
    found = schedule(text, steps)
    assert [at(found, step) for step in range(1, steps + 1)] == told


@pytest.mark.parametrize(("text", "chunks"), rows(cases.BREAKS))
def test_break(text: str, chunks: list[cases.Pieces]) -> None:
    assert broken(text) == chunks
    assert without_breaks(text) == " ".join("".join(piece for piece, _ in pieces) for pieces in chunks)


@pytest.mark.parametrize(("text", "left", "tags"), rows(cases.TAGS))
def test_loras_in_prompts(text: str, left: str, tags: list[tuple[str, str, str | None, int]]) -> None:
    assert without_loras(text, "p") == (left, tuple(LoraTag(*tag) for tag in tags))


@pytest.mark.parametrize(("text", "told"), cases.WRONG_TAGS)
def test_wrong_loras_in_prompts(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        without_loras(text, "p")


@pytest.mark.parametrize(("text", "told"), cases.WRONG_WEIGHTS, ids=[text[:30] for text, _ in cases.WRONG_WEIGHTS])
def test_wrong_weights(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        check(text, "p")


@pytest.mark.parametrize("text", cases.NOT_WRONG, ids=[text[:30] for text in cases.NOT_WRONG])
def test_what_is_no_weight_is_left_alone(text: str) -> None:
    check(text, "p")


@given(MARKS, st.integers(1, 12))
def test_a_schedule_covers_every_step_once_and_changes_where_it_says(text: str, steps: int) -> None:
    told = schedule(text, steps)
    lasts = [last for last, _ in told]
    assert lasts == sorted(set(lasts))
    assert lasts[0] >= 1
    assert lasts[-1] == steps
    assert all(before != after for (_, before), (_, after) in pairwise(told))


@given(WHOLE, WHOLE, st.integers(1, 9))
def test_choices_hold_whole_prompts(first: str, second: str, when: int) -> None:
    edited, in_turn = schedule(f"x[{first}:{second}:{when}]y", 10), schedule(f"([{first}|{second}] z:1.2)", 10)
    for step in range(1, 11):
        assert at(edited, step) == f"x{at(schedule(first if step <= when else second, 10), step)}y"
        assert at(in_turn, step) == f"({at(schedule(first if step % 2 else second, 10), step)} z:1.2)"


@given(MARKS)
def test_escaped_prompts_are_text(text: str) -> None:
    escaped = re.sub(r"([()\[\]:|\\<])", r"\\\1", text)
    assert schedule(escaped, 10) == ((10, escaped),)
    assert without_loras(escaped, "p") == (escaped, ())
    assert weighted(escaped) == [(text, 1.0)]
    check(escaped, "p")


@pytest.mark.parametrize(
    "text",
    ["[" * 10**5, "[|]" * 33_000, "[a:b:.5]" * 12_000, "[" * 5_000 + "a" + ":2]" * 5_000, "(" * 50_000 + ")" * 50_000],
)
def test_a_hundred_thousand_brackets(text: str) -> None:
    assert len(text) > sys.getrecursionlimit()
    assert schedule(text, 2)[-1][0] == 2


@pytest.mark.parametrize("mark", ["<a:", "<", "\\", ":", " ", "(a:", "<lora:a:1>"])
def test_prompts_of_100_kilobytes_are_read_or_refused(mark: str) -> None:
    text = mark * (10**5 // len(mark))
    left, tags = without_loras(text, "p")
    assert len(left) + 10 * len(tags) == len(text)
    with pytest.raises(ConfigError, match="are the most; shorten it"):
        check(text, "p")
