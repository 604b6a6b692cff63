"""A LoRA merged into a packed base gives plain weights: those that the base unpacks to, and the LoRA's change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdtune.config import resolve
from sdtune.core.families import family_named
from sdtune.core.lora_reports import Merged
from sdtune.core.merge import merge
from sdtune.core.model import identify
from sdtune.core.reports import Note, Report
from sdtune.core.weights import open_weights
from sdtune.errors import ConfigError
from sdtune.lora_config import Merge
from tests import tiny
from tests.core.test_merge_model import random_lora, written
from tests.core.test_original import as_file, of_pipeline
from tests.core.test_quantised import packed, scaled_file

STRENGTH = 0.7
BITS = {"nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}}
BITS |= {"fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "int8": {"load_in_8bit": True}}
DTYPES = {None: torch.float16, "fp32": torch.float32}


def merged(*given: str | Path, out: Path, **told: Any) -> list[Report]:
    return list(merge(resolve(Merge, [{"given": [str(one) for one in given], "out": str(out), **told}])))


def packed_folder(family: str, kind: str, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A folder as diffusers writes that of a packed denoiser and text encoder, and its packed weights as they unpack.

    transformers packs on the CPU; diffusers wants a card for it, so its denoiser is packed by bitsandbytes' layers.
    """
    tiny.saved(family, folder)
    denoiser = family_named(family).denoiser
    unpacked = {}
    file = folder / denoiser / "diffusion_pytorch_model.safetensors"
    unpacked |= {f"{denoiser}.{key}": value for key, value in packed(file, kind).items()}
    config = folder / denoiser / "config.json"
    told = diffusers.BitsAndBytesConfig(**BITS[kind]).to_dict()
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": told}))
    before = load_file(folder / "text_encoder" / "model.safetensors")
    how = transformers.BitsAndBytesConfig(**BITS[kind])
    before_packing = torch.float32 if kind == "fp4" else torch.float16  # of 4 bits the file tells it
    kind_of_text = json.loads((folder / "model_index.json").read_text())["text_encoder"][1]
    text = getattr(transformers, kind_of_text).from_pretrained(
        folder / "text_encoder", quantization_config=how, dtype=before_packing, device_map="cpu"
    )
    shutil.rmtree(folder / "text_encoder")
    text.save_pretrained(folder / "text_encoder")
    assert "quantization_config" in json.loads((folder / "text_encoder" / "config.json").read_text())
    after = load_file(folder / "text_encoder" / "model.safetensors")
    small = [key for key, value in after.items() if value.dtype in (torch.uint8, torch.int8) and key in before]
    assert len(small) > 10
    weights = open_weights(identify(str(folder)))
    for key in small:
        value = weights.read(f"text_encoder.{key}")
        assert (value - before[key]).norm() < 0.15 * before[key].norm()
        unpacked[f"text_encoder.{key}"] = value
    return folder, unpacked


@pytest.mark.parametrize("name", ["merged", "merged.safetensors"])
@pytest.mark.parametrize("dtype", ["fp32", None])
@pytest.mark.parametrize(("family", "kind"), [("sdxl", "nf4"), ("sd3", "fp4"), ("sd1", "int8")])
def test_a_folder_packed_by_bitsandbytes(family: str, kind: str, dtype: str | None, name: str, tmp_path: Path) -> None:
    base, unpacked = packed_folder(family, kind, tmp_path / "base")
    lora = random_lora(base)
    file = written(lora, tmp_path / "style.safetensors")
    assert lora.modules.keys() & {key.removesuffix(".weight") for key in unpacked}
    reports = merged(base, f"{file}:{STRENGTH}", out=tmp_path / name, dtype=dtype)
    before, after = open_weights(identify(str(base))), open_weights(identify(str(tmp_path / name)))
    assert set(before.packed) == set(unpacked)
    assert set(before.packed.values()) == {kind}
    assert after.shapes == before.shapes
    assert not after.packed
    for key in after.shapes:
        value = unpacked[key] if key in unpacked else before.read(key).float()
        adapter = lora.modules.get(key.removesuffix(".weight")) if key.endswith(".weight") else None
        if adapter is not None:
            value = value + STRENGTH * adapter.delta().reshape(value.shape)
        found = after.read(key)
        if key in unpacked:
            assert found.dtype == DTYPES[dtype]
        rounding = 1e-6 if found.dtype == torch.float32 else torch.finfo(found.dtype).eps
        torch.testing.assert_close(found.float(), value, rtol=rounding, atol=1e-6)
    notes = [report.text for report in reports if isinstance(report, Note)]
    told = f"the base has weights in {kind}; they are unpacked, and written in {dtype or 'fp16 (see --dtype)'}"
    assert notes.count(told) == 1
    assert not any("prediction" in note for note in notes)
    assert isinstance(reports[-1], Merged)
    assert reports[-1].denoised is None
    if name == "merged":
        loads_plain(tmp_path / name, family)
    with pytest.raises(ConfigError, match=rf"--verify: base is packed \({kind}\), so it is asked for no prediction"):
        merged(base, file, out=tmp_path / "other", verify=True)
    assert not (tmp_path / "other").exists()


def loads_plain(folder: Path, family: str) -> None:
    """By diffusers alone, with no word of bitsandbytes."""
    configs = [json.loads(file.read_text()) for file in folder.rglob("config.json")]
    assert len(configs) > 2
    assert not any("quantization_config" in config for config in configs)
    parts = dict.fromkeys(family_named(family).optional_parts)
    pipe = getattr(diffusers, family_named(family).pipeline).from_pretrained(folder, dtype=torch.float32, **parts)
    net = getattr(pipe, family_named(family).denoiser)
    weights = open_weights(identify(str(folder)))
    for part, module in ((family_named(family).denoiser, net), ("text_encoder", pipe.text_encoder)):
        assert not getattr(module, "is_quantized", False)
        for name, value in module.state_dict().items():
            known = f"{part}.{name}" if f"{part}.{name}" in weights.shapes else f"{part}.text_model.{name}"
            if not name.endswith("position_ids"):
                assert torch.equal(value, weights.read(known).float()), name


@pytest.mark.parametrize("dtype", ["fp32", None])
@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
def test_a_file_with_scaled_floats_of_8_bits(name: str, dtype: str | None, tmp_path: Path) -> None:
    identity, unpacked = scaled_file(tmp_path / "base.safetensors", name, rows=name == "weight_scale")
    lora = random_lora(Path(identity.location), parts="transformer")
    file = written(lora, tmp_path / "style.safetensors")
    out = tmp_path / "merged.safetensors"
    reports = merged(identity.location, f"{file}:{STRENGTH}", out=out, dtype=dtype)
    before, after = open_weights(identity), open_weights(identify(str(out)))
    changed = 0
    for piece in before.pieces():
        value = torch.cat([before.read(key).float() for key in piece.names])
        assert piece.key not in unpacked or torch.equal(value, unpacked[piece.key])
        modules = [lora.modules.get(key.removesuffix(".weight")) for key in piece.names]
        changes = [
            torch.zeros(before.shapes[key])
            if one is None or key.endswith(".bias")
            else one.delta().reshape(before.shapes[key])
            for key, one in zip(piece.names, modules, strict=True)
        ]
        changed += piece.key in unpacked and any(change.any() for change in changes)
        found = torch.cat([after.read(key) for key in piece.names])
        assert piece.key not in unpacked or found.dtype == DTYPES[dtype]
        rounding = 1e-6 if found.dtype == torch.float32 else torch.finfo(found.dtype).eps
        torch.testing.assert_close(found.float(), value + STRENGTH * torch.cat(changes), rtol=rounding, atol=1e-6)
    assert changed > 3
    left = load_file(out)
    assert not [key for key in left if key.endswith((name, "scaled_fp8"))]
    assert not [key for key, value in left.items() if value.element_size() == 1]
    assert any(
        "the base has weights in F8_E4M3; they are unpacked" in told.text for told in reports if isinstance(told, Note)
    )
    with pytest.raises(ConfigError, match=r"--verify: base is packed \(F8_E4M3\)"):
        merged(identity.location, file, out=out, verify=True, overwrite=True)


@pytest.mark.parametrize("dtype", ["fp32", None])
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_file_of_floats_of_8_bits(kind: torch.dtype, dtype: str | None, tmp_path: Path) -> None:
    """Also asked for a prediction, if that is wanted: such a file can be loaded."""
    room = tiny.saved("sdxl", tmp_path / "room")
    tensors = {
        key: value.to(kind).contiguous()
        for key, value in as_file("sdxl", of_pipeline("sdxl", tiny.pipeline("sdxl"))).items()
    }
    save_file(tensors, room / "base.safetensors")
    lora = random_lora(room)
    file = written(lora, tmp_path / "style.safetensors")
    out = tmp_path / "merged.safetensors"
    report = merged(room / "base.safetensors", f"{file}:{STRENGTH}", out=out, dtype=dtype, verify=True)[-1]
    before, after = open_weights(identify(str(room / "base.safetensors"))), open_weights(identify(str(out)))
    for key in before.shapes:
        adapter = lora.modules.get(key.removesuffix(".weight")) if key.endswith(".weight") else None
        value = before.read(key).float()
        assert after.read(key).dtype == DTYPES[dtype]
        if adapter is None:
            assert torch.equal(after.read(key).float(), value)
        else:
            exact = value + STRENGTH * adapter.delta().reshape(value.shape)
            torch.testing.assert_close(after.read(key).float(), exact, rtol=1e-3, atol=1e-6)
    assert isinstance(report, Merged)
    assert report.denoised is not None
    assert report.denoised < (1e-5 if dtype else 0.02)
