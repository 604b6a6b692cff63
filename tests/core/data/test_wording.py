"""Captions are worded as asked, and wording them again changes nothing."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sdtune.core.data.captions import BYTES
from sdtune.core.data.tags import is_list, tags_of, without_doubles
from sdtune.core.data.tokens import ESTIMATE, Counter
from sdtune.core.data.wording import appended, must_be_stable, worded
from sdtune.errors import ConfigError
from sdtune.tables import Wording

WORDS = Counter(lambda caption: len(caption.replace(",", " ").split()), exact=True)


def word(caption: str, count: Counter = ESTIMATE, **wording: Any) -> str:
    return worded(caption, Wording(**wording), count)[0]


@pytest.mark.parametrize(
    ("caption", "wording", "result"),
    [
        ("a cat", {}, "a cat"),
        ("a  cat\x07 \u202eon a mat", {}, "a cat on a mat"),
        ("a cat", {"trigger": "sks"}, "sks, a cat"),
        ("a SKS cat", {"trigger": "sks"}, "a SKS cat"),
        ("sks", {"trigger": "sks"}, "sks"),
        ("a cat", {"prefix": "a photo of"}, "a photo of a cat"),
        ("1girl, solo", {"prefix": "masterpiece,"}, "masterpiece, 1girl, solo"),
        ("a cat", {"suffix": ", flat style"}, "a cat, flat style"),
        ("a cat", {"suffix": "at night"}, "a cat at night"),
        ("a cat", {"trigger": "sks", "prefix": "photo of", "suffix": ", 35mm"}, "sks, photo of a cat, 35mm"),
        ("sks, a cat", {"trigger": "sks", "prefix": "photo of"}, "sks, photo of a cat"),
        ("1girl, Long_Hair, hat", {"blacklist": ("long hair, solo",)}, "1girl, hat"),
        ("1girl, long hair, hat", {"blacklist": ("hair",)}, "1girl, long hair, hat"),
        ("a girl with long hair stands there, simple background", {"blacklist": ("simple background",)},
         "a girl with long hair stands there"),
        ("the image shows a cat, on a blue mat", {"blacklist": ("the image shows", "blue")}, "a cat, on a mat"),
        ("sks, solo, hat", {"trigger": "sks", "blacklist": ("sks", "solo")}, "sks, hat"),
        ("a grey cat, Grey fur, greyhound", {"replace": ("grey=gray",)}, "a gray cat, gray fur, greyhound"),
        ("a (red) red.cat", {"replace": ("(red)=big", "d.c=x")}, "a big red.cat"),
        ("long_hair, hat", {"replace": ("long hair=bob, short hair", "hat=")}, "bob, short hair"),
        ("what a grey cat !", {"replace": ("grey=",)}, "what a cat!"),
        ("what a cat ! , no", {"replace": ("grey=",), "dedupe": True}, "what a cat ! , no"),
        (r"a cat", {"replace": (r"cat=\1 \g<0>",)}, r"a \1 \g<0>"),
        ("hat, red hat, Hat, red_hat", {"dedupe": True}, "hat, red hat"),
        ("what a hat ! , really", {"blacklist": ("mat",)}, "what a hat ! , really"),
        ("cat", {"blacklist": ("cat",)}, ""),
        ("long hair, hair", {"blacklist": ("hair",)}, "long hair"),
        ("a girl with long hair, hair", {"blacklist": ("hair",)}, "a girl with long"),
        ("cat", {"blacklist": ("cat",), "suffix": ", 35mm", "trigger": "sks"}, ""),
        ("sks", {"trigger": "sks", "suffix": ", 35mm"}, "sks, 35mm"),
        ("sks, 35mm", {"trigger": "sks", "suffix": ", 35mm"}, "sks, 35mm"),
        ("apple on a table", {"prefix": "a"}, "a apple on a table"),
        ("a table", {"prefix": "a"}, "a table"),
        ("a cute cats", {"suffix": "s"}, "a cute cats s"),
        ("all of it", {"prefix": "a photo,", "suffix": "it"}, "a photo, all of it"),
        ("risks of a cat", {"trigger": "sks"}, "sks, risks of a cat"),
        ("a cat and a Cat", {"replace": ("cat=sks cat",)}, "a sks cat and a sks cat"),
        ("a sks cat, a cat", {"replace": ("cat=sks cat",)}, "a sks cat, a sks cat"),
        ("a Sks_Cat", {"replace": ("cat=sks cat",)}, "a Sks_Cat"),
        ("cat, hat", {"replace": ("cat=cat , pet",)}, "cat, pet, hat"),
        ("a cat", {"trigger": "masterpiece", "prefix": "masterpiece, best", "suffix": "best"},
         "masterpiece, best a cat best"),
        ("a cat", {"trigger": "best", "prefix": "best,", "suffix": ", best"}, "best, a cat, best"),
    ],
)  # fmt: skip
def test_captions_are_worded(caption: str, wording: dict[str, Any], result: str) -> None:
    assert word(caption, **wording) == result


def test_prior_images_show_the_class_and_get_no_trigger() -> None:
    assert worded("a dog", Wording(trigger="sks", suffix=", 35mm"), ESTIMATE, prior=True) == ("a dog, 35mm", False)


def test_long_captions_are_cut_where_a_tag_or_a_word_ends() -> None:
    assert worded("one two, three four, five six", Wording(max_tokens=8), WORDS) == (
        "one two, three four, five six",
        False,
    )
    assert worded("one two, " * 5, Wording(max_tokens=8), WORDS) == ("one two, one two, one two, one two", True)
    sentence = "a cat sits on the green mat, and it is asleep all day"
    assert worded(sentence, Wording(max_tokens=8), WORDS) == ("a cat sits on the green mat, and", True)
    assert worded(sentence, Wording(max_tokens=8, trigger="sks", suffix=", flat style"), WORDS) == (
        "sks, a cat sits on the, flat style",
        True,
    )
    assert worded("x" * 100, Wording(max_tokens=8), Counter(len, exact=True)) == ("x" * 100, False)


def test_captions_are_shorter_than_a_sidecar_may_be() -> None:
    text, cut = worded("é " * BYTES, Wording(suffix=", end"), ESTIMATE)
    assert cut
    assert BYTES - 9 < len(text.encode()) <= BYTES
    assert text.endswith("é, end")


def test_tags_come_in_the_order_that_is_asked_for() -> None:
    rank = {"solo": 0.0, "hat": 1.0, "1girl": 2.0}
    wording = Wording(trigger="sks", suffix=", 35mm")
    told = worded("sks, 1girl, hat, solo, 35mm", wording, ESTIMATE, rank=lambda tag: rank[tag])
    assert told == ("sks, solo, hat, 1girl, 35mm", False)
    assert worded("a cat on a mat", wording, ESTIMATE, rank=lambda _: 1 / 0)[0] == "sks, a cat on a mat, 35mm"


@pytest.mark.parametrize(
    ("caption", "told", "result"),
    [
        ("sks cat", ["solo", "Sks_Cat", "hat", "hat"], "sks cat, solo, hat"),
        ("A cat.", ["it sits on a mat"], "A cat, it sits on a mat"),
        ("a cat, it sits", ["It sits"], "a cat, it sits"),
        ("a cat", [], "a cat"),
    ],
)
def test_what_is_not_said_yet_is_put_after_a_caption(caption: str, told: list[str], result: str) -> None:
    assert appended(caption, told) == result
    assert appended(result, told) == result


CAPTIONS = st.text(alphabet="ab ,._tps\x07é", max_size=40)
WORDINGS = st.builds(
    Wording,
    trigger=st.none() | st.text(alphabet="tT", min_size=1, max_size=4),
    prefix=st.text(alphabet="p, ", max_size=5),
    suffix=st.text(alphabet="s, ", max_size=5),
    blacklist=st.lists(st.text(alphabet="ab ", min_size=1, max_size=3), max_size=2),
    dedupe=st.booleans(),
    replace=st.lists(st.from_regex(r"[ab]( [ab])?=[ab]?( [ab,]){0,2}", fullmatch=True), max_size=2),
)
SHARED = ("best", "masterpiece, best", "best, best", "a", "a best", "best a,")
SHARING = st.builds(
    Wording,
    trigger=st.none() | st.sampled_from(SHARED),
    prefix=st.just("") | st.sampled_from(SHARED),
    suffix=st.just("") | st.sampled_from([*SHARED, ", best", ", a"]),
    dedupe=st.booleans(),
)


@given(CAPTIONS, WORDINGS)
def test_wording_again_changes_nothing(caption: str, wording: Wording) -> None:
    with contextlib.suppress(ConfigError):
        must_be_stable(wording)
        once, _ = worded(caption, wording, ESTIMATE)
        assert worded(once, wording, ESTIMATE)[0] == once


@given(st.sampled_from(["a cat", "best", "best, a", "masterpiece", "a, best, cat"]), SHARING)
def test_wording_again_changes_nothing_where_words_are_shared(caption: str, wording: Wording) -> None:
    once, _ = worded(caption, wording, ESTIMATE)
    assert worded(once, wording, ESTIMATE)[0] == once
    assert len(once) <= len(f"{wording.trigger}, {wording.prefix} {caption} {wording.suffix}")


@pytest.mark.parametrize("replace", [("cat=dog", "dog=cat dog"), ("a b=c", "d=a b")])
def test_replacements_that_would_go_on_for_ever_are_refused(replace: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="--replace"):
        must_be_stable(Wording(replace=replace))
    must_be_stable(Wording(replace=("cat=sks cat", "grey=gray", "hat=")))
    with pytest.raises(ConfigError, match="--blacklist"):
        must_be_stable(Wording(replace=("b=a b b",), blacklist=("a",)))
    assert len(word("c d e b", replace=("b=a b b",), blacklist=("a",))) < 9 * BYTES


@pytest.mark.parametrize("trigger", ["s\nks", "s\x1bks", "s\u2028ks"])
def test_a_trigger_is_one_line(trigger: str) -> None:
    with pytest.raises(ValidationError, match="on one line"):
        Wording(trigger=trigger)


@given(st.text(max_size=60))
def test_tags_are_told_apart(caption: str) -> None:
    tags = tags_of(caption)
    assert all(tag and tag == tag.strip() and "," not in tag for tag in tags)
    assert without_doubles(without_doubles(tags)) == without_doubles(tags)
    assert not is_list("a cat asleep on a mat")
    assert is_list("1girl, solo, long hair")
