"""Wordings keep to their rates, and neither invent nor lose what they should not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdtune.config import TrainLora, resolve
from sdtune.core.data.folder import triggers_of
from sdtune.core.data.wordings import varies, worded, wordings
from sdtune.core.draws import generator
from sdtune.tables import Captions

TAGS = ["one", "two", "three", "four", "five"]
MANY = 3000
tags = st.lists(st.text("abcdefgh ", min_size=1).map(str.strip).filter(bool), unique=True)


def settings(**told: Any) -> Captions:
    return Captions(**told)


def drawn(caption: str, count: int = MANY, **told: Any) -> list[str]:
    return [worded(caption, settings(**told), generator("test", number)) for number in range(count)]


def within(count: int, share: float, of: int = MANY) -> bool:
    """Whether a count is within four standard deviations of the binomial."""
    return abs(count - share * of) <= 4 * (share * (1 - share) * of) ** 0.5


@pytest.mark.parametrize(
    ("caption", "told", "result"),
    [
        ("a red  apple,, on a table ,", {}, "a red  apple,, on a table ,"),
        ("a {red} apple", {}, "a {red} apple"),
        ("a {red apple", {}, "a {red apple"),
        ("a red} apple", {}, "a red} apple"),
        ("a {red|blue apple", {}, "a {red|blue apple"),
        ("a {red|{blue} apple", {}, "a {red|{blue} apple"),
        ("a | b", {}, "a | b"),
        ("a {red|blue} apple", {"wildcards": False}, "a {red|blue} apple"),
        ("{red|red} apple", {}, "red apple"),
        ("{|}apple", {}, "apple"),
        ("{{red}|{red}}", {}, "{red}"),
        ("{{{{", {}, "{{{{"),
        ("a sentence without", {"shuffle": True, "tag_dropout": 1, "keep": 0}, ""),
        ("a sentence without", {"shuffle": True, "tag_dropout": 1}, "a sentence without"),
        ("one, two, three", {"tag_dropout": 1}, "one"),
        ("one, two, three", {"tag_dropout": 1, "keep": 2}, "one, two"),
        ("one, two, three", {"tag_dropout": 1, "keep": 0}, ""),
        ("one, two ||| three", {}, "one, two, three"),
        ("one, two ||| three", {"tag_dropout": 1, "keep": 0}, "one, two"),
        ("one, two ||| three", {"tag_dropout": 1, "keep": 9}, "one, two"),
        ("one ||| two ||| three", {"tag_dropout": 1}, "one, three"),
        ("|||one, two", {"tag_dropout": 1, "keep": 2}, ""),
        ("", {"shuffle": True, "tag_dropout": 0.5}, ""),
    ],
)
def test_what_is_sure(caption: str, told: dict[str, Any], result: str) -> None:
    assert set(drawn(caption, 20, **told)) == {result}


@pytest.mark.parametrize(
    ("caption", "told", "result"),
    [
        ("a cat", {"shuffle": True, "tag_dropout": 0.5}, False),
        ("a cat", {"tag_dropout": 0.5, "keep": 0}, True),
        ("a cat", {"shuffle": True, "keep": 0}, False),
        ("a cat, black", {"shuffle": True}, False),
        ("a cat, black", {"tag_dropout": 0.5}, True),
        ("a cat, black", {"tag_dropout": 1}, False),
        ("a cat, black", {"shuffle": True, "keep": 0}, True),
        ("a cat, black, old", {"shuffle": True}, True),
        ("a cat, black, old", {"shuffle": True, "tag_dropout": 1}, False),
        ("a cat, black, old", {}, False),
        ("a cat, black ||| old", {"shuffle": True}, False),
        ("a cat ||| black, old", {"shuffle": True, "keep": 9}, True),
        ("a {red|black} cat", {}, True),
        ("a {red|black} cat", {"wildcards": False}, False),
        ("a {red} cat", {}, False),
        ("", {"shuffle": True, "tag_dropout": 0.5, "keep": 0}, False),
    ],
)
def test_varies(caption: str, told: dict[str, Any], result: bool) -> None:
    assert varies(caption, settings(**told)) is result
    assert (len(set(drawn(caption, 50, **told))) > 1) is result


def test_every_order_is_as_likely() -> None:
    orders = Counter(drawn("first, a, b, c", shuffle=True))
    assert len(orders) == 6
    assert all(within(count, 1 / 6) for count in orders.values()), orders
    assert all(order.startswith("first, ") for order in orders)


def test_each_tag_is_dropped_at_its_rate_and_by_itself() -> None:
    told = [caption.split(", ") for caption in drawn(", ".join(TAGS), tag_dropout=0.3, keep=2)]
    assert all(one[:2] == TAGS[:2] for one in told)
    for tag in TAGS[2:]:
        assert within(sum(tag in one for one in told), 0.7)
    assert within(sum(one == TAGS[:2] for one in told), 0.3**3)
    assert within(sum(one == TAGS for one in told), 0.7**3)


def test_alternatives_are_as_likely_inside_and_outside() -> None:
    counts = Counter(drawn("{a|b|{c|d}} {x|}"))
    assert set(counts) == {f"{one} {two}" for one in "abcd" for two in ("x", "")}
    for caption, count in counts.items():
        assert within(count, (1 / 3 if caption[0] in "ab" else 1 / 6) / 2), caption


def test_weighing_brackets_hold_their_tags_together() -> None:
    caption = "first, (red, blue:1.3), [a, (b, c)], last"
    for told in drawn(caption, 100, shuffle=True, weights=True):
        assert "(red, blue:1.3)" in told
        assert "[a, (b, c)]" in told
    assert any("(red, blue:1.3)" not in told for told in drawn(caption, 100, shuffle=True))
    assert set(drawn("a :( b, c, d", 50, tag_dropout=1, weights=True)) == {"a :( b, c, d"}  # all in one bracket
    assert set(drawn(r"a :\( b, c", 50, tag_dropout=1, weights=True)) == {r"a :\( b"}
    assert set(drawn("a :) b, (c, d), e", 50, tag_dropout=1, weights=True, keep=2)) == {"a :) b, (c, d)"}


@given(tags, st.integers(0, 4), st.booleans(), st.floats(0, 1), st.integers(0, 99))
def test_the_first_stay_and_no_tag_is_invented(
    told: list[str], keep: int, shuffle: bool, dropout: float, seed: int
) -> None:
    result = worded(", ".join(told), settings(shuffle=shuffle, keep=keep, tag_dropout=dropout), generator(seed))
    parts = result.split(", ") if result else []
    assert parts[:keep] == told[:keep]
    assert not Counter(parts) - Counter(told)
    if not dropout:
        assert Counter(parts) == Counter(told)
    if not shuffle:
        assert parts == [tag for tag in told if tag in parts]


choices = st.recursive(
    st.text("abc ,"), lambda inner: st.lists(inner, min_size=2, max_size=3).map(lambda one: f"{{{'|'.join(one)}}}")
)


@given(st.lists(choices).map("".join), st.integers(0, 99))
def test_no_brace_is_left_of_those_that_choose(caption: str, seed: int) -> None:
    result = worded(caption, settings(), generator(seed))
    assert not set(result) & set("{|}")
    assert not Counter(result) - Counter(caption)


@given(st.text("ab,{}|"), st.integers(0, 99))
def test_any_braces_are_read(caption: str, seed: int) -> None:
    result = worded(caption, settings(shuffle=True, tag_dropout=0.5), generator(seed))
    assert not Counter(result.replace(", ", "")) - Counter(caption)


def test_deep_braces_are_read() -> None:
    assert worded("{" * 4000 + "a|b" + "}" * 4000, settings(), generator(0)).strip("{}") in ("a", "b")


def test_wordings_are_counted_and_the_same_again() -> None:
    told = settings(shuffle=True, wordings=7)
    caption = ", ".join(TAGS)
    first = wordings(caption, told)
    torch.rand(3)  # whatever else was drawn meanwhile
    assert wordings(caption, told) == first
    assert len(first) == 7
    assert len(set(first)) > 1
    assert first == wordings(caption, settings(shuffle=True, wordings=9))[:7]  # more leave those that were as they were
    assert wordings("a sentence", told) == ("a sentence",)
    assert wordings("one ||| two", settings()) == ("one, two",)


@pytest.mark.parametrize(
    ("caption", "triggers", "result"),
    [
        ("a photo, a sks cat, grey, risks", ["sks"], {"a photo, a sks cat"}),
        ("a photo, SKS", ["dog", "sks"], {"a photo, SKS"}),
        ("a photo, grey, my sks, cat", ["my sks, cat"], {"a photo, my sks, cat"}),
        ("grey, red ||| sks, blue ||| old", ["sks"], {"grey, red, sks, old"}),
        ("a photo, sks, {cat|sks dog}", ["sks"], {"a photo, sks", "a photo, sks, sks dog"}),
        ("a photo, sks", [], {"a photo"}),
    ],
)
def test_a_trigger_is_never_dropped_wherever_it_stands(caption: str, triggers: list[str], result: set[str]) -> None:
    told = settings(tag_dropout=1)
    assert {worded(caption, told, generator("test", number), triggers) for number in range(50)} == result
    assert set(wordings(caption, told, triggers)) == result
    assert varies(caption, told, triggers) is (len(result) > 1)
    moved = settings(tag_dropout=0.5, shuffle=True, keep=0)
    assert all("sks" in one.lower() for one in wordings(caption, moved, triggers)) is bool(triggers)


def test_what_is_drawn_of_the_other_tags_is_not_changed_by_a_trigger() -> None:
    told = settings(tag_dropout=0.5)
    for number in range(50):
        plain = worded("a, b, c, d", told, generator(number)).split(", ")
        kept = worded("a, b, c, d", told, generator(number), ["c"]).split(", ")
        assert [tag for tag in kept if tag != "c"] == [tag for tag in plain if tag != "c"]
        assert "c" in kept


@pytest.mark.parametrize(
    ("caption", "told", "result"),
    [
        ("sks", {"tag_dropout": 0.5, "keep": 0}, False),
        ("sks, old sks", {"tag_dropout": 1, "keep": 0, "shuffle": True}, True),
        ("sks, old", {"tag_dropout": 1, "keep": 0, "shuffle": True}, False),
        ("sks, old", {"tag_dropout": 0.5, "keep": 0}, True),
    ],
)
def test_varies_with_a_trigger(caption: str, told: dict[str, Any], result: bool) -> None:
    assert varies(caption, settings(**told), ["sks"]) is result
    drawn = {worded(caption, settings(**told), generator("test", number), ["sks"]) for number in range(50)}
    assert (len(drawn) > 1) is result


def test_triggers_are_those_of_all_folders_and_the_new_word() -> None:
    folders = [{"path": "a", "trigger": "one"}, {"path": "b"}, {"path": "c", "trigger": "two"}]
    told: dict[str, Any] = {"data": {"folders": folders, "trigger": "two"}, "token": {"word": "three"}}
    assert triggers_of(resolve(TrainLora, [told])) == ("two", "three", "one")
    assert triggers_of(resolve(TrainLora, [{"data": {"folder": "a"}}])) == ()
