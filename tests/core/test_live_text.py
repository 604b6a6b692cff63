"""Text encoders learn what they shall and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdtune.config import TrainLora
from sdtune.core import lora_file
from sdtune.core.embedding import load_embedding, save_embedding
from sdtune.core.families import family_named
from sdtune.core.live_text import LiveText
from sdtune.core.lora import from_peft, load_into
from sdtune.errors import ConfigError
from tests import tiny
from tests.core.families.test_captions import with_t5

CPU = torch.device("cpu")
CAPTIONS = ["a red apple", "a sks-cat, red"]


def config(**tables: Any) -> TrainLora:
    network = {"rank": 4, "alpha": 4} | tables.pop("network", {})
    return TrainLora.model_validate({"data": {"folder": "pictures"}, "network": network, **tables})


def live(pipe: Any, family_name: str, chunks: int = 1, **tables: Any) -> LiveText:
    return LiveText(pipe, family_named(family_name), config(**tables), CPU, chunks)


def with_lora(pipe: Any, family_name: str, **tables: Any) -> LiveText:
    return live(pipe, family_name, text={"train": True}, **tables)


def with_word(pipe: Any, family_name: str, **token: Any) -> LiveText:
    return live(pipe, family_name, token={"word": "sks-cat"} | token)


def weights(pipe: Any, family_name: str) -> dict[str, Tensor]:
    """The text encoders' own, by names that what is put beside them does not change."""
    return {
        f"{part}.{name.replace('base_layer.', '').replace('base.', '')}": value.clone()
        for part in family_named(family_name).text_encoders
        if getattr(pipe, part) is not None
        for name, value in getattr(pipe, part).state_dict().items()
        if "lora_" not in name and not name.endswith("token_embedding.rows")
    }


def frozen(pipe: Any, family_name: str, captions: list[str], **told: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        return family_named(family_name).encode_captions(pipe, captions, **told)


def learn(text: LiveText, steps: int = 3) -> None:
    """A few steps away from where it is."""
    groups = text.groups()
    optimizer = torch.optim.SGD([{**group, "lr": 0.1} for group in groups])
    for _ in range(steps):
        loss = sum((value.float() - 1).square().mean() for value in text.read(CAPTIONS).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for group in groups:
        assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in group["params"])


def trainable(text: LiveText) -> list[Tensor]:
    return [one for group in text.groups() for one in group["params"]]


def test_a_fresh_lora_changes_nothing_and_learns_alone(family_name: str) -> None:
    pipe = tiny.pipeline(family_name)
    plain, before = frozen(pipe, family_name, CAPTIONS), weights(pipe, family_name)
    text = with_lora(pipe, family_name)
    assert set(text.parts) == set(family_named(family_name).clips)
    told = text.read(CAPTIONS)
    assert all(torch.equal(told[name], value) for name, value in plain.items())
    learn(text)
    after = weights(pipe, family_name)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(not torch.allclose(text.read(CAPTIONS)[name], value) for name, value in plain.items())
    in_encoders = [one for part in text.parts.values() for one in part.parameters() if one.requires_grad]
    assert {id(one) for one in trainable(text)} == {id(one) for one in in_encoders}


@pytest.mark.parametrize(("layers", "each"), [("attention", 4), ("attention+ff", 6)])
def test_layers(family_name: str, layers: str, each: int) -> None:
    pipe = tiny.pipeline(family_name)
    text = with_lora(pipe, family_name, network={"layers": layers})
    for (part, encoder), group in zip(text.parts.items(), text.groups(), strict=True):
        unread = family_name == "sdxl" and part == "text_encoder"  # its last layer
        assert len(group["params"]) == 2 * each * (encoder.config.num_hidden_layers - unread)


def test_layers_that_are_skipped_are_not_trained() -> None:
    text = live(tiny.pipeline("sd1"), "sd1", text={"train": True, "clip_skip": 2})
    assert len(trainable(text)) == 2 * 6
    learn(text)


def test_the_same_seed_gives_the_same_lora() -> None:
    first, again, other = (trainable(with_lora(tiny.pipeline("sdxl"), "sdxl", seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(first, other, strict=True))


def test_learning_rates() -> None:
    told = {"text": {"train": True, "lr": 1e-4, "lr_2": 3e-5}, "token": {"word": "sks-cat", "lr": 0.01}}
    text = live(tiny.pipeline("sdxl"), "sdxl", **told)
    assert [group["lr"] for group in text.groups()] == [1e-4, 3e-5, 0.01]
    assert [len(group["params"]) for group in text.groups()] == [12, 24, 2]
    numbers = [id(one) for one in trainable(text)]
    assert len(numbers) == len(set(numbers))
    told["text"].pop("lr_2")
    assert [group["lr"] for group in live(tiny.pipeline("sdxl"), "sdxl", **told).groups()] == [1e-4, 1e-4, 0.01]


def test_in_half_precision_what_is_trained_stays_whole() -> None:
    pipe = tiny.pipeline("sd1")
    pipe.text_encoder.to(torch.bfloat16)
    text = live(pipe, "sd1", text={"train": True}, token={"word": "sks-cat"})
    assert {one.dtype for one in trainable(text)} == {torch.float32}
    (states,) = text.read(CAPTIONS).values()
    assert states.dtype == torch.bfloat16
    learn(text)


def test_a_saved_lora_reads_as_the_live_one(family_name: str, tmp_path: Path) -> None:
    family, pipe = family_named(family_name), tiny.pipeline(family_name)
    text = with_lora(pipe, family_name)
    learn(text)
    net = getattr(pipe, family.denoiser)
    net.add_adapter(config().network.peft_config(family.lora_targets("attention")))
    lora_file.write(tmp_path / "it.safetensors", from_peft(net, family, text_encoders=text.parts), dtype="fp32")
    fresh = tiny.pipeline(family_name)
    load_into(fresh, lora_file.read(tmp_path / "it.safetensors"))
    told = frozen(fresh, family_name, CAPTIONS)
    for name, value in text.read(CAPTIONS).items():
        torch.testing.assert_close(told[name], value)


def test_captions_are_read_as_the_settings_say() -> None:
    pipe = tiny.pipeline("sd1")
    caption = "a (red:1.5) apple " + "x " * 80
    plain = frozen(pipe, "sd1", [caption], chunks=2, clip_skip=2, weighted=True)
    text = live(pipe, "sd1", 2, text={"train": True, "clip_skip": 2}, captions={"weights": True})
    assert torch.equal(*(told["encoder_hidden_states"] for told in (plain, text.read([caption]))))


def test_t5_is_read_but_never_trained() -> None:
    pipe = with_t5(tiny.pipeline("sd3"))
    plain = frozen(pipe, "sd3", CAPTIONS)["encoder_hidden_states"][:, 77:]
    text = live(pipe, "sd3", text={"train": True}, token={"word": "sks-cat"})
    assert not any(one.requires_grad for one in pipe.text_encoder_3.parameters())
    assert torch.equal(text.read(CAPTIONS)["encoder_hidden_states"][:, 77:], plain)
    learn(text)


@pytest.mark.parametrize("vectors", [1, 3])
def test_a_new_word_learns_alone(family_name: str, vectors: int) -> None:
    pipe = tiny.pipeline(family_name)
    plain, before = frozen(pipe, family_name, CAPTIONS), weights(pipe, family_name)
    text = with_word(pipe, family_name, vectors=vectors)
    assert text.parts == {}
    start = text.embeddings()
    told = text.read(CAPTIONS)
    for name, value in plain.items():
        assert torch.equal(told[name][0], value[0])  # which lacks the word
        assert not torch.allclose(told[name][1], value[1])
    learn(text)
    after = weights(pipe, family_name)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for part, rows in text.embeddings().items():
        assert rows.shape == (vectors, getattr(pipe, part).config.hidden_size)
        assert all(not torch.allclose(new, old) for new, old in zip(rows, start[part], strict=True))
    assert {id(one) for one in trainable(text)} == {
        id(one) for part in text.embeddings() for one in getattr(pipe, part).parameters() if one.requires_grad
    }
    for name, value in plain.items():
        torch.testing.assert_close(text.read(CAPTIONS)[name][0], value[0])


def test_a_new_word_stands_for_its_vectors_in_their_order() -> None:
    """Vectors of known words make what those words make."""
    pipe = tiny.pipeline("sdxl")
    for part in (pipe.text_encoder, pipe.text_encoder_2.text_model):
        part.eos_token_id = 2  # as in the released models' configs; then the highest number counts as the end
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
        assert max(tokenizer.get_vocab().values()) == tokenizer.eos_token_id
    plain = frozen(pipe, "sdxl", ["a red apple a, red apple"])
    text = with_word(pipe, "sdxl", vectors=2, init="red apple")
    for part, rows in text.embeddings().items():
        known = getattr(pipe, part).get_input_embeddings().base.weight
        ids = pipe.tokenizer("red apple", add_special_tokens=False).input_ids
        far = (rows - known[ids]).norm(dim=1) / known.norm(dim=1).mean()
        torch.testing.assert_close(far, torch.full((2,), 0.01), rtol=1e-3, atol=1e-5)
        getattr(pipe, part).get_input_embeddings().rows.data = known[ids].clone()
    for caption in ("a sks-cat a, sks-cat", "a SKS-cat a, Sks-Cat"):
        told = text.read([caption])
        assert all(torch.equal(told[name], value) for name, value in plain.items()), caption
    assert not torch.equal(text.read(["a sks-cats a, sks-cat"])["text_embeds"], plain["text_embeds"])


def test_first_vectors() -> None:
    def rows(**token: Any) -> Tensor:
        return with_word(tiny.pipeline("sd1"), "sd1", **token).embeddings()["text_encoder"]

    known = tiny.pipeline("sd1").text_encoder.get_input_embeddings().weight
    lengths = known.norm(dim=1)
    for start in (rows(vectors=3), rows(vectors=3, init="apple"), rows(vectors=5, init="red apple")):
        assert (start.norm(dim=1) > 0.9 * lengths.min()).all()
        assert (start.norm(dim=1) < 1.1 * lengths.max()).all()
        assert torch.cdist(start, start).fill_diagonal_(1).min() > 1e-4  # they differ
    five = rows(vectors=5, init="red apple")
    assert torch.cdist(five, known).argmin(dim=1).tolist() == (tiny.tokenizer()("red apple").input_ids[1:-1] * 3)[:5]
    assert torch.equal(five, rows(vectors=5, init="red apple"))
    mean = known.mean(dim=0)
    assert torch.cosine_similarity(rows(vectors=1)[0], mean, dim=0) > 0.999


@pytest.mark.parametrize(
    ("token", "told"),
    [
        ({"word": "apple"}, r'--new-token\): the model knows "apple" already; give a new word, such as apple-new'),
        ({"word": "sks-cat", "init": "  "}, r'token.init: "  " has nothing to read'),
    ],
)
def test_words_that_cannot_be(token: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        live(tiny.pipeline("sdxl"), "sdxl", token=token)
    assert len(caught.value.problems) == 1


def test_a_saved_word_reads_as_the_live_one(family_name: str, tmp_path: Path) -> None:
    family, pipe = family_named(family_name), tiny.pipeline(family_name)
    text = with_word(pipe, family_name)
    learn(text)
    save_embedding(tmp_path / "it.safetensors", family, "sks-cat", text.embeddings())
    fresh = tiny.pipeline(family_name)
    assert load_embedding(fresh, family, tmp_path / "it.safetensors") == "sks-cat"
    told = frozen(fresh, family_name, CAPTIONS)
    assert all(torch.equal(told[name], value) for name, value in text.read(CAPTIONS).items())


def test_a_wording_may_need_more_chunks_than_any_before(family_name: str) -> None:
    text = live(tiny.pipeline(family_name), family_name, token={"word": "sks-cat"})
    (short, long) = (text.read([caption])["encoder_hidden_states"] for caption in ("a disc", "red apple " * 60))
    assert long.shape[1] > short.shape[1]
