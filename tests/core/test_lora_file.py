"""LoRA files: every form of every family, here and in diffusers, against peft's own change of the weights."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from sdtune.core import lora_file, lora_writer
from sdtune.core.families import family_named
from sdtune.core.lora_file import Lora, LoraModule
from sdtune.errors import LoraError, SdtuneError, TrainingError
from tests import tiny
from tests.core.loras import agree, deltas, odd_module, trained


@pytest.mark.parametrize(("dtype", "reader"), [("fp32", "sdtune"), ("fp16", "sdtune"), ("fp32", "diffusers")])
@pytest.mark.parametrize("form", ["kohya", "peft", "diffusers"])
def test_reloads_with_every_module_and_exact_deltas(
    family_name: str, form: Any, dtype: Any, reader: str, tmp_path: Path
) -> None:
    lora, expected, parts = trained(family_name)
    assert len(expected) == len(lora.modules) > 20
    path = tmp_path / "lora.safetensors"
    lora_file.write(path, lora, form, dtype)
    pipe = tiny.pipeline(family_name)
    if reader == "sdtune":
        lora_file.load_into(pipe, lora_file.read(path), adapter_name="again")
    else:
        pipe.load_lora_weights(tmp_path, weight_name=path.name, adapter_name="again")
    agree(deltas(pipe, parts, "again"), expected, dtype)


def test_loras_act_together_each_at_its_strength(family_name: str) -> None:
    family = family_named(family_name)
    lora, expected, _ = trained(family_name, text=False)
    pipe = tiny.pipeline(family_name)
    net = getattr(pipe, family.denoiser)
    name = odd_module(family_name)
    layer = net.get_submodule(name)
    told = torch.randn(2, layer.in_features)
    before = layer(told).detach()
    lora_file.load_into(pipe, lora, 0.5, "first")
    lora_file.load_into(pipe, lora, -2.0, "second")
    change = net.get_submodule(name)(told).detach() - before
    torch.testing.assert_close(change, -1.5 * told @ expected[f"{family.denoiser}.{name}"].T, rtol=1e-4, atol=1e-5)
    assert not any(weight.requires_grad for weight in net.parameters())


def test_the_family_is_told_by_metadata_of_our_own_files(family_name: str, tmp_path: Path) -> None:
    lora_file.write(tmp_path / "lora.safetensors", trained(family_name, text=False)[0])
    assert lora_file.read(tmp_path / "lora.safetensors").family == family_name


# ---- the file's bytes and metadata


def small(**changes: Any) -> Lora:
    """A LoRA of one module."""
    module = LoraModule(torch.full((4, 8), 0.25), torch.full((8, 4), 0.5), 2.0)
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    metadata = {"ss_output_name": "cats", "modelspec.title": "cats", "modelspec.trigger_phrase": "a cät"}
    return replace(Lora({name: module}, "sd1", metadata), **changes)


def test_metadata_as_other_programs_read_it(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    lora_file.write(path, small(metadata={**small().metadata, "modelspec.prediction_type": "v"}, family="sd2"))
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__")
    assert list(metadata) == sorted(metadata)
    assert list(header) == sorted(header)  # one dtype aside from alpha, which is named first
    assert metadata["ss_base_model_version"] == "sd_v2_v"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"], metadata["ss_v2"]) == ("4", "2", "True")
    assert metadata["modelspec.trigger_phrase"] == "a cät"
    assert metadata["sshs_model_hash"] == hashlib.sha256(data[start:]).hexdigest()
    assert re.fullmatch("[0-9a-f]{8}", metadata["sshs_legacy_hash"])
    assert load_file(path).keys() == header.keys()


def test_the_same_lora_gives_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    script = """
import sys, torch
from pathlib import Path
from sdtune.core.lora_file import Lora, LoraModule, write
names = {f"unet.up_blocks.{n}.attentions.0.transformer_blocks.0.attn1.to_q" for n in range(1, 4)}
metadata = {key: "x" for key in {"ss_seed", "ss_steps", "modelspec.title", "ss_output_name"}}
modules = {name: LoraModule(torch.ones(2, 3), torch.ones(3, 2), 1.0) for name in names}
write(Path(sys.argv[1]), Lora(modules, "sd1", metadata))
"""
    files = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    for seed, file in enumerate(files, 1):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", script, file], check=True, env=environment)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_is_no_number_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    broken = LoraModule(torch.full((4, 8), math.nan), torch.ones(8, 4), 2.0)
    with pytest.raises(TrainingError, match="the training broke down"):
        lora_file.write(path, small(modules={"unet.mid_block.attentions.0.proj_in": broken}))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "asked", "taken"),
    [(1, "fp16", "fp16"), (1e6, "fp16", "bf16"), (1e6, "bf16", "bf16"), (3.4e38, "fp16", "fp32"), (1, "fp32", "fp32")],
)
def test_values_too_large_for_a_precision_are_saved_in_the_next(
    value: float, asked: Any, taken: str, tmp_path: Path
) -> None:
    path, name = tmp_path / "lora.safetensors", "unet.mid_block.attentions.0.proj_in"
    large = LoraModule(torch.full((4, 8), float(value)), torch.ones(8, 4), 2.0)
    assert lora_file.write(path, small(modules={name: large}), dtype=asked) == taken
    assert load_file(path)[f"{NAME}.lora_down.weight"].dtype == lora_file.DTYPES[taken]
    torch.testing.assert_close(lora_file.read(path).modules[name].down, large.down, rtol=5e-3, atol=0)


def test_a_failed_save_leaves_the_file_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lora.safetensors"
    lora_file.write(path, small())
    before = path.read_bytes()
    other = small(modules={name: replace(value, up=2 * value.up) for name, value in small().modules.items()})
    monkeypatch.setattr(lora_writer, "read", lambda _: other)
    with pytest.raises(SdtuneError, match="what was read back is not what was written"):
        lora_file.write(path, small(metadata={}))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SdtuneError, match=r"cannot be written \(.+\); choose another place$") as told:
        lora_file.write(tmp_path / "file" / "lora.safetensors", small())
    assert told.value.exit_code == 1  # the work was done, and other files of the run may be written

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lora_writer, "write_atomically", full)
    with pytest.raises(
        SdtuneError, match=r"cannot be written \(No space left .+\); free space, or choose another place$"
    ):
        lora_file.write(tmp_path / "lora.safetensors", small())


# ---- into a model


NAME = "lora_unet_mid_block_attentions_0_proj_in"


def test_a_lora_of_another_family_is_refused_by_both_names(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match=r"a LoRA for Stable Diffusion 1\.x, but the model is Stable Diffusion XL"):
        lora_file.check_family(small(), family_named("sdxl"), tmp_path / "lora.safetensors")
    lora_file.check_family(small(), family_named("sd1"), tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
            r"as \(8, 8\), but in the model it is \(32, 32\)",
        ),
        ("unet.mid_block.attentions.7.transformer_blocks.0.attn1.to_q", "which the model has not"),
        ("transformer.transformer_blocks.0.attn.to_q", "a transformer, which the model has not"),
    ],
)
def test_a_lora_that_does_not_fit_changes_nothing(module: str, problem: str) -> None:
    pipe = tiny.pipeline("sd1")
    (value,) = small().modules.values()
    with pytest.raises(LoraError, match=problem):
        lora_file.load_into(pipe, small(modules={module: value}))
    assert not any(isinstance(layer, LoraLayer) for layer in pipe.unet.modules())


def test_convolutions_of_other_programs_files_are_put_in(tmp_path: Path) -> None:
    pipe = tiny.pipeline("sd1")
    down, up = torch.randn(4, 32, 1, 1), torch.randn(32, 4, 1, 1)
    save_file({f"{NAME}.lora_down.weight": down, f"{NAME}.lora_up.weight": up}, tmp_path / "lora.safetensors")
    lora_file.load_into(pipe, lora_file.read(tmp_path / "lora.safetensors"))
    delta = pipe.unet.mid_block.attentions[0].proj_in.get_delta_weight("lora")
    torch.testing.assert_close(delta.flatten(1), up.flatten(1) @ down.flatten(1))


@pytest.mark.parametrize("form", ["auto", "kohya", "peft"])
def test_files_for_sd3_mean_the_same_to_programs_that_know_of_no_alpha(form: Any, tmp_path: Path) -> None:
    lora, expected, _ = trained("sd3")
    lora_file.write(tmp_path / "lora.safetensors", lora, form, "fp32")
    tensors = load_file(tmp_path / "lora.safetensors")
    assert len(tensors) == 2 * len(expected)
    for name, delta in expected.items():
        change = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
        torch.testing.assert_close(change, delta, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "prefixes"),
    [
        ("sd1", {"lora_unet_down_blocks", "lora_unet_mid_block", "lora_unet_up_blocks", "lora_te_text_model"}),
        ("sd2", {"lora_unet_down_blocks", "lora_unet_mid_block", "lora_unet_up_blocks", "lora_te_text_model"}),
        (
            "sdxl",
            {
                "lora_unet_input_blocks",
                "lora_unet_middle_block",
                "lora_unet_output_blocks",
                "lora_te1_text_model",
                "lora_te2_text_model",
            },
        ),
        ("sd3", {"transformer.transformer_blocks", "text_encoder.text_model", "text_encoder_2.text_model"}),
    ],
)
def test_keys_start_as_most_programs_expect_them(name: str, prefixes: set[str], tmp_path: Path) -> None:
    lora_file.write(tmp_path / "lora.safetensors", trained(name)[0])
    keys = load_file(tmp_path / "lora.safetensors")
    assert {next((prefix for prefix in prefixes if key.startswith(prefix)), key) for key in keys} == prefixes
