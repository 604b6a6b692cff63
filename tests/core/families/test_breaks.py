"""BREAK ends a chunk in every family's CLIPs, and T5 reads on as if it were not there."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from sdtune.core.families import clip, family_named
from sdtune.core.families.clip import CHUNK
from tests import tiny
from tests.core.families.test_captions import read, with_t5, words

TOKENIZER = tiny.tokenizer()
LENGTH = CHUNK + 2


def chunks_of(prompt: str) -> list[list[int]]:
    tokens = clip.tokens_of(TOKENIZER, prompt, breaks=True)
    return [[tokens.ids[i] for i in place] for place in clip.chunked(tokens)]


@given(st.lists(st.text("apqx,", min_size=1, max_size=9), max_size=90).map(" ".join), st.text("apqx ,", max_size=20))
def test_what_stands_before_a_break_changes_nothing_behind_it(before: str, after: str) -> None:
    behind = chunks_of(after) if after.strip() else []
    assert chunks_of(f"{before} BREAK {after}") == chunks_of(before) + behind
    assert chunks_of(f"BREAK {before} BREAK") == [[], *chunks_of(before)]


def test_breaks_one_after_another_leave_empty_chunks() -> None:
    (a,), (b,) = (TOKENIZER(letter, add_special_tokens=False).input_ids for letter in "ab")
    assert chunks_of("a BREAK BREAK b") == [[a], [], [b]]
    assert chunks_of("BREAK") == chunks_of("") == [[]]
    assert chunks_of(f"{words(CHUNK)} BREAK b") == [*chunks_of(words(CHUNK)), [b]]
    assert chunks_of(f"{words(CHUNK + 1)} BREAK b") == [*chunks_of(words(CHUNK + 1)), [b]]


def test_chunks_that_are_broken_are_those_of_texts_by_themselves(family_name: str) -> None:
    pipe = tiny.pipeline(family_name)
    told = read(family_name, pipe, ["a (red BREAK blue:1.5) apple BREAK disc"], chunks=4, breaks=True)
    alone = read(family_name, pipe, ["a (red:1.5)", "(blue:1.5) apple", "disc", ""], weighted=True)
    states, whole = alone.pop("encoder_hidden_states"), told.pop("encoder_hidden_states")
    for column in range(4):
        part = whole[0, column * LENGTH : (column + 1) * LENGTH]
        torch.testing.assert_close(part, states[column, :LENGTH], rtol=1e-4, atol=1e-5)
    for name, pooled in told.items():
        torch.testing.assert_close(pooled[0], alone[name][0], rtol=1e-4, atol=1e-5)


def test_prompts_without_brackets_are_read_as_captions_bit_for_bit(family_name: str) -> None:
    pipe = tiny.pipeline(family_name)
    for text in ("a red apple", "", "A red, apple: 12:30!", words(CHUNK + 9, CHUNK - 4)):
        chunks = 1 + (len(text) > 2 * CHUNK)
        plain = read(family_name, pipe, [text], chunks=chunks)
        for prompt in (text, f"({text}:1.0)", f"({text}:1) BREAK"):
            told = read(family_name, pipe, [prompt], chunks=chunks, breaks=True)
            assert all(torch.equal(told[name], plain[name]) for name in plain)


def test_t5_reads_what_is_around_a_break_as_one_text() -> None:
    family, pipe = family_named("sd3"), with_t5(tiny.pipeline("sd3"))

    def by_t5(text: str, **how: Any) -> torch.Tensor:
        return read("sd3", pipe, [text], chunks=2, **how)["encoder_hidden_states"][:, 2 * LENGTH :]

    assert torch.equal(by_t5("a (red BREAK blue:1.5)", breaks=True), by_t5("a red blue"))
    assert family.count_tokens(pipe, ["(ab BREAK cd:1.5)"], breaks=True) == [6]


def test_captions_are_not_broken() -> None:
    """BREAK is a word in them, as it was in the captions of every run before."""
    family, pipe = family_named("sd1"), tiny.pipeline("sd1")
    for text, how in (("a BREAK b", {}), ("a BREAK b", {"weighted": True}), ("(a BREAK b:1.2)", {"weighted": True})):
        assert family.count_chunks(pipe, [text], **how) == [1]
        assert family.count_tokens(pipe, [text], **how) == [len("abreakb") - 1]  # "re" is one
