"""Captions of any length reach the denoiser whole, and short ones exactly as diffusers reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from sdtune.core.families import clip, family_named
from sdtune.core.families.clip import CHUNK
from sdtune.errors import ConfigError
from tests import tiny

CAPTIONS = ["a red apple", "", " A red,  apple (old:1.2), 'tis <|endoftext|> !", "x " * CHUNK]
WORD = "x "
TOKENIZER = tiny.tokenizer()


def read(family: str, pipe: Any, captions: list[str], **told: Any) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return family_named(family).encode_captions(pipe, captions, **told)


def by_diffusers(family: str, pipe: Any, captions: list[str], clip_skip: int | None = None) -> list[torch.Tensor]:
    """States, and what is pooled."""
    with torch.no_grad():
        if family in ("sd1", "sd2"):
            return [pipe.encode_prompt(captions, "cpu", 1, False, clip_skip=clip_skip)[0]]
        if family == "sdxl":
            told = pipe.encode_prompt(captions, device="cpu", do_classifier_free_guidance=False)
        else:
            told = pipe.encode_prompt(captions, captions, captions, device="cpu", do_classifier_free_guidance=False)
        return [told[0], told[2]]


def with_t5(pipe: Any) -> Any:
    """A tiny SD3 with a tiny T5 that knows letters."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    vocabulary += [(letter, -2.0) for letter in "abcdefghijklmnopqrstuvwxyz,.:()"]
    pipe.tokenizer_3 = T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)
    width = pipe.transformer.config.joint_attention_dim
    config = T5Config(
        vocab_size=len(vocabulary), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2, is_encoder_decoder=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe.text_encoder_3 = T5EncoderModel(config).eval()
    return pipe


def words(count: int, *commas: int) -> str:
    """So many tokens of one letter each, or commas."""
    return " ".join("," if place in commas else "abcdefg"[place % 7] for place in range(count))


def test_short_captions_are_read_as_diffusers_reads_them(family_name: str) -> None:
    pipe = tiny.pipeline(family_name)
    for mine, theirs in zip(
        read(family_name, pipe, CAPTIONS).values(), by_diffusers(family_name, pipe, CAPTIONS), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_padding_is_the_tokenizers(family_name: str) -> None:
    """OpenCLIP's tokenizers pad with "!" rather than with the end of text."""
    pipe = tiny.pipeline(family_name)
    usual = read(family_name, pipe, ["a red apple"])["encoder_hidden_states"]
    for part in ("tokenizer", "tokenizer_2"):
        if getattr(pipe, part, None) is not None:
            getattr(pipe, part).pad_token = "!"
    told = read(family_name, pipe, CAPTIONS)
    for mine, theirs in zip(told.values(), by_diffusers(family_name, pipe, CAPTIONS), strict=True):
        assert torch.equal(mine, theirs)
    assert not torch.equal(told["encoder_hidden_states"][:1], usual)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize(("clip_skip", "theirs"), [(None, None), (1, None), (2, 1)])
def test_layers_are_counted_as_a1111_counts_them(family: str, clip_skip: int | None, theirs: int | None) -> None:
    pipe = tiny.pipeline(family)
    object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)  # diffusers looks for the norm in there
    (states,) = read(family, pipe, CAPTIONS, clip_skip=clip_skip).values()
    assert torch.equal(states, by_diffusers(family, pipe, CAPTIONS, theirs)[0])
    if clip_skip and clip_skip > 1:
        assert not torch.equal(states, *read(family, pipe, CAPTIONS).values())


def test_layers_that_are_not_there_or_not_read_are_refused(family_name: str) -> None:
    family, pipe = family_named(family_name), tiny.pipeline(family_name)
    family.check_clip_skip(pipe, None)
    if family_name in ("sd1", "sd2"):
        family.check_clip_skip(pipe, 2)
        with pytest.raises(ConfigError, match=r"^--clip-skip 3 \(.*--text\.clip-skip\): .* 2 layers; give 1 to 2"):
            family.check_clip_skip(pipe, 3)
    else:
        with pytest.raises(ConfigError, match=r"^--clip-skip 1 \(.*--text\.clip-skip\): .* one layer alone"):
            family.check_clip_skip(pipe, 1)


@pytest.mark.parametrize(
    ("tokens", "commas", "first"),
    [
        (CHUNK, (), CHUNK),
        (CHUNK + 1, (), CHUNK),
        (CHUNK + 1, (10,), CHUNK),  # too far back
        (CHUNK + 1, (CHUNK - 21,), CHUNK),
        (CHUNK + 1, (CHUNK - 20,), CHUNK - 19),
        (CHUNK + 1, (CHUNK - 20, CHUNK - 9), CHUNK - 8),
        (CHUNK + 1, (CHUNK - 1,), CHUNK),
        (CHUNK + 1, (CHUNK - 9, CHUNK), CHUNK),  # the next begins with one
        (CHUNK, (CHUNK - 5,), CHUNK),  # it fits
    ],
)
def test_a_chunk_ends_at_a_comma_that_is_near(tokens: int, commas: tuple[int, ...], first: int) -> None:
    places = clip.chunked(clip.tokens_of(TOKENIZER, words(tokens, *commas)))
    assert len(places) == 1 + (tokens > CHUNK)
    assert len(places[0]) == first


def test_a_chunk_ends_with_a_word_where_it_can() -> None:
    tokens = clip.tokens_of(TOKENIZER, words(CHUNK - 3) + " qqqqqqqqqqqq qq")
    assert [len(place) for place in clip.chunked(tokens)] == [CHUNK - 3, 14]
    assert [len(place) for place in clip.chunked(clip.tokens_of(TOKENIZER, "q" * 100))] == [CHUNK, 100 - CHUNK]


@given(st.lists(st.text("apqx,", min_size=1, max_size=9), max_size=150).map(" ".join))
def test_chunks_hold_every_token_once(caption: str) -> None:
    tokens = clip.tokens_of(TOKENIZER, caption)
    places = clip.chunked(tokens)
    assert [i for place in places for i in place] == list(range(len(tokens)))
    assert all(len(place) <= CHUNK for place in places)
    assert all(places) or places == [range(0)]
    assert all(tokens.ends[place.stop - 1] for place in places if place)
    assert list(tokens.ids) == TOKENIZER(caption, add_special_tokens=False).input_ids


def test_chunks_stand_one_after_another_and_the_first_is_pooled(family_name: str) -> None:
    pipe = tiny.pipeline(family_name)
    first, second, third = words(CHUNK), "an apple, red, " * 8, "x"
    told = read(family_name, pipe, [f"{first} {second.strip()} {third}", "a red apple"], chunks=4)
    length = 77
    places = clip.chunked(clip.tokens_of(TOKENIZER, second + third))
    assert len(places) == 1
    alone = read(family_name, pipe, [first, second + third, "", "a red apple"])
    states, whole = alone.pop("encoder_hidden_states"), told.pop("encoder_hidden_states")
    order = {0: (0, 1, 2, 2), 1: (3, 2, 2, 2)}
    for row, chunks in order.items():
        for column, chunk in enumerate(chunks):
            part = whole[row, column * length : (column + 1) * length]
            torch.testing.assert_close(part, states[chunk, :length], rtol=1e-4, atol=1e-5)
    assert torch.equal(whole[:, 4 * length :], states[:2, length:])  # T5's
    for name, pooled in told.items():
        torch.testing.assert_close(pooled, alone[name][[0, 3]], rtol=1e-4, atol=1e-5)


def test_counts(family_name: str) -> None:
    family, pipe = family_named(family_name), tiny.pipeline(family_name)
    captions = ["", "a red apple", WORD * CHUNK, WORD * (CHUNK + 1), WORD * 300, "(red:1.2)"]
    assert family.count_tokens(pipe, captions) == [0, 3, CHUNK, CHUNK + 1, 300, 7]
    assert family.count_chunks(pipe, captions) == [1, 1, 1, 2, 4, 1]
    assert family.count_tokens(pipe, ["(red:1.2)"], weighted=True) == [1]
    assert family.count_chunks(pipe, [f"(({WORD * CHUNK}))"], weighted=True) == [1]
    assert family.most_tokens(pipe) is None
    assert family.count_tokens(pipe, []) == family.count_chunks(pipe, []) == []


def test_nothing_is_cut(family_name: str) -> None:
    pipe = tiny.pipeline(family_name)
    with pytest.raises(AssertionError, match="2 chunks"):
        read(family_name, pipe, [WORD * (CHUNK + 1)])


def test_the_denoiser_takes_any_number_of_chunks(family_name: str) -> None:
    family, pipe = family_named(family_name), tiny.pipeline(family_name)
    net = getattr(pipe, family.denoiser)
    told = read(family_name, pipe, [WORD * 200], chunks=3)
    told |= {name: value[None] for name, value in family.condition_on_size((64, 64), (0, 0), (64, 64)).items()}
    latents = torch.randn(1, net.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert family.denoise(net, latents, torch.tensor([500]), told).shape == latents.shape


def test_weights_multiply_states_and_keep_the_mean(family_name: str) -> None:
    pipe = tiny.pipeline(family_name)
    for part in family_named(family_name).clips:  # random ones have means of zero, which are no measure
        for name, value in getattr(pipe, part).named_parameters():
            if "embedding" in name or name.endswith("final_layer_norm.bias"):
                value.data += 0.5
    plain = read(family_name, pipe, ["a red apple"])["encoder_hidden_states"][0, :77]
    told = read(family_name, pipe, ["a (red:1.5) apple"], weighted=True)["encoder_hidden_states"][0, :77]
    width = 32 if family_name in ("sdxl", "sd3") else plain.shape[1]
    for start, stop in ((0, width), (32, 96))[: 1 + (family_name in ("sdxl", "sd3"))]:
        before, after = plain[:, start:stop], told[:, start:stop]
        wanted = before.clone()
        wanted[2] *= 1.5
        wanted *= before.mean() / wanted.mean()
        torch.testing.assert_close(after, wanted)
        torch.testing.assert_close(after.mean(), before.mean())
        assert not torch.allclose(after[2], before[2], rtol=0.1)


def test_weights_of_one_change_nothing(family_name: str) -> None:
    pipe = tiny.pipeline(family_name)
    for mine, plain in zip(
        read(family_name, pipe, ["a (red:1.0) apple", "a [(red)] apple", ""], weighted=True, chunks=2).values(),
        read(family_name, pipe, ["a red apple", "a red apple", ""], chunks=2).values(),
        strict=True,
    ):
        torch.testing.assert_close(mine, plain)


def test_states_without_a_mean_are_not_blown_up() -> None:
    """A normalisation without bias leaves a mean of nothing but rounding, which no other mean can be restored to."""
    pipe = tiny.pipeline("sd1")
    for weight in (0.5, 1.5, -1.0):
        told = read("sd1", pipe, [f"a (red:{weight}) apple"], weighted=True)["encoder_hidden_states"]
        wanted = read("sd1", pipe, ["a red apple"])["encoder_hidden_states"]
        wanted[:, 2] *= weight
        torch.testing.assert_close(told, wanted)


def test_words_of_several_vectors_are_read_whole_and_never_parted() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["sks", "sks_1", "sks_2"])
    new = tokenizer.convert_tokens_to_ids(["sks", "sks_1", "sks_2"])
    a, b = (tokenizer.convert_tokens_to_ids(f"{letter}</w>") for letter in "ab")
    assert list(clip.tokens_of(tokenizer, "a sks b").ids) == [a, *new, b]
    assert list(clip.tokens_of(tokenizer, "sks sks").ids) == new * 2
    assert [len(one) for one in clip.chunked(clip.tokens_of(tokenizer, words(CHUNK - 2) + " sks a"))] == [CHUNK - 2, 4]
    assert [len(one) for one in clip.chunked(clip.tokens_of(tokenizer, words(CHUNK - 3) + " sks a"))] == [CHUNK, 1]


def test_gradients_reach_the_text_encoders(family_name: str) -> None:
    family, pipe = family_named(family_name), tiny.pipeline(family_name)
    told = family.encode_captions(pipe, ["a (red) apple", WORD * 100], chunks=2, weighted=True)
    sum(value.pow(2).sum() for value in told.values()).backward()
    for part in family.clips:
        slope = getattr(pipe, part).get_input_embeddings().weight.grad
        assert slope is not None
        assert slope[clip.tokens_of(TOKENIZER, "red").ids[0]].abs().sum() > 0


def test_t5_reads_as_in_diffusers_and_more_of_longer_captions() -> None:
    family, pipe = family_named("sd3"), with_t5(tiny.pipeline("sd3"))
    for mine, theirs in zip(
        read("sd3", pipe, CAPTIONS[:2]).values(), by_diffusers("sd3", pipe, CAPTIONS[:2]), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert read("sd3", pipe, ["a"], chunks=2)["encoder_hidden_states"].shape[1] == 2 * 77 + 512
    plain = read("sd3", pipe, ["a red apple"])["encoder_hidden_states"][:, 77:]
    told = read("sd3", pipe, ["a (red:1.5) apple"], weighted=True)["encoder_hidden_states"][:, 77:]
    assert torch.equal(told, plain)
    assert family.most_tokens(pipe) == 511
    # a word of letters that merge for CLIP, and do not for T5
    assert family.count_tokens(pipe, ["apple"]) == [6]
    assert family.count_chunks(pipe, ["apple " * 42]) == [1]  # 252 tokens, and the mark of the end
    assert family.count_chunks(pipe, ["apple " * 42 + "ab"]) == [1]  # 255, which with it are 256
    assert family.count_chunks(pipe, ["apple " * 42 + "abc"]) == [2]
    read("sd3", pipe, ["apple " * 42 + "ab"])
    read("sd3", pipe, ["apple " * 85], chunks=2)  # 510 and 1
    with pytest.raises(AssertionError, match="by T5 in 512"):
        read("sd3", pipe, ["apple " * 86], chunks=2)


@hypothesis_settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_as_diffusers_reads_it(family_name: str, caption: str) -> None:
    pipe = PIPES.setdefault(family_name, tiny.pipeline(family_name))
    if family_named(family_name).count_chunks(pipe, [caption]) == [1]:
        mine, theirs = read(family_name, pipe, [caption]), by_diffusers(family_name, pipe, [caption])
        assert all(torch.equal(*pair) for pair in zip(mine.values(), theirs, strict=True))


PIPES: dict[str, Any] = {}
