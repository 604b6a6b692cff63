"""The original layout: told from diffusers' and back without a bit of difference, as other programs read it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sdtune.core.families import families, family_named
from sdtune.core.model import identify, load
from sdtune.core.original import file_shape, joined, part_shape, parted, pieces, pieces_of_file
from sdtune.core.weights import open_weights
from sdtune.errors import ModelError
from tests import original, tiny

DENOISER = "model.diffusion_model."


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tensors.items()}


def named(parts: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a model's parts by part and diffusers' name."""
    found = {}
    for part, module in parts.items():
        clip = isinstance(module, CLIPTextModel | CLIPTextModelWithProjection)
        for key, value in module.state_dict().items():
            whole = clip and not key.startswith("text_projection.")
            found[f"{part}.text_model.{key.removeprefix('text_model.')}" if whole else f"{part}.{key}"] = value
        found.pop(f"{part}.encoder.embed_tokens.weight", None)  # of T5, the same as shared.weight
    return found


def of_pipeline(family: str, pipe: Any) -> dict[str, Tensor]:
    told = family_named(family)
    parts = {part: getattr(pipe, part) for part in (told.denoiser, "vae", *told.text_encoders)}
    return named({part: module for part, module in parts.items() if module is not None})


def as_file(family: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file in the original layout."""
    made, shapes = {}, shapes_of(weights)
    for piece in pieces(family_named(family), shapes):
        made[piece.key] = joined(piece, weights.__getitem__)
        assert tuple(made[piece.key].shape) == file_shape(piece, shapes)
    return made


def as_diffusers(family: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in a file in the original layout, by part and diffusers' name."""
    found: dict[str, Tensor] = {}
    for piece in pieces_of_file(family_named(family), shapes_of(tensors)):
        values = parted(piece, tensors[piece.key])
        assert {tuple(value.shape) for value in values.values()} == {part_shape(piece, tuple(tensors[piece.key].shape))}
        assert not found.keys() & values.keys()
        found |= values
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def filled(module: Any) -> Any:
    """Every weight another number, so that none can be taken for another."""
    begin = 0
    for weight in module.parameters():
        weight.data = torch.arange(begin, begin + weight.numel(), dtype=torch.float32).reshape(weight.shape)
        begin += weight.numel()
    return module


# ---- there and back


def test_there_and_back_is_the_same(family_name: str) -> None:
    weights = of_pipeline(family_name, tiny.pipeline(family_name))
    tensors = as_file(family_name, weights)
    same(as_diffusers(family_name, tensors), weights)
    again = {piece.key: piece for piece in pieces_of_file(families()[family_name], shapes_of(tensors))}
    assert again == {piece.key: piece for piece in pieces(families()[family_name], shapes_of(weights))}


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("levels", [2, 3, 4])
def test_unets_of_any_depth_and_number_of_blocks(layers: int, levels: int) -> None:
    attends = [level % 2 == 0 for level in range(levels)]
    unet = filled(
        tiny._unet(
            block_out_channels=(8,) * levels,
            down_block_types=tuple("CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if one else "UpBlock2D" for one in reversed(attends)),
            layers_per_block=layers,
        )
    )
    weights = named({"unet": unet})
    tensors = as_file("sd1", weights)
    same(as_diffusers("sd1", tensors), weights)
    theirs = single_file_utils.convert_ldm_unet_checkpoint(dict(tensors), dict(unet.config))
    same(theirs, unet.state_dict())


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_autoencoders_of_any_depth(layers: int) -> None:
    vae = filled(
        AutoencoderKL(
            block_out_channels=(4, 4, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=layers,
            norm_num_groups=2,
        )
    )
    weights = named({"vae": vae})
    tensors = as_file("sd1", weights)
    same(as_diffusers("sd1", tensors), weights)
    assert tensors["first_stage_model.decoder.mid.attn_1.q.weight"].shape == (8, 8, 1, 1)
    same(single_file_utils.convert_ldm_vae_checkpoint(dict(tensors), dict(vae.config)), vae.state_dict())
    for key in [key for key, value in tensors.items() if ".attn_1." in key and value.ndim == 4]:
        tensors[key] = tensors[key][:, :, 0, 0]  # as some files have it
    same(as_diffusers("sd1", tensors), weights)


def test_the_built_in_model_comes_back() -> None:
    stored = open_weights(identify("mini"))
    weights = {name: stored.read(name) for name in stored.shapes}
    same(as_diffusers("sd1", as_file("sd1", weights)), weights)


def test_transformers_with_halves_in_other_order() -> None:
    transformer = filled(tiny.pipeline("sd3").transformer)
    tensors = as_file("sd3", named({"transformer": transformer}))
    theirs = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(dict(tensors))
    same(theirs, transformer.state_dict())
    last = "joint_blocks.1.context_block.adaLN_modulation.1.bias"
    turned = transformer.transformer_blocks[1].norm1_context.linear.bias
    assert torch.equal(tensors[DENOISER + last], torch.cat([*reversed(turned.chunk(2))]))


# ---- as others write and read it


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_same_file_as_another_writer_makes(family: str, tmp_path: Path) -> None:
    pipe = tiny.pipeline(family)
    theirs = load_file(original.save(pipe, family, tmp_path / "one.safetensors"))
    same(as_file(family, of_pipeline(family, pipe)), theirs)


def test_diffusers_reads_every_weight(family_name: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    expected = of_pipeline(family_name, tiny.pipeline(family_name, seed=1))
    if family_name == "sd3":  # diffusers takes it for one, as in the released models
        expected["text_encoder.text_projection.weight"] = torch.eye(tiny.WIDTH)
    folder = Path(shutil.copytree(tiny_models[family_name], tmp_path / "model"))
    path = folder / "one.safetensors"
    save_file({key: value.contiguous() for key, value in as_file(family_name, expected).items()}, path)
    same(of_pipeline(family_name, load(identify(str(path)), torch.float32)), expected)


# ---- what only one of both layouts has


@pytest.mark.parametrize("projects", [True, False])
def test_the_last_layer_of_sd2_that_nothing_reads_is_left_out(projects: bool) -> None:
    layers = 3 if projects else 24
    config = tiny._text_config(num_hidden_layers=layers, hidden_size=4, intermediate_size=4)
    tensors = as_file("sd2", named({"text_encoder": CLIPTextModel(config)}))
    if projects:
        tensors["cond_stage_model.model.text_projection"] = torch.zeros(4, 4)
    found = as_diffusers("sd2", tensors)
    last = f"text_encoder.text_model.encoder.layers.{layers - 2}."
    assert max(int(name.split(".")[4]) for name in found if ".layers." in name) == layers - 2
    assert sum(name.startswith(last) for name in found) == 16
    assert not any("text_projection" in name for name in found)


def test_a_layer_that_others_ask_for_is_a_copy_of_the_last_that_is_read() -> None:
    config = tiny._text_config(num_hidden_layers=23, hidden_size=4, intermediate_size=4)
    weights = named({"text_encoder": CLIPTextModel(config)})
    tensors = as_file("sd2", weights)
    stem = "cond_stage_model.model.transformer.resblocks."
    last = {key.removeprefix(f"{stem}23."): value for key, value in tensors.items() if key.startswith(f"{stem}23.")}
    assert len(last) == 12
    same(last, {name: tensors[f"{stem}22.{name}"] for name in last})
    same(as_diffusers("sd2", tensors), weights)


def test_what_diffusers_does_not_know_is_left_out(family_name: str) -> None:
    weights = of_pipeline(family_name, tiny.pipeline(family_name))
    more = {
        "alphas_cumprod": torch.ones(3),
        "v_pred": torch.zeros(0),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "conditioner.embedders.1.model.logit_scale": torch.ones(()),
        "cond_stage_model.model.logit_scale": torch.ones(()),
        "model_ema.decay": torch.ones(()),
        f"{DENOISER}input_blocks.0.1.strange.weight": torch.ones(1),
    }
    same(as_diffusers(family_name, as_file(family_name, weights) | more), weights)


def test_names_of_text_encoders_from_before_transformers_had_a_text_model() -> None:
    weights = of_pipeline("sd1", tiny.pipeline("sd1"))
    tensors = as_file("sd1", weights)
    older = {key.replace("transformer.text_model.", "transformer."): value for key, value in tensors.items()}
    assert older.keys() != tensors.keys()
    same(as_diffusers("sd1", older), weights)


def test_what_the_layout_has_no_place_for_is_told() -> None:
    shapes = {"unet.conv_in.weight": (4, 4, 3, 3), "unet.encoder_hid_proj.weight": (4, 4)}
    with pytest.raises(ModelError, match=r"^unet\.encoder_hid_proj\.weight: has no place .*; write a folder"):
        pieces(families()["sd1"], shapes)


def test_what_is_missing_beside_others_is_told() -> None:
    weights = shapes_of(of_pipeline("sdxl", tiny.pipeline("sdxl")))
    gone = "text_encoder_2.text_model.encoder.layers.0.self_attn.k_proj.bias"
    del weights[gone]
    with pytest.raises(ModelError, match=f"^{gone}: missing beside"):
        pieces(families()["sdxl"], weights)
