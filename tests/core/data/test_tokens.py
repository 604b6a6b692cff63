"""Tokens are counted exactly where a tokenizer is here, and about as CLIP would where none is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from sdtune import mini
from sdtune.core.data import tokens
from sdtune.core.data.tokens import counter_for, estimate

BY_CLIP = {
    "a cat": 4,
    "a man riding a wave on top of a surfboard": 13,
    "1girl, solo, long hair, looking at viewer, blush, smile, open mouth": 20,
    "IMG_1234!!, (a:1.2)": 17,
    "it's the dog's ball": 8,
    "The image depicts a scenic landscape with a wooden boardwalk or pathway leading through lush, green grass under a "
    "blue sky with some clouds.": 28,
    "красная кошка сидит на диване у окна": 38,
    "赤いソファに座っている猫": 24,
}
"""tokens of CLIP's own tokenizer, start and end among them"""


@pytest.mark.parametrize(("caption", "tokens"), BY_CLIP.items())
def test_the_estimate_is_near(caption: str, tokens: int) -> None:
    assert abs(estimate(caption) - tokens) <= max(1, 0.1 * tokens)


@given(st.text())
def test_every_text_has_a_length(text: str) -> None:
    assert 2 <= estimate(text) <= 2 + 4 * len(text.encode("utf-8", "surrogatepass"))


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub cache with nothing in it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_without_a_tokenizer_lengths_are_about(cache: Path) -> None:
    assert not cache.exists()
    for model in (None, "sdxl", "owner/model", str(cache)):
        counter = counter_for(model)
        assert (counter("a cat"), counter.exact, counter.about) == (4, False, "about ")


def test_a_tokenizer_that_is_here_counts_exactly(cache: Path, tmp_path: Path) -> None:
    shutil.copytree(mini.FOLDER / "tokenizer", tmp_path / "model" / "tokenizer")
    fetched = cache / "models--stabilityai--stable-diffusion-xl-base-1.0"
    (fetched / "refs").mkdir(parents=True)
    (fetched / "refs" / "main").write_text("1" * 40)
    shutil.copytree(mini.FOLDER / "tokenizer", fetched / "snapshots" / ("1" * 40) / "tokenizer")
    true = CLIPTokenizer.from_pretrained(mini.FOLDER / "tokenizer")
    text = "a zeppelin-like contraption, " * 20
    for model in ("mini", str(tmp_path / "model"), None, "sd15"):
        counter = counter_for(model)
        assert (counter.exact, counter.about) == (True, "")
        assert counter(text) == len(true(text, truncation=False).input_ids) > tokens.LIMIT
