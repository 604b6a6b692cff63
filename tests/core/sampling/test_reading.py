"""Each text of some pictures is encoded once, as it would be for one of them alone."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from sdtune.core.data.cache import Store
from sdtune.core.drawing import Guide
from sdtune.core.families import family_named
from sdtune.core.reports import Progress
from sdtune.core.sampling import reading
from sdtune.core.sampling.reading import Script, Scripted
from sdtune.errors import ConfigError, DataError
from tests import tiny
from tests.core.data.test_encode import result
from tests.core.families.test_captions import with_t5

CPU = torch.device("cpu")
LONG = "red apple " * 50


@cache
def pipe_of(family: str) -> Any:
    return tiny.pipeline(family)


def script(prompt: str, negative: str = "", steps: int = 10, *, family: str = "sd1", syntax: str = "a1111") -> Script:
    return reading.script_of(
        prompt, negative, steps, family_named(family), pipe_of(family), syntax=syntax, clip_skip=None, where="p"
    )


def encoded(
    scripts: list[Script], family: str = "sd1", *, store: Store | None = None, pipe: Any = None, **how: Any
) -> tuple[Scripted, list[Any]]:
    usual: dict[str, Any] = {"syntax": "a1111", "clip_skip": None, "acting": ""}
    work = reading.encode(
        scripts,
        family_named(family),
        pipe or pipe_of(family),
        CPU,
        store=store or Store(None, 0),
        **(usual | how),
    )
    told: tuple[Scripted, list[Any]] = result(work)
    return told


def same(one: Guide, other: Guide) -> bool:
    return [step for step, _ in one] == [step for step, _ in other] and all(
        torch.equal(told[name], more[name]) for (_, told), (_, more) in zip(one, other, strict=True) for name in told
    )


def test_texts_hold_until_their_steps() -> None:
    told = script("a [red:blue:3] [apple|disc]", "[blurred::0.5]", 5)
    assert told.prompt == (
        (1, "a red apple"),
        (2, "a red disc"),
        (3, "a red apple"),
        (4, "a blue disc"),
        (5, "a blue apple"),
    )
    assert told.negative == ((2, "blurred"), (5, ""))
    guides, reports = encoded([told])
    prompt, negative = guides.guides(told)
    assert [step for step, _ in prompt] == [1, 2, 3, 4, 5]
    assert [step for step, _ in negative] == [2, 5]
    assert prompt[0][1] is prompt[2][1], "equal texts share their tensors"
    assert [(one.phase, one.number, one.of) for one in reports if isinstance(one, Progress)] == [
        ("encoding prompts", number, 6) for number in range(1, 7)
    ]


def test_guides_are_what_the_family_makes_of_each_text(family_name: str) -> None:
    family, pipe = family_named(family_name), pipe_of(family_name)
    told = script("a (red:1.5) [apple:disc BREAK b:4]", "bad", family=family_name)
    assert told.chunks == 2
    prompt, negative = encoded([told], family_name)[0].guides(told)
    for guide, texts in ((prompt, ["a (red:1.5) apple", "a (red:1.5) disc BREAK b"]), (negative, ["bad"])):
        for (_, mine), text in zip(guide, texts, strict=True):
            with torch.no_grad():
                wanted = family.encode_captions(pipe, [text], chunks=2, breaks=True)
            assert mine.keys() == wanted.keys()
            assert all(torch.equal(mine[name], wanted[name][0]) for name in wanted)


def test_all_texts_of_a_picture_have_the_chunks_of_its_longest() -> None:
    assert script("a").chunks == 1
    assert script(LONG).chunks == 2
    assert script("a", LONG).chunks == 2
    assert script(f"[a:{LONG}:5]").chunks == 2
    assert script("a BREAK b", "c BREAK d BREAK e").chunks == 3
    assert script("a BREAK b", syntax="plain").chunks == 1


def test_a_picture_is_the_same_whatever_is_drawn_beside_it(family_name: str) -> None:
    short, long = script("a (red:1.2) apple", family=family_name), script(LONG, family=family_name)
    third = script("a red disc", family=family_name)
    alone = [encoded([one], family_name)[0].guides(one) for one in (short, long, third)]
    together = encoded([third, long, short], family_name)[0]
    for one, (prompt, negative) in zip((short, long, third), alone, strict=True):
        beside = together.guides(one)
        assert same(prompt, beside[0])
        assert same(negative, beside[1])
    assert len(together.keys) == 5, "the empty text in a chunk, for two pictures, and in two chunks"


def test_plain_prompts_are_read_to_the_letter() -> None:
    text = "a (red:1.5) [apple:disc:3] BREAK <lora:cats:x>"
    told = script(text, syntax="plain")
    assert told.prompt == ((10, text),)
    ((_, mine),), _ = encoded([told], syntax="plain")[0].guides(told)
    with torch.no_grad():
        wanted = family_named("sd1").encode_captions(pipe_of("sd1"), [text], chunks=told.chunks)
    assert torch.equal(mine["encoder_hidden_states"], wanted["encoder_hidden_states"][0])


def test_what_is_encoded_lies_in_the_store_by_all_that_it_depends_on(tmp_path: Path) -> None:
    store, told = Store(tmp_path, 0), [script("a red apple", "blurred")]
    made = []
    for how in ({}, {}, {"acting": "cats at 0.5"}, {"clip_skip": 2}, {"syntax": "plain"}, {}):
        encoded(told, store=store, **how)
        made.append(store.made)
    assert made == [2, 2, 4, 6, 8, 8]
    assert same(encoded(told, store=Store(tmp_path, 0))[0].guides(told[0])[0], encoded(told)[0].guides(told[0])[0])


def test_clip_skip_is_read(family_name: str) -> None:
    family, pipe = family_named(family_name), pipe_of(family_name)
    how: dict[str, Any] = {"syntax": "a1111", "where": "p"}
    if family_name in ("sd1", "sd2"):
        told = reading.script_of("a", "", 1, family, pipe, clip_skip=2, **how)
        usual, other = (encoded([told], family_name, clip_skip=skip)[0].guides(told)[0] for skip in (None, 2))
        assert not same(usual, other)
    with pytest.raises(ConfigError, match="--clip-skip 3"):
        reading.script_of("a", "", 1, family, pipe, clip_skip=3, **how)


def test_white_space_is_white_space() -> None:
    """A1111 has any of it around a weight."""
    assert script("a\n(red:\t1.5\n)").prompt == ((10, "a (red: 1.5 )"),)
    assert script("a\n(red:\t1.5\n)", syntax="plain").prompt == ((10, "a\n(red:\t1.5\n)"),)


@pytest.mark.parametrize(
    ("prompt", "negative", "told"),
    [
        ("zebra " * 300, "", "p: 1500 tokens, and 750 are the most that can be read; shorten the prompt"),
        ("a", "zebra " * 300, "p, negative: 1500 tokens"),
        ("[a:" + "zebra " * 300 + ":5]", "", "p: 1500 tokens"),
        (
            "a BREAK " * 11,
            "",
            "p: 11 chunks of 75 tokens, and 10 are the most that can be read; shorten the prompt, or",
        ),
        ("(apple:1.x)", "", "p, column 1: (apple:1.x): a weight"),
        ("a", "b (apple:1.x)", "p, negative, column 3: (apple:1.x): a weight"),
        ("((apple:50):-3)", "", "p: its brackets come to a weight of -150; 100 is the most"),
        ("[a:((apple:50):3):4]", "", "p: its brackets come to a weight of 150"),
        ("(" * 60 + "a", "", "p: its brackets come to a weight of 304.482"),
        ("a" * 100_000, "", "p: a prompt of 100000 characters, and 20000 are the most"),
    ],
)
def test_what_cannot_be_read(prompt: str, negative: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        script(prompt, negative)


def test_what_cannot_be_read_to_the_letter() -> None:
    for prompt, told in (("a" * 100_000, "20000 are the most"), ("\udcff", "not UTF-8"), ("zebra " * 300, "750 are")):
        with pytest.raises(ConfigError, match=f"p: .*{told}"):
            script(prompt, syntax="plain")


def test_t5_reads_less() -> None:
    family, pipe = family_named("sd3"), with_t5(tiny.pipeline("sd3"))
    how: dict[str, Any] = {"syntax": "a1111", "clip_skip": None, "where": "p"}
    assert reading.script_of("apple " * 43, "", 1, family, pipe, **how).chunks == 2
    with pytest.raises(ConfigError, match="516 tokens, and 511 are the most"):
        reading.script_of("apple " * 86, "", 1, family, pipe, **how)


def test_a_prompt_without_numbers_is_named() -> None:
    pipe = tiny.pipeline("sd1")
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[:] = math.nan
    with pytest.raises(DataError, match='"a red apple": the text encoders make no numbers of it; use --memory'):
        encoded([script("a red apple")], pipe=pipe)
