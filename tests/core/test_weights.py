"""Base models read one tensor at a time: the same numbers from folders, files and shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.core import hub
from sdtune.core.identity import Identity
from sdtune.core.model import identify
from sdtune.core.tensor_file import Slot
from sdtune.core.weights import Weights, open_weights
from sdtune.errors import ModelError
from tests import tiny
from tests.core.test_original import as_file, of_pipeline, same

UNET = "unet/diffusion_pytorch_model.safetensors"
POSITIONS = torch.arange(77)[None]


def everything(weights: Weights) -> dict[str, torch.Tensor]:
    read = {name: weights.read(name) for name in weights.shapes}
    assert {name: tuple(value.shape) for name, value in read.items()} == weights.shapes
    return read


@pytest.fixture
def sd1(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny SD1 to be changed."""
    return Path(shutil.copytree(tiny_models["sd1"], tmp_path / "model"))


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return of_pipeline("sd1", tiny.pipeline("sd1"))


def test_folders_are_read_whole(family_name: str, tiny_models: dict[str, Path]) -> None:
    weights = open_weights(identify(str(tiny_models[family_name])))
    same(everything(weights), of_pipeline(family_name, tiny.pipeline(family_name)))
    assert set(weights.dtypes.values()) == {"F32"}
    assert weights.family.name == family_name
    assert not weights.extra


def test_files_are_read_whole(family_name: str, tmp_path: Path) -> None:
    expected = of_pipeline(family_name, tiny.pipeline(family_name))
    tensors = {key: value.to(torch.bfloat16).contiguous() for key, value in as_file(family_name, expected).items()}
    sigmas = torch.tensor([1.0, float("inf")])
    save_file(tensors | {"denoiser.sigmas": sigmas, "v_pred": torch.zeros(0)}, tmp_path / "one.safetensors")
    weights = open_weights(identify(str(tmp_path / "one.safetensors")))
    same(everything(weights), {name: value.to(torch.bfloat16) for name, value in expected.items()})
    assert set(weights.dtypes.values()) == {"BF16"}
    assert weights.extra == {"denoiser.sigmas": Slot("F32", (2,)), "v_pred": Slot("F32", (0,))}
    assert torch.equal(weights.read_extra("denoiser.sigmas"), sigmas)
    assert weights.read_extra("v_pred").shape == (0,)
    assert {piece.key for piece in weights.pieces()} == tensors.keys()


def test_half_precision_where_there_is_no_other(sd1: Path, expected: dict[str, torch.Tensor]) -> None:
    half = {key: value.half() for key, value in load_file(sd1 / UNET).items()}
    (sd1 / UNET).unlink()
    save_file(half, sd1 / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    weights = open_weights(identify(str(sd1)))
    unet = {name: value.half() if name.startswith("unet.") else value for name, value in expected.items()}
    same(everything(weights), unet)
    assert weights.dtypes["unet.conv_in.weight"] == "F16"
    assert weights.dtypes["vae.decoder.conv_in.weight"] == "F32"


def test_shards(sd1: Path, expected: dict[str, torch.Tensor]) -> None:
    tensors = load_file(sd1 / UNET)
    (sd1 / UNET).unlink()
    keys, shards = sorted(tensors), {}
    for number in (1, 2):
        name = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        shards |= dict.fromkeys(keys[number - 1 :: 2], name)
        save_file({key: tensors[key] for key in keys[number - 1 :: 2]}, sd1 / "unet" / name)
    index = sd1 / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    same(everything(open_weights(identify(str(sd1)))), expected)
    save_file(tensors, sd1 / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors")
    with pytest.raises(ModelError, match=r"unet\.\S+ is in another file of this folder, too; download"):
        open_weights(identify(str(sd1)))


def test_names_of_older_folders(sd1: Path, expected: dict[str, torch.Tensor]) -> None:
    """Text encoders without text_model., autoencoders whose attention has a query and a proj_attn; position_ids."""
    text = sd1 / "text_encoder" / "model.safetensors"
    shorter = {key.removeprefix("text_model."): value for key, value in load_file(text).items()}
    save_file(shorter | {"embeddings.position_ids": POSITIONS}, text)
    vae = sd1 / "vae" / "diffusion_pytorch_model.safetensors"
    older = {}
    for key, value in load_file(vae).items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            key = key.replace(f".{new}.", f".{old}.")
        older[key] = value
    assert any(".proj_attn." in key for key in older)
    save_file(older, vae)
    weights = open_weights(identify(str(sd1)))
    same(everything(weights), expected)
    positions = "text_encoder.text_model.embeddings.position_ids"
    assert weights.extra == {positions: Slot("I64", (1, 77))}
    assert torch.equal(weights.read_extra(positions), POSITIONS)


def test_models_of_the_hub_are_read_where_they_lie(sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cached", lambda name: sd1 if name == "some/one" else None)
    weights = open_weights(Identity("one", "hub", "some/one", "sd1"))
    assert weights.shapes == open_weights(identify(str(sd1))).shapes


def test_the_built_in_model_is_read() -> None:
    weights = open_weights(identify("mini"))
    assert len([name for name in weights.shapes if name.startswith("unet.")]) == 326
    name = "unet.conv_in.weight"
    (stored,) = (
        load_file(file)["conv_in.weight"]
        for file in Path(identify("mini").location, "unet").glob("*.safetensors")
        if "conv_in.weight" in load_file(file)
    )
    assert torch.equal(weights.read(name), stored)


def test_a_missing_part_is_told(sd1: Path) -> None:
    (sd1 / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="vae has no weights"):
        open_weights(identify(str(sd1)))


def test_a_file_that_shrinks_under_our_hands_is_told(sd1: Path) -> None:
    weights = open_weights(identify(str(sd1)))
    with (sd1 / UNET).open("rb+") as file:
        file.truncate(20_000)
    with pytest.raises(ModelError, match="has become shorter while it was read; get it again"):
        everything(weights)
    (sd1 / UNET).unlink()
    with pytest.raises(ModelError, match=r"cannot be read \(No such file"):
        weights.read("unet.conv_in.weight")


def test_a_tensor_that_is_read_stands_alone(sd1: Path) -> None:
    """It holds its own bytes, and neither the file's nor those of what lies beside it."""
    weights = open_weights(identify(str(sd1)))
    for name in ("unet.conv_in.weight", "vae.decoder.conv_in.weight"):
        value = weights.read(name)
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
        before = (sd1 / UNET).read_bytes()
        value.zero_()
        assert (sd1 / UNET).read_bytes() == before
        assert weights.read(name).any()


@pytest.mark.parametrize(
    "told", [["conv_in.weight"], {"conv_in.weight": ["a.safetensors"]}, None, {"conv_in.weight": 3}]
)
def test_an_index_that_tells_of_no_files_is_refused(told: object, sd1: Path) -> None:
    index = sd1 / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": told}))
    with pytest.raises(ModelError, match=r"index.json: does not tell which file has which weight; download it again"):
        open_weights(identify(str(sd1)))
