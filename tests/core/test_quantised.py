"""Packed weights unpack to what bitsandbytes itself makes of them."""

from __future__ import annotations

import json
import shutil
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdtune.core.header import read_header
from sdtune.core.identity import Identity
from sdtune.core.model import identify
from sdtune.core.original import pieces
from sdtune.core.quantised import PackingError, packed_weights
from sdtune.core.tensor_file import Slot
from sdtune.core.weights import Weights, open_weights
from sdtune.errors import ModelError
from tests import tiny
from tests.core.test_original import as_file, of_pipeline

bitsandbytes = pytest.importorskip("bitsandbytes")
KINDS = ("nf4", "nf4 twice", "fp4", "fp4 twice", "int8")
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


def layer(weight: Tensor, kind: str) -> Any:
    """A layer of bitsandbytes that holds this weight."""
    inside, outside = weight.shape[1], weight.shape[0]
    if kind == "int8":
        made = bitsandbytes.nn.Linear8bitLt(inside, outside, bias=False, has_fp16_weights=False)
        made.weight = bitsandbytes.nn.Int8Params(weight.half(), requires_grad=False, has_fp16_weights=False)
    else:
        how = {"quant_type": kind[:3], "compress_statistics": kind.endswith("twice")}
        made = bitsandbytes.nn.Linear4bit(inside, outside, bias=False, **how)
        made.weight = bitsandbytes.nn.Params4bit(weight.half(), requires_grad=False, **how)
    return made.to("cpu")


def unpacked(layer: Any, kind: str) -> Tensor:
    """What bitsandbytes makes of its own layer, in float32.

    Of 4 bits it is asked for all as one row: on the CPU it errs where rows do not end with a block of 64 (0.50).
    """
    weight = layer.weight
    if kind == "int8":
        values: Tensor = bitsandbytes.functional.int8_vectorwise_dequant(weight.data, layer.state_dict()["SCB"])
        return values
    state = copy(weight.quant_state)
    state.dtype, state.shape = torch.float32, torch.Size([1, weight.quant_state.shape.numel()])
    values = bitsandbytes.functional.dequantize_4bit(weight.data, state)
    return values.reshape(weight.quant_state.shape)


def packed(file: Path, kind: str) -> dict[str, Tensor]:
    """Every other matrix of a file packed in place; returned are those that it had, as bitsandbytes unpacks them."""
    tensors, truth = {}, {}
    for number, (key, value) in enumerate(load_file(file).items()):
        if value.ndim == 2 and number % 2 and "embed" not in key:
            made = layer(value, kind)
            truth[key] = unpacked(made, kind)
            tensors |= {
                f"{key.removesuffix('weight')}{name}": part.contiguous() for name, part in made.state_dict().items()
            }
        else:
            tensors[key] = value
    save_file(tensors, file)
    return truth


@pytest.fixture
def model(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models["sd3"], tmp_path / "model"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_packed_by_bitsandbytes_is_read_unpacked(kind: str, model: Path) -> None:
    plain = open_weights(identify(str(model)))
    shapes = dict(plain.shapes)
    before = {name: plain.read(name) for name in shapes}
    truth = {f"transformer.{key}": value for key, value in packed(model / TRANSFORMER, kind).items()}
    file = model / "text_encoder" / "model.safetensors"
    truth |= {f"text_encoder.{key}": value for key, value in packed(file, kind).items()}
    assert len(truth) > 10
    weights = open_weights(identify(str(model)))
    assert weights.shapes == shapes
    assert not weights.extra
    for name in shapes:
        value = weights.read(name)
        if name in truth:
            assert value.dtype == torch.float32
            assert weights.dtypes[name] == "F16"
            assert torch.allclose(value, truth[name], rtol=1e-6, atol=0)
            assert 0 < (value - before[name]).norm() / before[name].norm() < 0.15
        else:
            assert weights.dtypes[name] == "F32"
            assert torch.equal(value, before[name])
    assert {piece.names for piece in weights.pieces()} == {piece.names for piece in plain.pieces()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(64, 128), (3, 5), (1, 1), (300, 70), (200, 96)])
def test_any_shape_is_unpacked(shape: tuple[int, int], kind: str, tmp_path: Path) -> None:
    """Also one that does not end with a block, of weights or of what those blocks are measured by."""
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = layer(value, kind)
    path = tmp_path / "one.safetensors"
    save_file({f"x.{name}": part.contiguous() for name, part in made.state_dict().items()}, path)
    read = load_file(path).__getitem__
    found, _ = packed_weights(read_header(path, ModelError), read)
    assert found["x.weight"].shape == shape
    assert torch.allclose(found["x.weight"].unpack(read), unpacked(made, kind), rtol=1e-6, atol=1e-8)


# ---- floats of 8 bits in single files


def scaled_file(path: Path, name: str, rows: bool) -> tuple[Identity, dict[str, Tensor]]:
    """A file of SD3 with scaled weights in its transformer, and what they are by the rule: float of 8 bits x scale."""
    tensors = {
        key: value.contiguous() for key, value in as_file("sd3", of_pipeline("sd3", tiny.pipeline("sd3"))).items()
    }
    truth = {}
    for key in [key for key in tensors if ".joint_blocks." in key and key.endswith(("qkv.weight", "fc1.weight"))]:
        value = tensors[key]
        scale = (value.abs().amax(1) if rows else value.abs().max()) / 448
        wide = scale[:, None] if rows else scale
        tensors[key] = (value / wide).to(torch.float8_e4m3fn)
        tensors[f"{key.removesuffix('weight')}{name}"] = scale
        truth[key] = tensors[key].float() * wide
    tensors["model.diffusion_model.scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    save_file(tensors, path)
    return identify(str(path)), truth


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
def test_scaled_floats_of_8_bits_are_multiplied(name: str, rows: bool, tmp_path: Path) -> None:
    identity, truth = scaled_file(tmp_path / "one.safetensors", name, rows)
    weights = open_weights(identity)
    by_key = {piece.key: piece for piece in weights.pieces()}
    assert len(truth) > 4
    for key, value in truth.items():
        assert torch.equal(torch.cat([weights.read(part) for part in by_key[key].names]), value)
        assert {weights.dtypes[part] for part in by_key[key].names} == {"F16"}
    assert not weights.extra
    assert by_key.keys() == {piece.key for piece in pieces(weights.family, weights.shapes)}


def test_plain_floats_of_8_bits_are_read_as_they_are(tmp_path: Path) -> None:
    tensors = as_file("sd1", of_pipeline("sd1", tiny.pipeline("sd1")))
    save_file({key: value.to(torch.float8_e4m3fn) for key, value in tensors.items()}, tmp_path / "one.safetensors")
    weights: Weights = open_weights(identify(str(tmp_path / "one.safetensors")))
    assert set(weights.dtypes.values()) == {"F8_E4M3"}
    assert weights.read("unet.conv_in.weight").dtype == torch.float8_e4m3fn
    expected = tensors["model.diffusion_model.input_blocks.0.0.weight"].to(torch.float8_e4m3fn)
    assert torch.equal(weights.read("unet.conv_in.weight").float(), expected.float())


# ---- what is not known


def test_ways_of_packing_that_are_not_known_are_refused(model: Path) -> None:
    file = model / TRANSFORMER
    tensors = load_file(file)
    key = "transformer_blocks.0.attn.to_q.weight"
    save_file(tensors | {key: torch.zeros(4, 4, dtype=torch.uint8)}, file)
    with pytest.raises(ModelError, match=f"{file.name}: {key} is packed .U8. in a way that is not known; choose"):
        open_weights(identify(str(model)))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"x.weight": torch.zeros(4, 4, dtype=torch.int8), "x.SCB": torch.ones(3)}, r"x\.SCB does not fit"),
        ({"x.weight": torch.zeros(4, 4), "x.SCB": torch.ones(4)}, r"x\.SCB does not fit"),
        (
            {
                "x.weight": torch.zeros(4, 4, dtype=torch.int8),
                "x.SCB": torch.ones(4),
                "x.weight_format": torch.tensor(2, dtype=torch.uint8),
            },
            r"x\.weight is packed in the order of",
        ),
        (
            {"x.weight": torch.zeros(4, 4).to(torch.float8_e4m3fn), "x.scale_weight": torch.ones(3)},
            r"x\.scale_weight does not fit",
        ),
        (
            {
                "x.weight": torch.zeros(8, 1, dtype=torch.uint8),
                "x.weight.quant_state.bitsandbytes__nf4": torch.zeros(3),
            },
            r"nf4 does not tell how",
        ),
        ({"x.weight._data": torch.zeros(4, 4, dtype=torch.int8)}, r"x\.weight\._data is packed"),
        ({"x.weight": torch.zeros(4, dtype=torch.int8), "x.SCB": torch.ones(4)}, r"x\.SCB does not fit"),
        (
            {
                "x.weight": torch.zeros(4, 4, dtype=torch.int8),
                "x.SCB": torch.ones(4),
                "x.weight_format": torch.zeros(4).to(torch.float8_e4m3fn),
            },
            r"x\.weight is packed in the order of",
        ),
        ({"x.weight": torch.zeros(()).to(torch.float8_e4m3fn), "x.scale_weight": torch.ones(4)}, r"does not fit"),
        (
            {
                "x.weight": torch.zeros(4, 4).to(torch.float8_e4m3fn),
                "x.scale_weight": torch.ones(()),
                "x.weight_scale": torch.ones(()),
            },
            r"x\.weight is packed in two ways \(x\.scale_weight and x\.weight_scale\)",
        ),
        (
            {"x.weight.quant_state.bitsandbytes__nf4": torch.zeros(2**16 + 1, dtype=torch.uint8)},
            r"nf4 does not tell how",
        ),
    ],
)
def test_packed_weights_that_contradict_themselves_are_refused(
    more: dict[str, Tensor], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "one.safetensors"
    save_file(more, path)
    with pytest.raises(PackingError, match=told):
        packed_weights(read_header(path, ModelError), load_file(path).__getitem__)


def test_what_lies_beside_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    state = layer(torch.randn(6, 64), "nf4 twice").state_dict()
    save_file({f"x.{name}": value.contiguous() for name, value in state.items()} | {"y.weight": torch.ones(2)}, path)
    tensors = load_file(path)
    found, beside = packed_weights(read_header(path, ModelError), tensors.__getitem__)
    assert beside == tensors.keys() - {"x.weight", "y.weight"}
    assert (found["x.weight"].shape, found["x.weight"].dtype) == ((6, 64), "F16")
    told = json.loads(tensors["x.weight.quant_state.bitsandbytes__nf4"].numpy().tobytes())
    assert told["shape"] == [6, 64]
    assert Slot("F16", (6, 64)).bytes == 768


@pytest.mark.parametrize("name", ["absmax", "quant_map", "nested_absmax", "nested_quant_map", "weight"])
def test_what_lies_beside_must_fit(name: str, tmp_path: Path) -> None:
    state = {f"x.{key}": value for key, value in layer(torch.randn(8, 64), "nf4 twice").state_dict().items()}
    key = "x.weight" if name == "weight" else f"x.weight.{name}"
    save_file(state | {key: state[key][:-1].contiguous()}, tmp_path / "one.safetensors")
    header = read_header(tmp_path / "one.safetensors", ModelError)
    with pytest.raises(PackingError, match="bitsandbytes__nf4 does not fit its weight"):
        packed_weights(header, load_file(tmp_path / "one.safetensors").__getitem__)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": [-8, -64]},
        {"shape": [0, 64]},
        {"shape": [8.5, 64]},
        {"shape": [2**40, 2**40]},
        {"shape": [[8, 64]]},
        {"shape": "8"},
        {"blocksize": -64},
        {"blocksize": 0},
        {"blocksize": 10**18},
        {"nested_blocksize": 0},
        {"nested_blocksize": -256},
        {"nested_blocksize": 10**18},
        {"dtype": []},
        {"nested_offset": "x"},
    ],
)
def test_what_a_state_tells_must_be_possible(wrong: dict[str, object], tmp_path: Path) -> None:
    state = {f"x.{key}": value for key, value in layer(torch.randn(8, 64), "nf4 twice").state_dict().items()}
    key = "x.weight.quant_state.bitsandbytes__nf4"
    told = json.loads(state[key].numpy().tobytes()) | wrong
    state[key] = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)
    save_file(state, tmp_path / "one.safetensors")
    with pytest.raises(PackingError, match=r"does not (tell how|fit)"):
        packed_weights(read_header(tmp_path / "one.safetensors", ModelError), state.__getitem__)


@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_largest_values_that_are_packed_are_bytes(kind: torch.dtype, tmp_path: Path) -> None:
    state = {f"x.{key}": value for key, value in layer(torch.randn(8, 64), "nf4 twice").state_dict().items()}
    state["x.weight.absmax"] = torch.full_like(state["x.weight.absmax"], 300, dtype=kind)
    save_file(state, tmp_path / "one.safetensors")
    with pytest.raises(PackingError, match="does not fit its weight"):
        packed_weights(read_header(tmp_path / "one.safetensors", ModelError), state.__getitem__)
    del state["x.weight"]
    save_file(state, tmp_path / "one.safetensors")
    with pytest.raises(PackingError, match="does not fit its weight"):
        packed_weights(read_header(tmp_path / "one.safetensors", ModelError), state.__getitem__)
