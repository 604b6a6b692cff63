"""Recipes: what makes a picture the same, and what comes out of files of strangers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdtune.choices.samplers import DDIM, Euler
from sdtune.core.sampling.recipe import MOST_LORAS, FileUse, WordUse, file_use, key_of, read, written
from sdtune.errors import DataError
from sdtune.sample_config import Hires
from tests.core.sampling.recipes import HASH, MADE, lora, recipe

OTHER = "f" * 64
WHERE = Path("cat.png")


def test_a_recipe_comes_back_as_it_was_written() -> None:
    for one in (
        recipe(),
        recipe(prompt='a "quoted"\n\x1b[31m\0 <b> \u202e🍎', negative="\\", sampler=Euler(), clip_skip=2, strength=0.1),
        recipe(
            loras=(lora("cats", strength=0.3, blocks={"mid_block": -1.5}),), init=FileUse(file="a.png", sha256=HASH)
        ),
    ):
        text = written(one)
        assert text.isascii()
        assert read(text, WHERE) == one
        assert written(read(text, WHERE)) == text


@pytest.mark.parametrize(
    "otherwise",
    [
        {"prompt": "a red apple "},
        {"negative": "dark"},
        {"seed": 8},
        {"width": 72},
        {"steps": 21},
        {"guidance": 7.500001},
        {"guidance_rescale": 0.7},
        {"sampler": DDIM()},
        {"clip_skip": 2},
        {"syntax": "plain"},
        {"loras": (lora("a"),)},
        {"loras": (lora("a", strength=0.5),)},
        {"loras": (lora("a", sha256=OTHER),)},
        {"loras": (lora("a", blocks={"mid_block": 0.5}),)},
        {"words": (WordUse(file="w", sha256=HASH, word="sks"),)},
        {"init": FileUse(file="w", sha256=HASH)},
        {"strength": 0.5},
        {"mask": FileUse(file="w", sha256=HASH)},
        {"feather": 3},
        {"structure": 0.2},
        {"hires": Hires(scale=2)},
        {"tiles": "on"},
        {"tiles": "auto"},
        {"made": MADE.model_copy(update={"precision": "bfloat16"})},
        {"model": {"name": "mini", "family": "sd1", "weights": OTHER}},
    ],
)
def test_another_picture_has_another_key(otherwise: dict[str, Any]) -> None:
    assert key_of(recipe(**otherwise)) != key_of(recipe())


def test_the_same_picture_has_the_same_key_wherever_it_is_drawn_and_whatever_files_are_called() -> None:
    key = key_of(recipe(guidance=5, loras=(lora("a"),)))
    assert len(key) == 64
    elsewhere = MADE.model_copy(update={"torch": "9", "device": "cuda", "threads": None})
    assert key == key_of(recipe(guidance=5.0, loras=(lora("moved/b"),), made=elsewhere))
    assert key == key_of(
        recipe(guidance=5, loras=(lora("a"),), model={"name": "renamed", "family": "sd1", "weights": HASH})
    )
    assert key_of(recipe(structure=-0.0)) == key_of(recipe(structure=0.0))
    words = [(WordUse(file=file, sha256=HASH, word=word),) for file, word in (("a", "sks"), ("b", "sks"), ("a", "zwx"))]
    same, renamed, other = (key_of(recipe(words=one)) for one in words)
    assert same == renamed != other


def test_a_file_is_named_from_the_working_folder_and_never_by_what_lies_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "home/alice/pictures"
    (here / "runs").mkdir(parents=True)
    file = here / "runs/cats.safetensors"
    file.write_bytes(b"cats")
    monkeypatch.chdir(here)
    assert file_use(file).file == file_use(Path("runs/cats.safetensors")).file == "runs/cats.safetensors"
    assert file_use(Path("runs/../runs/cats.safetensors")).file == "runs/cats.safetensors"
    monkeypatch.chdir(here / "runs")
    assert file_use(Path("../runs/cats.safetensors")).file == "cats.safetensors"
    (tmp_path / "elsewhere").mkdir()
    for folder in (tmp_path / "elsewhere", tmp_path / "home", Path("/")):
        monkeypatch.chdir(folder)
        assert file_use(file).file == "cats.safetensors"


def test_recipes_of_strangers_are_one_line() -> None:
    plain = json.loads(written(recipe(loras=(lora("a"),))))

    def wrong(**told: object) -> str:
        return json.dumps(plain | told)

    whole = json.dumps(plain)
    assert read(whole, WHERE)
    for text in (
        "",
        "null",
        "[]",
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 10_000,
        whole[:-1],
        wrong(seed=-1),
        wrong(seed=2**63),
        wrong(seed=[]),
        wrong(seed=10**4000),
        wrong(width=10**9),
        wrong(steps=10**9),
        wrong(guidance="NaN"),
        wrong(guidance=1e308 * 10),
        wrong(guidance=1e308),
        wrong(prompt=None),
        wrong(prompt="a" * 200_001),
        wrong(prompt="\ud800"),
        wrong(sampler={"kind": "\x1b[31m"}),
        wrong(sampler="no\nne"),
        wrong(clip_skip=10**6),
        wrong(loras=[{"file": "a", "sha256": "xyz"}]),
        wrong(loras=[plain["loras"][0] | {"strength": 1e308}]),
        wrong(loras=[plain["loras"][0] | {"blocks": {"mid_block": 1e9}}]),
        wrong(loras=[plain["loras"][0] | {"blocks": {str(n): 1 for n in range(2000)}}]),
        wrong(loras=[plain["loras"][0]] * 1001),
        wrong(hires={"scale": 99}),
        wrong(**{"unknown\n\x1b[2J" * 50: 1}),
        wrong(format=0),
        wrong(prompt="a" * 2**20),
    ):
        with pytest.raises(DataError) as problem:
            read(text, WHERE)
        told = str(problem.value)
        assert told.isprintable(), told
        assert told.startswith("cat.png: its recipe")
        assert len(told) < 400


def test_a_newer_recipe_says_so() -> None:
    text = json.dumps(json.loads(written(recipe())) | {"format": 2, "colour": "warm"})
    with pytest.raises(DataError, match=r"^cat\.png: its recipe is of a newer sdtune \(format 2, .*; update sdtune$"):
        read(text, WHERE)


def test_a_field_that_is_not_known_is_named() -> None:
    text = json.dumps(json.loads(written(recipe())) | {"colour": "warm"})
    with pytest.raises(DataError, match=r"colour: .*; update sdtune"):
        read(text, WHERE)


def test_more_loras_than_anybody_uses_are_refused() -> None:
    uses = recipe(loras=(lora("cats"),) * MOST_LORAS)
    assert read(written(uses), WHERE) == uses
    told = json.loads(written(uses))
    told["loras"] += told["loras"][:1]
    with pytest.raises(DataError, match=r"cat\.png: its recipe cannot be used: loras: .* at most 32"):
        read(json.dumps(told), WHERE)
