"""Files of embeddings are those that UIs read, and other people's are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdtune.core.embedding import (
    add_word,
    check_word,
    embedding_path,
    embeddings_into,
    load_embedding,
    save_embedding,
)
from sdtune.core.families import family_named
from sdtune.core.lora import Lora
from sdtune.errors import ConfigError, LoraError
from tests import tiny

VECTORS = 2
PROMPT = "a sks-cat, red"


def rows(pipe: Any, family_name: str, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        part: torch.randn(VECTORS, getattr(pipe, part).config.hidden_size, generator=random)
        for part in family_named(family_name).clips
    }


def read(pipe: Any, family_name: str, caption: str) -> dict[str, Tensor]:
    with torch.no_grad():
        return family_named(family_name).encode_captions(pipe, [caption])


def saved(path: Path, family_name: str) -> Path:
    save_embedding(path, family_named(family_name), "sks-cat", rows(tiny.pipeline(family_name), family_name))
    return path


def test_file_form(family_name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "it.safetensors", family_name)
    shapes = {name: tuple(value.shape) for name, value in load_file(path).items()}
    one = {"emb_params": (VECTORS, 32)}
    assert shapes == (one if family_name in ("sd1", "sd2") else {"clip_l": (VECTORS, 32), "clip_g": (VECTORS, 64)})
    with safe_open(path, "pt") as file:
        assert file.metadata()["word"] == "sks-cat"
    assert embedding_path(tmp_path, "<a/b>") == tmp_path / "a-b.safetensors"


@pytest.mark.parametrize("family_name", ["sd1", "sdxl"])
def test_diffusers_reads_it_alike(family_name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "it.safetensors", family_name)
    mine, theirs = tiny.pipeline(family_name), tiny.pipeline(family_name)
    load_embedding(mine, family_named(family_name), path)
    if family_name == "sd1":
        theirs.load_textual_inversion(str(path), token="sks-cat")
        with torch.no_grad():
            told = [theirs.encode_prompt([PROMPT], "cpu", 1, False)[0]]
    else:
        state = load_file(path)
        for name, end in (("clip_l", ""), ("clip_g", "_2")):
            theirs.load_textual_inversion(
                state[name],
                token="sks-cat",
                tokenizer=getattr(theirs, f"tokenizer{end}"),
                text_encoder=getattr(theirs, f"text_encoder{end}"),
            )
        with torch.no_grad():
            told = list(theirs.encode_prompt([PROMPT], device="cpu", do_classifier_free_guidance=False)[::2])
    for own, value in zip(read(mine, family_name, PROMPT).values(), told, strict=True):
        torch.testing.assert_close(own, value)
    assert not torch.equal(told[0], read(tiny.pipeline(family_name), family_name, PROMPT)["encoder_hidden_states"])


def test_without_metadata_the_files_name_is_the_word(tmp_path: Path) -> None:
    pipe = tiny.pipeline("sd1")
    one = rows(pipe, "sd1")["text_encoder"]
    save_file({"cat-toy": one[0]}, tmp_path / "toy.safetensors")  # diffusers' form, of a single vector
    assert load_embedding(pipe, family_named("sd1"), tmp_path / "toy.safetensors") == "toy"
    assert pipe.tokenizer.tokenize("a toy, toys")[:2] == ["a</w>", "toy"]
    assert torch.equal(pipe.text_encoder.get_input_embeddings()(torch.tensor(520)), one[0])


def test_several_words_stand_beside_each_other(tmp_path: Path) -> None:
    pipe, family = tiny.pipeline("sdxl"), family_named("sdxl")
    plain = read(pipe, "sdxl", "a red apple")
    found = {}
    for number, word in enumerate(("sks-cat", "zwx")):
        found[word] = rows(pipe, "sdxl", number)
        save_embedding(tmp_path / f"{word}.safetensors", family, word, found[word])
        load_embedding(pipe, family, tmp_path / f"{word}.safetensors")
    for part, tokenizer in (("text_encoder", pipe.tokenizer), ("text_encoder_2", pipe.tokenizer_2)):
        vectors = getattr(pipe, part).get_input_embeddings()
        for word, told in found.items():
            ids = tokenizer.convert_tokens_to_ids([word, f"{word}_1"])
            assert torch.equal(vectors(torch.tensor(ids)), told[part])
    assert all(torch.equal(value, plain[name]) for name, value in read(pipe, "sdxl", "a red apple").items())
    assert not torch.equal(*(read(pipe, "sdxl", f"a {word}")["text_embeds"] for word in found))


def test_counts_follow_the_word() -> None:
    pipe, family = tiny.pipeline("sdxl"), family_named("sdxl")
    add_word(pipe, family, "sks-cat", 5)
    assert family.count_tokens(pipe, ["a sks-cat", "a sks-cat_1", "a sks-cats"]) == [6, 2, 9]


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"clip_l": (2, 32)}, "no embedding for Stable Diffusion XL, as it holds clip_l"),
        ({"emb_params": (2, 32)}, "no embedding for Stable Diffusion XL, as it holds emb_params"),
        ({"clip_l": (2, 32), "clip_g": (2, 32)}, "its vectors are 32 wide, and the model's 64"),
        ({"clip_l": (2, 32), "clip_g": (3, 64)}, "holds 2 and 3 vectors"),
        ({"clip_l": (76, 32), "clip_g": (76, 64)}, "holds 76 vectors"),
        ({"clip_l": (0, 32), "clip_g": (0, 64)}, "holds 0 vectors"),
        ({"clip_l": (), "clip_g": ()}, "its vectors are 1 wide"),
    ],
)
def test_files_that_do_not_fit(tensors: dict[str, tuple[int, ...]], told: str, tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, path)
    with pytest.raises(LoraError, match=told) as caught:
        load_embedding(tiny.pipeline("sdxl"), family_named("sdxl"), path)
    assert len(caught.value.problems) == 1


def test_broken_files(tmp_path: Path) -> None:
    pipe, family = tiny.pipeline("sdxl"), family_named("sdxl")
    path = saved(tmp_path / "it.safetensors", "sdxl")
    load_embedding(pipe, family, path)
    with pytest.raises(LoraError, match='"sks-cat" was taught by another embedding already'):
        load_embedding(pipe, family, path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(LoraError, match=r"it\.safetensors"):
        load_embedding(pipe, family, path)
    save_file({"clip_l": torch.full((1, 32), torch.nan), "clip_g": torch.ones(1, 64)}, path)
    with pytest.raises(LoraError, match="no numbers"):
        load_embedding(pipe, family, path)


def test_words_bundled_with_a_lora_are_read_as_those_in_files(family_name: str, tmp_path: Path) -> None:
    family = family_named(family_name)
    from_file, bundled = tiny.pipeline(family_name), tiny.pipeline(family_name)
    load_embedding(from_file, family, saved(tmp_path / "it.safetensors", family_name))
    words = {"sks-cat": rows(bundled, family_name), "zwx": rows(bundled, family_name, 1)}
    assert embeddings_into(bundled, family, Lora({}, family_name, embeddings=words)) == ["sks-cat", "zwx"]
    expected = read(from_file, family_name, PROMPT)
    assert all(torch.equal(value, expected[name]) for name, value in read(bundled, family_name, PROMPT).items())
    assert embeddings_into(bundled, family, Lora({}, family_name)) == []


@pytest.mark.parametrize(
    ("rows_of", "told"),
    [
        ({"text_encoder": (2, 32)}, "no embedding for Stable Diffusion XL, as it has none for its text_encoder_2"),
        ({"text_encoder": (2, 32), "text_encoder_2": (2, 32)}, "its vectors are 32 wide, and the model's 64"),
        ({"text_encoder": (2, 32), "text_encoder_2": (3, 64)}, "holds 2 and 3 vectors"),
    ],
)
def test_bundled_words_that_do_not_fit(rows_of: dict[str, tuple[int, ...]], told: str) -> None:
    words = {"sks-cat": {part: torch.ones(shape) for part, shape in rows_of.items()}}
    with pytest.raises(LoraError, match=f'"sks-cat", bundled with the LoRA: .*{told}'):
        embeddings_into(tiny.pipeline("sdxl"), family_named("sdxl"), Lora({}, "sdxl", embeddings=words))


@pytest.mark.parametrize("word", ["app", "apple</w>"])
def test_a_word_that_is_a_token_itself_is_refused(word: str) -> None:
    """The tokenizer would give it the token's own number, and the vectors would stand where they are not looked for."""
    pipe, family = tiny.pipeline("sd1"), family_named("sd1")
    assert word in pipe.tokenizer.get_vocab()
    lora = Lora({}, "sd1", embeddings={word: rows(pipe, "sd1")})
    with pytest.raises(LoraError, match=f'the model knows "{word}" itself'):
        embeddings_into(pipe, family, lora)
    with pytest.raises(ConfigError, match=f'the model knows "{word}" already'):
        check_word(pipe, family, word)
    assert not pipe.tokenizer.get_added_vocab().keys() & {word, f"{word}_1"}
