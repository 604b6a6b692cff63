"""Blocks by the names that people give them, and strengths in them."""

from __future__ import annotations

import re

import pytest
import torch
from diffusers import UNet2DConditionModel

from sdtune.core import lora_names
from sdtune.core.blocks import Strength, block_of, depth_in, is_general, known_blocks, names_of

QUERY = "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
FIRST = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
SECOND = "text_encoder_2.text_model.encoder.layers.0.mlp.fc1"


@pytest.mark.parametrize(
    ("module", "block"),
    [
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.1.attentions"),
        ("unet.up_blocks.2.resnets.1.conv1", "up_blocks.2.resnets"),
        ("unet.mid_block.attentions.0.proj_in", "mid_block"),
        ("unet.conv_in", "conv_in"),
        ("transformer.transformer_blocks.7.attn.to_q", "transformer_blocks.0-7"),
        ("transformer.transformer_blocks.23.attn.to_q", "transformer_blocks.16-23"),
        ("transformer.context_embedder", "context_embedder"),
        ("text_encoder_2.text_model.encoder.layers.3.mlp.fc1", "text_encoder_2"),
    ],
)
def test_names_of_blocks(module: str, block: str) -> None:
    assert block_of(module) == block


def test_the_longest_name_that_fits_counts() -> None:
    strength = Strength(
        0.9,
        {"unet": 0.1, "up_blocks": 0.2, "unet.up_blocks.1": 0.3, "up_blocks.1.attentions.0.transformer_blocks": 0.4},
    )
    assert strength(QUERY) == 0.4
    assert strength("unet.up_blocks.1.resnets.0.conv1") == 0.3
    assert strength("unet.up_blocks.10.resnets.0.conv1") == 0.2
    assert strength("unet.mid_block.resnets.0.conv1") == 0.1
    assert strength(FIRST) == 0.9
    assert Strength()(QUERY) == 1


def test_a_name_ends_where_a_word_does() -> None:
    assert not depth_in("up_blocks.1.att", QUERY)
    assert not depth_in("text_encoder", SECOND)
    assert depth_in("text_encoder", FIRST)
    assert not depth_in("attentions.0", QUERY)


def test_text_is_every_text_encoder_unless_one_is_named() -> None:
    strength = Strength(1.0, {"text": 0.5, "text_encoder_2": 0.25})
    assert (strength(FIRST), strength(SECOND), strength(QUERY)) == (0.5, 0.25, 1.0)
    assert Strength(1.0, {"base": 0.5})(FIRST) == Strength(1.0, {"BASE": 0.5})(SECOND) == 0.5


@pytest.mark.parametrize("levels", [3, 4])
def test_letters_count_the_blocks_of_the_first_publication(levels: int) -> None:
    """Kohya's names of SDXL bear those numbers."""
    down = ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1)
    up = ("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",)
    with torch.device("meta"):
        net = UNet2DConditionModel(
            block_out_channels=(32,) * levels, down_block_types=down, up_block_types=up, cross_attention_dim=32
        )
    letters = [f"{way}{number:02}" for way in ("IN", "out") for number in range(12)] + ["M00"]
    seen = set()
    for path, layer in net.named_modules():
        if not isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            continue
        fitting = [letter for letter in letters if depth_in(letter, f"unet.{path}")]
        name = lora_names.to_kohya(f"unet.{path}", {"unet": ""}, numbered=True)
        if "mid_block" in path:
            assert fitting == ["M00"]
        elif found := re.match(r"_(in|out)put_blocks_(\d+)_", name):
            assert fitting == [{"in": "IN", "out": "out"}[found[1]] + f"{int(found[2]):02}"], path
        else:
            assert not fitting, path
        seen.update(fitting)
    assert len(seen) == 6 * levels + 1


def test_what_may_be_named_of_any_lora_and_what_is_there() -> None:
    assert {"unet", "unet.up_blocks", "up_blocks", "up_blocks.1.attentions.0", QUERY} < set(names_of([QUERY]))
    assert all(is_general(name, [QUERY]) for name in ("text", "text_encoder_2", "BASE", "in03", "M00"))
    assert not any(is_general(name, [QUERY]) for name in ("IN12", "down_blocks.0", "nonsense", ""))
    assert not is_general("IN03", ["transformer.context_embedder"])


def test_blocks_are_told_by_names_that_can_be_given() -> None:
    modules = [QUERY, FIRST, SECOND, "unet.up_blocks.3.resnets.0.conv1", "unet.mid_block.resnets.0.conv1"]
    told = known_blocks([*modules, "unet.down_blocks.1.resnets.0.conv1", "unet.conv_in"])
    names, letters = told.split("; or letters: ")
    assert names == "conv_in, down_blocks.1, mid_block, text_encoder, text_encoder_2, up_blocks.1 to up_blocks.3"
    assert all(is_general(name, modules) for name in re.findall(r"\w+\d\d", letters))
    rows = [f"transformer.transformer_blocks.{number}.attn.to_q" for number in range(24)]
    assert known_blocks(rows) == "transformer_blocks.0 to transformer_blocks.23"
    every = [name for piece in (names, known_blocks(rows)) for name in re.split(", | to ", piece)]
    assert all(
        any(depth_in(name, one) for one in (*modules, *rows, "unet.down_blocks.1.x", "unet.conv_in")) for name in every
    )


def test_strengths_are_told_in_a_few_words() -> None:
    assert str(Strength(0.8)) == "0.8"
    assert str(Strength(0.8, {"text": 0.0, "mid_block": 1.25})) == "0.8 (text at 0, mid_block at 1.25)"
