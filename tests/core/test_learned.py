"""What a training has changed is measured as if it were written out, and told where it is nothing or too much."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.lora import LoraLayer
from torch import nn

from sdtune.choices.networks import LoRA
from sdtune.config import TrainLora, resolve
from sdtune.core.blocks import block_of
from sdtune.core.families import family_named
from sdtune.core.learned import LEAST, MOST, added, told, update_norms
from sdtune.core.live_text import LiveText
from sdtune.core.reports import Measure, Updated, Validated
from tests import tiny

ALL = "attention+ff+conv"


def with_lora(family_name: str, dtype: torch.dtype = torch.float32, alpha: float = 3.0) -> Any:
    """The denoiser with a LoRA in every layer that can have one, none of whose weights is zero."""
    family = family_named(family_name)
    net: Any = getattr(tiny.pipeline(family_name), family.denoiser).to(dtype)
    net.requires_grad_(False)
    net.add_adapter(LoRA(rank=2, alpha=alpha, layers=ALL).peft_config(family.lora_targets(ALL)))
    trained(net, 1)
    return net


def trained(net: nn.Module, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for one in net.parameters():
        if one.requires_grad:
            one.data = torch.randn(one.shape, generator=random)


def layers(net: nn.Module) -> dict[str, Any]:
    return {path: layer for path, layer in net.named_modules() if isinstance(layer, LoraLayer)}


def dense(layer: Any) -> torch.Tensor:
    """The update written out, as peft would merge it."""
    found: torch.Tensor = layer.get_delta_weight("default").detach().double()
    return found


def test_norms_are_those_of_the_update_written_out(family_name: str) -> None:
    net = with_lora(family_name)
    assert len({type(layer) for layer in layers(net).values()}) == (1 if family_name == "sd3" else 2), (
        "convolutions too"
    )
    squares: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
    for path, layer in layers(net).items():
        exact = float(dense(layer).norm())
        assert added(layer) == pytest.approx(exact, rel=1e-6)
        own = squares[block_of(f"{family_named(family_name).denoiser}.{path}")]
        own[0] += exact**2
        own[1] += float(layer.base_layer.weight.double().square().sum())
        own[2] += 1
    updates = update_norms({family_named(family_name).denoiser: net})
    assert [one.block for one in updates] == list(squares)
    for one in updates:
        ours, base, count = squares[one.block]
        assert one.relative == pytest.approx(math.sqrt(ours / base), rel=1e-6)
        assert (one.modules, one.dead) == (count, 0)


def test_what_was_merged_is_as_far_away_as_is_told() -> None:
    net = with_lora("sd1")
    (update,) = (one for one in update_norms({"unet": net}) if one.block == "mid_block")
    inside = {path: layer for path, layer in layers(net).items() if path.startswith("mid_block")}
    before = {path: layer.base_layer.weight.double().clone() for path, layer in inside.items()}
    for layer in inside.values():
        layer.merge()
    moved = sum(float((inside[path].base_layer.weight - was).square().sum()) for path, was in before.items())
    whole = sum(float(was.square().sum()) for was in before.values())
    assert update.relative == pytest.approx(math.sqrt(moved / whole), rel=1e-5)


def test_blocks_are_those_of_the_model(family_name: str) -> None:
    family = family_named(family_name)
    names = [one.block for one in update_norms({family.denoiser: with_lora(family_name)})]
    assert len(set(names)) == len(names)
    if family_name == "sd3":
        assert names == ["transformer_blocks.0-7"]
    else:
        assert "mid_block" in names
        assert all(name == "mid_block" or len(name.split(".")) == 3 for name in names), names


def test_text_encoders_are_blocks_of_their_own() -> None:
    pipe = tiny.pipeline("sdxl")
    tables = [{"data": {"folder": "x"}, "text": {"train": True}, "network": {"rank": 2, "alpha": 2}}]
    live = LiveText(pipe, family_named("sdxl"), resolve(TrainLora, tables), torch.device("cpu"), 1)
    for encoder in live.parts.values():
        trained(encoder, 2)
    updates = update_norms({"unet": pipe.unet, **live.parts})
    assert [one.block for one in updates] == ["text_encoder", "text_encoder_2"]
    assert all(one.relative > 0 for one in updates)


def test_a_fresh_lora_is_dead_and_half_precision_below_changes_little() -> None:
    net = with_lora("sd1", torch.bfloat16)
    exact = {one.block: one.relative for one in update_norms({"unet": with_lora("sd1")})}
    for one in update_norms({"unet": net}):
        assert one.relative == pytest.approx(exact[one.block], rel=1e-2)
    for layer in layers(net).values():
        layer.lora_B["default"].weight.data.zero_()
    assert all(one.relative == 0 and one.dead == one.modules for one in update_norms({"unet": net}))


def test_alpha_counts_in_proportion() -> None:
    three, six = (update_norms({"unet": with_lora("sd1", alpha=alpha)}) for alpha in (3.0, 6.0))
    for one, other in zip(three, six, strict=True):
        assert other.relative == pytest.approx(2 * one.relative, rel=1e-9)


def validated(relative: float, error: float) -> Validated:
    measure = Measure(0.1 * relative, 0.01, relative, error, (0.1,), 8)
    return Validated(100, 100, measure, measure, 100, 1.0)


USUAL = (Updated("down_blocks.0.attentions", 0.05, 12, 0), Updated("mid_block", 0.02, 6, 0))


def scaled(factor: float) -> tuple[Updated, ...]:
    return tuple(replace(one, relative=one.relative * factor) for one in USUAL)


@given(st.floats(LEAST / 0.05 * 1.01, MOST / 0.05 * 0.99), st.one_of(st.none(), st.floats(0.5, 1.5)))
def test_nothing_is_said_of_what_is_usual(factor: float, loss: float | None) -> None:
    assert told(scaled(factor), None if loss is None else validated(loss, 0.01)) == []


def test_next_to_nothing_is_told_but_not_where_validation_says_otherwise() -> None:
    little = scaled(0.0004)
    assert told(little) == [
        "the LoRA changes the model's weights by 0.002 % at most: it has learned next to nothing; raise --lr or --steps"
    ]
    (line,) = told(little, validated(0.999, 0.01))
    assert "next to nothing (the loss on held-out images is -0.1 % against the base); raise --lr" in line
    assert told(little, validated(0.9, 0.01)) == []
    (line,) = told(scaled(0))
    assert "by nothing: it has learned nothing; raise" in line
    assert told([]) == []


def test_too_much_is_told_with_the_blocks_that_changed_most() -> None:
    assert told(scaled(32), validated(1.2, 0.1)) == [
        "the LoRA changes blocks by more than their own weights (down_blocks.0.attentions by 160 %), so that little is "
        "left of them (the loss on held-out images is +20.0 % against the base); lower --lr or --alpha"
    ]
    many = [Updated(f"up_blocks.{number}.resnets", 2.0 + number, 4, 0) for number in range(5)]
    (line,) = told(many)
    assert (
        "(up_blocks.4.resnets by 600 %, up_blocks.3.resnets by 500 %, up_blocks.2.resnets by 400 % and 2 more)" in line
    )


def test_modules_that_no_gradient_reached_are_counted_but_for_a_few() -> None:
    (line,) = told((*USUAL, Updated("up_blocks.0.resnets", 0.01, 8, 3)))
    assert line.startswith("3 of 26 modules of the LoRA learned nothing (in up_blocks.0.resnets)")
    assert told((*USUAL, Updated("transformer_blocks.16-23", 0.01, 8, 1))) == []
