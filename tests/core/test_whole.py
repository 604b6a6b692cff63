"""A base model that is not whole is refused before anything is made of it; what it lacks altogether is told."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from sdtune.config import resolve
from sdtune.core.families import families, family_named
from sdtune.core.header import read_header
from sdtune.core.lora_reports import Merged
from sdtune.core.merge import merge
from sdtune.core.model import MINI, identify
from sdtune.core.original import Piece, part_shape, pieces_of_file
from sdtune.core.reports import Report, Warned
from sdtune.core.weights import FileWeights, Weights, open_weights
from sdtune.core.whole import check_whole, missing_parts
from sdtune.errors import ConfigError, ModelError
from sdtune.lora_config import Merge
from tests import original, tiny
from tests.core.test_original import as_file, named
from tests.core.test_original_released import released

STEM = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
OTHER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight"
KEY = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_k.weight"


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    down, up = torch.ones(1, tiny.WIDTH), torch.ones(tiny.WIDTH, 1)
    save_file({f"{STEM}.lora_down.weight": down, f"{STEM}.lora_up.weight": up}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.fixture
def folder(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models["sd1"], tmp_path / "base"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Without configs around it."""
    place = tmp_path / "alone" / "deep" / "base.safetensors"
    place.parent.mkdir(parents=True)
    original.save(tiny.pipeline("sd1"), "sd1", place)
    return place


def merged(*given: Path, out: Path, **told: Any) -> list[Report]:
    return list(merge(resolve(Merge, [{"given": [str(one) for one in given], "out": str(out), **told}])))


def warnings_of(reports: list[Report]) -> list[str]:
    return [report.text for report in reports if isinstance(report, Warned)]


def change(path: Path, how: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path)
    how(tensors)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, {"format": "pt"})


def test_whole_models_pass(family_name: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    base = tiny_models[family_name]
    weights = open_weights(identify(str(base)))
    assert missing_parts(weights) == []
    check_whole(weights, "base", base, {}, in_file=False)
    if family_name != "sd3":
        original.save(tiny.pipeline(family_name), family_name, tmp_path / "a.safetensors")
        in_file = FileWeights(tmp_path / "a.safetensors", family_named(family_name))
        assert missing_parts(in_file) == []
        check_whole(in_file, "a", base, {}, in_file=True)
        check_whole(in_file, "a", None, {}, in_file=True)
    check_whole(open_weights(identify("mini")), "mini", MINI, {}, in_file=False)


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight"])
def test_one_of_two_names_for_the_same_is_enough(kept: str, tmp_path: Path) -> None:
    base = tiny.saved("sd3", tmp_path / "base")
    text = T5EncoderModel(T5Config(d_model=8, d_ff=8, d_kv=4, num_layers=2, num_heads=2, vocab_size=9))
    text.save_pretrained(base / "text_encoder_3")
    change(
        base / "text_encoder_3" / "model.safetensors",
        lambda tensors: tensors.update({kept: tensors.pop("shared.weight")}),
    )
    index = json.loads((base / "model_index.json").read_text())
    index |= {"text_encoder_3": ["transformers", "T5EncoderModel"], "tokenizer_3": ["transformers", "T5Tokenizer"]}
    (base / "model_index.json").write_text(json.dumps(index))
    check_whole(open_weights(identify(str(base))), "base", base, {}, in_file=False)
    change(base / "text_encoder_3" / "model.safetensors", lambda tensors: tensors.pop(kept))
    with pytest.raises(ModelError, match=r"base: text_encoder_3.\S+ is missing, of which the config of text_encoder_3"):
        check_whole(open_weights(identify(str(base))), "base", base, {}, in_file=False)


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("unet", "conv_in.bias"),
        ("vae", "decoder.conv_out.weight"),
        ("text_encoder", "text_model.encoder.layers.1.mlp.fc1.weight"),
    ],
)
def test_a_folder_that_is_not_whole(part: str, key: str, folder: Path, lora: Path, tmp_path: Path) -> None:
    (weights,) = (folder / part).glob("*.safetensors")
    change(weights, lambda tensors: tensors.update({key: tensors[key][:1]}))
    for name in ("out", "out.safetensors"):
        with pytest.raises(
            ModelError, match=rf"base: {part}.{re.escape(key)} has the shape \(1\b.*of {part} tells of \("
        ):
            merged(folder, lora, out=tmp_path / name)
    change(weights, lambda tensors: tensors.pop(key))
    for name in ("out", "out.safetensors"):
        with pytest.raises(
            ModelError, match=rf"base: {part}.{re.escape(key)} is missing, of which the config of {part} tel"
        ):
            merged(folder, lora, out=tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "a.safetensors"}


def test_a_file_that_is_not_whole(file: Path, folder: Path, lora: Path, tmp_path: Path) -> None:
    there = Path(shutil.copy(file, folder))
    for path, problem in ((file, f"{OTHER} is missing"), (there, f"{OTHER} is missing, of which the config")):
        change(path, lambda tensors: tensors.pop(KEY))
        with pytest.raises(ModelError, match=rf"base.safetensors: {re.escape(problem)}.*; download the model again"):
            merged(path, lora, out=tmp_path / "out.safetensors")
    change(there, lambda tensors: tensors.update({KEY: torch.ones(16, tiny.WIDTH)}))
    with pytest.raises(ModelError, match=rf"{re.escape(OTHER)} has the shape \(16, 32\), where the config"):
        merged(there, Path(f"{lora}:0"), out=tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


class Listed(Weights):
    """What a file with tensors of these shapes would be."""

    def __init__(self, family: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.family = family_named(family)
        self._pieces = pieces_of_file(self.family, shapes)
        self.shapes = {name: part_shape(piece, shapes[piece.key]) for piece in self._pieces for name in piece.names}

    def pieces(self) -> list[Piece]:
        return self._pieces

    def read(self, name: str) -> Tensor:
        raise AssertionError(f"{name} is read")

    read_extra = read


@pytest.mark.parametrize("model", ["sd15", "sd21", "sdxl", "sd3", "sd35-medium", "sd35-large"])
def test_released_files_are_judged_by_themselves(model: str) -> None:
    """Without any configs: whole ones pass, and of 40 tensors left out almost each is noticed."""
    family, parts = released(model)
    shapes = {key: tuple(value.shape) for key, value in as_file(family, named(parts)).items()}
    check_whole(Listed(family, shapes), "a", None, {}, in_file=True)
    unread = "cond_stage_model.model.transformer.resblocks.23."
    unnoticed = []
    for key in random.Random(0).sample([key for key in sorted(shapes) if not key.startswith(unread)], 40):
        there = {name: shape for name, shape in shapes.items() if name != key}
        if families()[family].recognises(there):
            with contextlib.suppress(ModelError):
                check_whole(Listed(family, there), "a", None, {}, in_file=True)
                unnoticed.append(key)
    assert len(unnoticed) <= 1


@pytest.mark.parametrize("gone", ["first_stage_model.", "cond_stage_model."])
def test_a_part_that_a_file_has_not(gone: str, file: Path, lora: Path, tmp_path: Path) -> None:
    part = "vae" if gone.startswith("first") else "text_encoder"
    change(file, lambda tensors: [tensors.pop(key) for key in list(tensors) if key.startswith(gone)])
    with pytest.raises(
        ModelError, match=rf"has no {part}, and a folder does not load without; get it whole, or give a"
    ):
        merged(file, lora, out=tmp_path / "out")
    with pytest.raises(ConfigError, match=rf"--verify: base has no {part}, so it is asked for no prediction"):
        merged(file, lora, out=tmp_path / "out.safetensors", verify=True)
    reports = merged(file, lora, out=tmp_path / "out.safetensors")
    assert any(f"the base has no {part}, so the merged file has none" in line for line in warnings_of(reports))
    assert isinstance(reports[-1], Merged)
    assert (reports[-1].denoised, reports[-1].try_next) == (None, "")
    assert not any(key.startswith(gone) for key in read_header(tmp_path / "out.safetensors", ModelError).shapes)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_what_is_no_number_is_not_carried_over(
    name: str, value: float, folder: Path, lora: Path, tmp_path: Path
) -> None:
    key = "conv_norm_out.weight"
    change(folder / "unet" / "diffusion_pytorch_model.safetensors", lambda tensors: tensors[key].fill_(value))
    with pytest.raises(ModelError, match=rf"base: unet.{key} holds what is no number; download the model again"):
        merged(folder, lora, out=tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "a.safetensors"}


def test_averages_and_what_is_not_known_are_told(file: Path, folder: Path, lora: Path, tmp_path: Path) -> None:
    there = Path(shutil.copy(file, folder))
    harmless = {
        "alphas_cumprod": torch.ones(5),
        "betas": torch.ones(5),
        "model_ema.decay": torch.ones(()),
        "epoch": torch.ones(()),
        "global_step": torch.ones(()),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    change(there, lambda tensors: tensors.update(harmless))
    assert warnings_of(merged(there, lora, out=tmp_path / "plain.safetensors")) == []
    change(
        there,
        lambda tensors: tensors.update({"model_ema.diffusion_modelx": torch.ones(99), "some.thing": torch.ones(3)}),
    )
    kept = warnings_of(merged(there, lora, out=tmp_path / "out.safetensors"))
    assert [line.rpartition(", ")[2] for line in kept] == ["without the LoRAs", "and kept as it is"]
    assert "an average of its weights beside them (model_ema.*, 0 MB), which is kept as it is" in kept[0]
    left = warnings_of(merged(there, lora, out=tmp_path / "out"))
    assert ["left out, as folders have no place" in line for line in left] == [True, True]
    assert left[1].startswith("some.thing of the base is not known here")
    keys = read_header(tmp_path / "out.safetensors", ModelError).shapes.keys()
    assert {"model_ema.diffusion_modelx", "some.thing", *harmless} < keys


def test_long_triggers_are_cut(folder: Path, lora: Path, tmp_path: Path) -> None:
    given = []
    for letter in "abcdef":
        given.append(tmp_path / f"{letter}.safetensors")
        save_file(load_file(lora), given[-1], {"modelspec.trigger_phrase": f"{letter}é, " * 200_000})
    for name in ("out", "out.safetensors"):
        told = merged(folder, *given, out=tmp_path / name, verify=False)[-1]
        assert isinstance(told, Merged)
        assert len(told.try_next) < 500
        place = tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors" if name == "out" else tmp_path / name
        trigger = read_header(place, ModelError).metadata["modelspec.trigger_phrase"]
        assert trigger.startswith("aé, aé")
        assert 2**15 < len(trigger.encode()) < 2**17
