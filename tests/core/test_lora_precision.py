"""What a precision keeps of a LoRA: small alphas and small numbers are not lost without a word."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sdtune.core.adapters import Adapter, LoraModule
from sdtune.core.adapters.difference import Difference
from sdtune.core.header import read_header
from sdtune.core.lora import Lora
from sdtune.core.lora_precision import TOLERANCE, balanced, fitting, lost, narrowed, with_alpha
from sdtune.core.lora_reader import read
from sdtune.core.lora_reports import Written
from sdtune.core.lora_writer import write
from sdtune.core.made_lora import write_made
from sdtune.core.reports import Warned
from sdtune.core.truncation import Losses
from sdtune.errors import LoraError, TrainingError

UNET = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_"
SD3 = "transformer.transformer_blocks.0.attn.to_q"


def drawn(size: float, rank: int = 4, alpha: float = 4.0, seed: int = 0) -> LoraModule:
    """Numbers of fp16, down as large as after a training."""
    generator = torch.Generator().manual_seed(seed)
    down, up = (torch.randn(*shape, generator=generator) for shape in ((rank, 64), (64, rank)))
    return LoraModule((down / 16).half().float(), (up * size).half().float(), alpha)


def share_lost(before: Lora, path: Path) -> dict[str, float]:
    """Of each module, by the matrices themselves in double precision."""
    after, found = read(path).modules, {}
    for name, one in before.modules.items():
        mine, others = (
            value.alpha / value.rank * value.up.double().flatten(1) @ value.down.double().flatten(1)  # type: ignore[attr-defined]
            for value in (one, after[name])
        )
        found[name] = float((mine - others).norm() / mine.norm())
    return found


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-4, 2e-5])
def test_an_alpha_in_the_weights_costs_no_digits_in_sd3(size: float, tmp_path: Path) -> None:
    lora = Lora({SD3: drawn(size, rank=128, alpha=1.0)}, "sd3")
    assert write(tmp_path / "it.safetensors", lora) == "fp16"
    assert max(share_lost(lora, tmp_path / "it.safetensors").values()) < 2e-3


@pytest.mark.parametrize("form", ["kohya", "diffusers", "peft"])
@pytest.mark.parametrize("alpha", [1e-1, 1e-3, 1e-9, 1e-45])
def test_one_small_alpha_among_large_ones_is_kept(alpha: float, form: Any, tmp_path: Path) -> None:
    modules: dict[str, Adapter] = {f"{UNET}{one}": drawn(0.02, alpha=64.0, seed=ord(one)) for one in "qk"}
    modules[f"{UNET}v"] = drawn(0.02, alpha=alpha)
    write(tmp_path / "it.safetensors", Lora(modules, "sd1"), form)
    lora = Lora({name: one for name, one in modules.items() if alpha > 1e-40 or not name.endswith("v")}, "sd1")
    assert max(share_lost(lora, tmp_path / "it.safetensors").values()) < 2e-3


@pytest.mark.parametrize(("size", "precision"), [(1e-2, "fp16"), (1e-7, "fp16"), (1e-12, "fp32")])
def test_numbers_too_small_for_fp16_go_from_up_to_down_and_else_are_written_in_fp32(
    size: float, precision: str, tmp_path: Path
) -> None:
    exact = drawn(1.0)
    lora = Lora({f"{UNET}q": LoraModule(exact.down, exact.up * size, 4.0)}, "sd1")
    assert write(tmp_path / "it.safetensors", lora) == precision
    assert max(share_lost(lora, tmp_path / "it.safetensors").values()) < 2e-3
    dtypes = read_header(tmp_path / "it.safetensors", LoraError).dtypes
    assert {dtype for key, dtype in dtypes.items() if not key.endswith("alpha")} == {
        precision.upper()[0] + precision[2:]
    }


def test_an_alpha_next_to_nothing_in_all_modules_is_written(tmp_path: Path) -> None:
    lora = Lora({f"{UNET}q": drawn(0.02, alpha=1e-45)}, "sd1")
    assert write(tmp_path / "it.safetensors", lora) in ("fp16", "fp32")
    assert read(tmp_path / "it.safetensors").modules[f"{UNET}q"].delta().abs().max() < 1e-30


def test_what_a_precision_holds_is_written_as_it_is(family_name: str, tmp_path: Path) -> None:
    name = SD3 if family_name == "sd3" else f"{UNET}q"
    module = drawn(1e-3)
    write(tmp_path / "it.safetensors", Lora({name: module}, family_name))
    found = load_file(tmp_path / "it.safetensors")
    (down,) = [value for key, value in found.items() if "lora_down" in key or "lora_A" in key]
    (up,) = [value for key, value in found.items() if "lora_up" in key or "lora_B" in key]
    assert torch.equal(down, module.down.half())
    assert torch.equal(up, module.up.half())


def test_a_whole_weight_too_small_for_fp16_is_written_in_fp32(tmp_path: Path) -> None:
    change = Difference(torch.full((8, 8), 1e-9))
    lora = Lora({f"{UNET}q": change}, "sd1")
    assert write(tmp_path / "it.safetensors", lora) == "fp32"
    assert torch.equal(read(tmp_path / "it.safetensors").modules[f"{UNET}q"].delta(), change.delta())
    bias = Lora({f"{UNET}q": drawn(0.1)}, "sd1", {}, {f"{UNET}q": torch.full((64,), 1e-9)})
    assert write(tmp_path / "it.safetensors", bias) == "fp32"


@pytest.mark.parametrize("factor", [1.0, -1.0, 3.0, 1e-5, 1e5])
def test_balanced_is_the_same_change(factor: float) -> None:
    module = drawn(1e-6, alpha=4.0 * factor)
    other = balanced(module, 4.0)
    assert lost(module, other) < 1e-6
    torch.testing.assert_close(other.delta(), module.delta(), rtol=0, atol=1e-5 * float(module.delta().abs().max()))
    one, two = float(other.down.abs().max()), float(other.up.abs().max())
    assert 0.4 < one / two < 2.5


def test_what_is_lost_is_what_the_matrices_differ_by() -> None:
    module = drawn(0.1, rank=1)
    other = LoraModule(module.down * 1.5, module.up * 0.5, module.alpha * 2)
    assert lost(module, module) == lost(module, LoraModule(module.down * 4, module.up / 4, module.alpha)) == 0
    assert lost(module, other) == pytest.approx(0.5)
    assert lost(module, LoraModule(-module.down, module.up, module.alpha)) == pytest.approx(2)
    assert lost(module, LoraModule(module.down * float("nan"), module.up, 1.0)) == float("inf")


def test_no_alpha_at_all_changes_nothing_and_is_no_loss() -> None:
    none = drawn(0.1, alpha=0.0)
    assert lost(none, narrowed(none, "fp16")) == 0
    assert torch.equal(fitting(none, 4.0, "fp16").delta(), torch.zeros(64, 64))
    assert fitting(none, 0.0, "fp16") is with_alpha(none, 0.0) is none


def test_rounding_alone_is_within_every_tolerance() -> None:
    for dtype, most in TOLERANCE.items():
        exact = LoraModule(torch.randn(4, 999), torch.randn(99, 4), 3.0)
        assert 0 <= lost(exact, narrowed(exact, dtype)) < most / 2


def test_a_change_of_precision_is_told_with_its_reason(tmp_path: Path) -> None:
    exact = drawn(1.0)
    lora = Lora({f"{UNET}q": LoraModule(exact.down, exact.up * 1e-12, 4.0)}, "sd1")
    reports = list(write_made(tmp_path / "it.safetensors", lora, "auto", "fp16", "made", Losses()))
    told = [report.text for report in reports if isinstance(report, Warned)]
    assert told == ["written in fp32, as some of its values are too large or too small for fp16"]


def test_numbers_that_overflow_are_blamed_on_a_training_only_where_there_was_one(tmp_path: Path) -> None:
    broken = Lora({f"{UNET}q": LoraModule(torch.full((4, 8), float("inf")), torch.ones(8, 4), 4.0)}, "sd1")
    with pytest.raises(TrainingError, match="the training broke down"):
        write(tmp_path / "it.safetensors", broken)
    with pytest.raises(LoraError, match=r"not made, as its values are too large .*; give lower strengths"):
        list(write_made(tmp_path / "it.safetensors", broken, "auto", "fp16", "made", Losses()))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("trigger", ["x" * 1_000_000, "one, " * 100_000, "red \x1b[31m"])
def test_prompts_of_commands_are_short_and_can_be_typed(trigger: str, tmp_path: Path) -> None:
    lora = Lora({f"{UNET}q": drawn(0.1)}, "sd1", {"modelspec.trigger_phrase": trigger})
    *_, written = write_made(tmp_path / "it.safetensors", lora, "auto", "fp16", "made", Losses())
    assert isinstance(written, Written)
    prompt = shlex.split(written.try_next)[3]
    assert prompt.isprintable()
    assert 0 < len(prompt) <= 200
    assert prompt == "TEXT" or trigger.startswith(prompt)
