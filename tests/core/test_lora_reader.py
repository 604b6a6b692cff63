"""LoRA files are read whole or refused in one line."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sdtune.core import lora_file
from sdtune.errors import LoraError

NAME = "lora_unet_mid_block_attentions_0_proj_in"
ENTRY = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'


@pytest.mark.parametrize(
    ("key", "shape", "family"),
    [
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", (4, 768), "sd1"),
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", (4, 1024), "sd2"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", (4, 2048), "sdxl"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", (4, 1280), "sdxl"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_k", (4, 640), "sdxl"),
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k", (4, 640), None),
    ],
)
def test_the_family_of_files_without_metadata_is_told_by_shapes(
    key: str, shape: tuple[int, int], family: str | None, tmp_path: Path
) -> None:
    tensors = {f"{key}.lora_down.weight": torch.ones(shape), f"{key}.lora_up.weight": torch.ones(8, 4)}
    save_file(tensors, tmp_path / "lora.safetensors")
    assert lora_file.read(tmp_path / "lora.safetensors").family == family


@pytest.mark.parametrize(
    ("down", "up", "module"),
    [
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
        ),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.down.weight",
            "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.up.weight",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        ),
        (
            "text_encoder.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight",
            "text_encoder.encoder.layers.0.mlp.fc1.lora_linear_layer.up.weight",
            "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        ),
        (
            "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight",
            "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight",
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        ),
        (
            "transformer.transformer_blocks.0.attn.add_q_proj.lora.down.weight",
            "transformer.transformer_blocks.0.attn.add_q_proj.lora.up.weight",
            "transformer.transformer_blocks.0.attn.add_q_proj",
        ),
    ],
)
def test_older_spellings(down: str, up: str, module: str, tmp_path: Path) -> None:
    save_file({down: torch.ones(4, 8), up: torch.ones(8, 4)}, tmp_path / "old.safetensors")
    assert {name: value.alpha for name, value in lora_file.read(tmp_path / "old.safetensors").modules.items()} == {
        module: 4
    }


def test_alphas_of_their_own_in_kohyas_form_are_read(tmp_path: Path) -> None:
    tensors = {}
    for layer, alpha in (("attn1_to_q", 1.0), ("attn1_to_k", 2.5)):
        name = f"lora_unet_mid_block_attentions_0_transformer_blocks_0_{layer}"
        tensors |= {f"{name}.lora_down.weight": torch.ones(4, 8), f"{name}.lora_up.weight": torch.ones(8, 4)}
        tensors |= {f"{name}.alpha": torch.tensor(alpha)}
    save_file(tensors, tmp_path / "lora.safetensors")
    assert [module.alpha for _, module in sorted(lora_file.read(tmp_path / "lora.safetensors").modules.items())] == [
        2.5,
        1,
    ]


def raw(header: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(body)) + body + data


def lora_bytes(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> bytes:
    save_file(tensors, tmp_path / "made")
    return (tmp_path / "made").read_bytes()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"hello, I am text", "not a safetensors file"),
        (b"", "empty; download it again"),
        (b"PK\3\4" + bytes(100), "a pickle under the name"),
        (b"\x80\x02}q\0" + bytes(100), "a pickle under the name"),
        (struct.pack("<Q", 2**40) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 999) + b"{}", "cut short within its header"),
        (raw(f'{{"a": {ENTRY}, "a": {ENTRY}}}'.encode(), bytes(4)), "given twice"),
        (raw({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(3)), "download it again"),
        (raw({"../a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "the tensor name '../a'"),
        (raw({"a\x1b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "the tensor name"),
        (raw({"a": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]}}), "impossible shape"),
        (raw({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)), "takes 4 bytes"),
        (raw({"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)), "of type 'F99'"),
        (raw({"a": 1}), "not as safetensors writes it"),
        (raw(b"{" * 100000), "not as safetensors writes it|broken"),
        (raw({}), "holds no weights"),
    ],
)
def test_files_that_are_not_safetensors(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(content)
    with pytest.raises(LoraError, match=problem) as told:
        lora_file.read(path)
    assert str(told.value).startswith(str(path))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({f"{NAME}.lora_down.weight": (4, 8)}, "has lora_down.weight alone"),
        ({f"{NAME}.lora_down.weight": (4, 8), f"{NAME}.lora_up.weight": (8, 5)}, "make no LoRA"),
        ({f"{NAME}.lora_down.weight": (1025, 2), f"{NAME}.lora_up.weight": (2, 1025)}, "rank 1 to 1024"),
        ({f"{NAME}.lora_down.weight": (0, 8), f"{NAME}.lora_up.weight": (8, 0)}, "rank 1 to 1024"),
        ({f"{NAME}.lora_down.weight": (4, 8), f"{NAME}.lora_up.weight": (8, 4), "emb_params": (2, 3)}, "emb_params"),
        (
            {"lora_prior_x.lora_down.weight": (4, 8), "lora_prior_x.lora_up.weight": (8, 4)},
            "a LoRA for Stable Cascade",
        ),
        ({"model.diffusion_model.joint_blocks.0.x": (2,)}, "a whole model"),
    ],
)
def test_files_that_are_no_lora_of_ours(tensors: dict[str, tuple[int, ...]], problem: str, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(lora_bytes(tmp_path, {key: torch.ones(shape) for key, shape in tensors.items()}))
    with pytest.raises(LoraError, match=re.escape(problem)):
        lora_file.read(path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_whole_numbers_are_no_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    tensors = {f"{NAME}.lora_down.weight": torch.ones(4, 8), f"{NAME}.lora_up.weight": torch.ones(8, 4)}
    save_file(tensors | {f"{NAME}.alpha": torch.tensor(2)}, path)  # an alpha may be one
    assert next(iter(lora_file.read(path).modules.values())).alpha == 2
    save_file(tensors | {f"{NAME}.lora_up.weight": torch.ones(8, 4).to(dtype)}, path)
    with pytest.raises(LoraError, match="holds whole numbers"):
        lora_file.read(path)


@pytest.mark.parametrize("where", ["lora_down.weight", "lora_up.weight", "alpha"])
def test_numbers_that_are_none_are_refused(where: str, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    tensors = {f"{NAME}.lora_down.weight": torch.ones(4, 8), f"{NAME}.lora_up.weight": torch.ones(8, 4)}
    tensors |= {f"{NAME}.alpha": torch.tensor(1.0)}
    tensors[f"{NAME}.{where}"] *= math.inf
    save_file(tensors, path)
    with pytest.raises(LoraError, match="no numbers"):
        lora_file.read(path)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/dev/zero", "not a regular file; give a .safetensors file"),
        ("x" * 5000, "cannot be read: File name too long"),
        ("a\0", "cannot be read: no name that a file can have"),
        (__file__, "not a .safetensors file; give one"),
    ],
)
def test_places_that_hold_no_file_of_ours(path: str, problem: str) -> None:
    with pytest.raises(LoraError, match=problem):
        lora_file.read(Path(path))


def test_pickles_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match=r"\.pt is a pickle"):
        lora_file.read(tmp_path / "lora.pt")
