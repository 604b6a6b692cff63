"""Captions are encoded once, at the length that the longest needs, and none is cut."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTokenizer

from sdtune.core.data import conditioning
from sdtune.core.data.cache import Store
from sdtune.core.data.conditioning import Reading, encode_captions, let_go, moved, reading_for, stack
from sdtune.core.families import family_named
from sdtune.core.reports import Progress
from sdtune.errors import DataError
from tests import tiny
from tests.core.data.test_encode import files, need_memory, result

CPU = torch.device("cpu")
FAMILY = family_named("sd1")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.pipeline("sd1")


def reading(pipe: Any, captions: list[str], **more: Any) -> Reading:
    return reading_for(captions, FAMILY, pipe, **{"longest": 225, "clip_skip": None, "weighted": False} | more)


def test_equal_captions_are_encoded_once_each_as_it_would_be_alone(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditioning, "AT_ONCE", {"cpu": 2})
    captions = ["a red apple", "", "a blue disc", "a red apple"]
    told, reports = result(encode_captions(captions, FAMILY, pipe, CPU, Reading(), Store(None, 0)))
    assert [(one.phase, one.number, one.of) for one in reports] == [
        ("encoding captions", 2, 3),
        ("encoding captions", 3, 3),
    ]
    assert all(isinstance(one, Progress) for one in reports)
    states = {caption: told(caption)["encoder_hidden_states"] for caption in captions}
    assert not torch.equal(states["a red apple"], states[""])
    for caption, state in states.items():
        alone, _ = result(encode_captions([caption], FAMILY, pipe, CPU, Reading(), Store(None, 0)))
        assert torch.allclose(alone(caption)["encoder_hidden_states"], state, atol=1e-5)


def test_a_run_reads_all_at_the_length_of_the_longest(pipe: Any) -> None:
    long = "red apple " * 60
    captions = ["a red apple", long]
    how = reading(pipe, captions)
    assert how.chunks > 1
    told, _ = result(encode_captions(captions, FAMILY, pipe, CPU, how, Store(None, 0)))
    both = stack([told(caption) for caption in captions])["encoder_hidden_states"]
    assert both.shape[:2] == (2, 77 * how.chunks)
    first, second = both[1, :77], both[1, 77:154]
    assert not torch.allclose(first, second, atol=1e-3), "what comes after 75 tokens is read"


def test_too_long_captions_are_refused_by_name_with_what_would_do(pipe: Any) -> None:
    names, remedy = {"zebra " * 100: "z.png"}, "sdtune caption data --mode edit --max-tokens {longest}"
    with pytest.raises(DataError) as caught:
        reading(pipe, ["a red apple", "zebra " * 100], longest=75, thing="caption", name_of=names.get, remedy=remedy)
    (line,) = caught.value.problems
    assert line.startswith('1 caption has over 75 tokens: z.png "zebra zebra')
    assert "shorten it (sdtune caption data --mode edit --max-tokens 75), or read more with --captions.longest" in line
    with pytest.raises(DataError, match=r"1 prompt has over 75 tokens.*; shorten it$"):
        reading(pipe, ["zebra " * 100], longest=75)


def test_a_weight_that_gives_no_numbers_is_refused(pipe: Any) -> None:
    with pytest.raises(DataError, match='"a \\(disc:99999999999\\)": a weight of 1e\\+11; give one from -100 to 100'):
        reading(pipe, ["a (disc:99999999999)"], weighted=True)
    assert reading(pipe, ["a (disc:99999999999)"]).chunks == 1


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({}, 0),
        ({"captions": ["a red apple", "another"]}, 1),
        ({"reading": Reading(2)}, 2),
        ({"reading": Reading(1, 2)}, 2),
        ({"reading": Reading(1, None, True)}, 2),
        ({"seed": 1}, 2),
    ],
)
def test_one_entry_a_caption_and_way_of_reading(change: dict[str, Any], new: int, tmp_path: Path) -> None:
    def encode(captions: list[str], how: Reading, seed: int) -> None:
        store = Store(tmp_path / "cache", 0)
        result(encode_captions(captions, FAMILY, tiny.pipeline("sd1", seed=seed), CPU, how, store))

    encode(["a red apple", "a blue disc"], Reading(), 0)
    before = files(tmp_path / "cache")
    assert len(before) == 2
    encode(
        change.get("captions", ["a red apple", "a blue disc"]), change.get("reading", Reading()), change.get("seed", 0)
    )
    assert len(files(tmp_path / "cache")) == 2 + new


def test_another_tokenizer_reads_anew(tmp_path: Path) -> None:
    def encode(change: str) -> int:
        pipe = tiny.pipeline("sd1")
        if change == "merges":
            pipe.tokenizer = CLIPTokenizer(pipe.tokenizer.get_vocab(), [("a", "p")], model_max_length=77)
        elif change == "padding":
            pipe.tokenizer.pad_token = "!"
        result(encode_captions(["a blue disc"], FAMILY, pipe, CPU, Reading(), Store(tmp_path / "cache", 0)))
        return len(files(tmp_path / "cache"))

    assert [encode(change) for change in ("", "", "merges", "padding")] == [1, 1, 2, 3]


def test_other_threads_read_anew_as_their_last_digits_differ(pipe: Any, tmp_path: Path) -> None:
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        try:
            result(encode_captions(["a"], FAMILY, pipe, CPU, Reading(), Store(tmp_path / "cache", 0)))
        finally:
            torch.set_num_threads(1)
    assert len(files(tmp_path / "cache")) == 2


def test_numbers_of_pixels_are_not_rounded() -> None:
    told = {"time_ids": torch.tensor([[835.0, 1365.0]]), "text_embeds": torch.tensor([[835.0]])}
    there = moved(told, CPU, torch.bfloat16)
    assert there["time_ids"].tolist() == [[835.0, 1365.0]]
    assert there["text_embeds"].dtype == torch.bfloat16


def test_encoders_are_let_go() -> None:
    pipe = tiny.pipeline("sdxl")
    let_go(family_named("sdxl"), pipe)
    assert (pipe.text_encoder, pipe.text_encoder_2) == (None, None)


def test_a_caption_without_numbers_is_named_and_never_kept(tmp_path: Path) -> None:
    pipe = tiny.pipeline("sd1")
    store = Store(tmp_path / "cache", 0)
    result(encode_captions(["a blue disc"], FAMILY, pipe, CPU, Reading(), store))
    known = files(tmp_path / "cache")
    # Too large for fp32 in one word alone, as it is in fp16 for some words of T5.
    (word,) = pipe.tokenizer("apple", add_special_tokens=False).input_ids
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[word] = math.nan
    with pytest.raises(DataError) as caught:
        result(encode_captions(["a blue disc", "a red apple"], FAMILY, pipe, CPU, Reading(), store, ("the", "same")))
    (line,) = caught.value.problems
    assert line.startswith('"a red apple": the text encoders make no numbers of it; use --memory.precision bf16')
    assert len(files(tmp_path / "cache")) == len(known) + 1, "the other one"


def test_a_kept_entry_without_numbers_is_made_again(pipe: Any) -> None:
    store = Store(None, 0)
    told, _ = result(encode_captions(["a"], FAMILY, pipe, CPU, Reading(), store))
    good = told("a")
    spoilt = Store(None, 0)
    spoilt.put(told.keys["a"], {name: torch.full_like(value, math.nan) for name, value in good.items()})
    again, _ = result(encode_captions(["a"], FAMILY, pipe, CPU, Reading(), spoilt))
    assert all(torch.equal(again("a")[name], value) for name, value in good.items())


def test_captions_that_do_not_fit_together_are_read_alone(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ["a red apple", "", "a blue disc"]
    alone, _ = result(encode_captions(captions, FAMILY, pipe, CPU, Reading(), Store(None, 0)))
    monkeypatch.setattr(conditioning, "AT_ONCE", {"cpu": 3})
    hook = pipe.text_encoder.register_forward_pre_hook(
        lambda _, args, named: need_memory() if len(args[0] if args else named["input_ids"]) > 1 else None,
        with_kwargs=True,
    )
    try:
        told, _ = result(encode_captions(captions, FAMILY, pipe, CPU, Reading(), Store(None, 0)))
    finally:
        hook.remove()
    for caption in captions:
        assert all(torch.equal(told(caption)[name], value) for name, value in alone(caption).items())
