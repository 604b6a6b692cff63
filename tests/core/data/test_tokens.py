"""Tokens are counted exactly where a tokenizer is here, and about as CLIP would where none is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtune.core.data.tokens import estimate

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
