"""A LoRA out of two models: what was put into the one comes back, and what has no place in it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdtune.core import lora_file
from sdtune.core.adapters import LoraModule
from sdtune.core.extract_lora import extract_lora
from sdtune.core.header import read_header
from sdtune.core.lora_names import from_dotted, in_model
from sdtune.core.lora_writer import write
from sdtune.core.merge import merge
from sdtune.core.reports import Warned
from sdtune.errors import LoraError, ModelError, OutputError
from sdtune.lora_config import LoraExtract, Merge
from tests import original, tiny
from tests.core.some_loras import agree, apart, like, lora, told, updates


def config(base: Path, tuned: Path, out: Path, **options: Any) -> LoraExtract:
    return LoraExtract(base=str(base), tuned=str(tuned), out=out, **({"dtype": "fp32"} | options))


def tuned(family: str, strength: float = 1.0) -> Any:
    """A pipeline to whose weights a LoRA of rank 4 is added."""
    pipe = tiny.pipeline(family)
    for name, delta in updates(lora(family, 4)).items():
        part, _, _ = name.partition(".")
        layers = dict(getattr(pipe, part).named_modules())
        weight = layers[in_model(name, layers)].weight.data
        weight += strength * delta.reshape(weight.shape)
    return pipe


def changed(pipe: Any, family: str) -> dict[str, torch.Tensor]:
    """What sets a pipeline apart from the base, in every layer that a LoRA may be beside."""
    base, found = tiny.pipeline(family), {}
    for part in {name.partition(".")[0] for name in like(family).modules}:
        before = dict(getattr(base, part).named_modules())
        for path, layer in getattr(pipe, part).named_modules():
            name = from_dotted(f"{part}.{path}") or ""
            if name in like(family).modules:
                found[name] = (layer.weight - before[path].weight).detach().flatten(1)
    return found


def test_what_was_put_in_comes_back(family_name: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    model, out = tiny.saved_pipeline(tuned(family_name), tmp_path / "tuned"), tmp_path / "out.safetensors"
    written = told(extract_lora(config(tiny_models[family_name], model, out, rank=4)))
    agree(updates(out), updates(lora(family_name, 4)), 1e-4)
    assert written.rank == "4"
    assert written.family == family_name
    assert written.lost is None or written.lost < 1e-4
    found, given = lora_file.read(out).modules, lora(family_name).modules
    for name, module in given.items():
        assert isinstance(module, LoraModule)
        assert isinstance(again := found[name], LoraModule)
        assert again.down.shape == module.down.shape
    assert read_header(out, LoraError).metadata["ss_sd_model_name"] == tiny_models[family_name].name


def test_what_merge_put_in_comes_back(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    given, model, out = tmp_path / "given.safetensors", tmp_path / "merged", tmp_path / "out.safetensors"
    write(given, lora("sdxl", 4), dtype="fp32")
    list(merge(Merge(given=(str(tiny_models["sdxl"]), f"{given}:0.5"), out=model)))
    told(extract_lora(config(tiny_models["sdxl"], model, out, rank=4)))
    agree(updates(out), {name: 0.5 * one for name, one in updates(given).items()}, 1e-4)


def test_a_file_in_the_original_layout_and_a_folder_are_compared(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    model = original.save(tuned("sd1"), "sd1", tmp_path / "tuned.safetensors")
    out = tmp_path / "out.safetensors"
    told(extract_lora(config(tiny_models["sd1"], model, out, rank=4, parts="denoiser")))
    expected = {name: one for name, one in updates(lora("sd1", 4)).items() if name.startswith("unet.")}
    agree(updates(out), expected, 1e-4)
    told(extract_lora(config(tiny_models["sd1"], model, out, rank=4, parts="text", overwrite=True)))
    assert {name.partition(".")[0] for name in updates(out)} == {"text_encoder"}


def test_what_a_lower_rank_loses_is_what_is_told(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    pipe = tuned("sd1")
    model, out = tiny.saved_pipeline(pipe, tmp_path / "tuned"), tmp_path / "out.safetensors"
    written = told(extract_lora(config(tiny_models["sd1"], model, out, rank=2)))
    assert written.rank == "2"
    assert written.lost == pytest.approx(apart(updates(out), changed(pipe, "sd1")), rel=1e-3)
    share = told(extract_lora(config(tiny_models["sd1"], model, out, share=0.8, overwrite=True)))
    assert share.lost is not None
    assert share.lost < 0.6
    assert share.rank in ("2-3", "2-4", "3", "2")


def test_what_changed_too_little_is_left_out_and_so_is_rounding(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    pipe, base = tiny.pipeline("sd1"), tiny_models["sd1"]
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    kept = {key: value.clone() for key, value in layer.to_k.state_dict().items()}
    layer.to_q.weight.data += 0.1 * torch.randn(layer.to_q.weight.shape)
    layer.to_k.weight.data += 1e-7 * torch.randn(layer.to_k.weight.shape)
    out, model = tmp_path / "out.safetensors", tiny.saved_pipeline(pipe, tmp_path / "tuned")
    told(extract_lora(config(base, model, out)))
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    assert list(updates(out)) == [name]
    layer.to_k.load_state_dict(kept)
    half = tiny.saved_pipeline(pipe.to(torch.float16), tmp_path / "half")
    told(extract_lora(config(base, half, out, overwrite=True)))
    assert list(updates(out)) == [name], "rounded to half precision all others are the same"


def test_norms_and_biases_are_left_out_and_told(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    pipe = tiny.pipeline("sd1")
    pipe.unet.conv_norm_out.weight.data += 3.0
    pipe.unet.conv_out.weight.data += 0.1 * torch.randn(pipe.unet.conv_out.weight.shape)
    pipe.unet.conv_out.bias.data += 4.0
    change = float(torch.tensor(3.0 * tiny.WIDTH**0.5).hypot(torch.tensor(4.0 * 2)))
    model = tiny.saved_pipeline(pipe, tmp_path / "tuned")
    *reports, _ = extract_lora(config(tiny_models["sd1"], model, tmp_path / "out.safetensors"))
    (warned,) = [one.text for one in reports if isinstance(one, Warned)]
    assert warned.startswith("2 norms, biases and tables also changed (unet.conv_norm_out, unet.conv_out.bias)")
    kernels = (pipe.unet.conv_out.weight - tiny.pipeline("sd1").unet.conv_out.weight).detach()
    whole = float(torch.tensor(change).hypot(kernels.norm()))
    assert f"{100 * change / whole:.2g} % of the whole change" in warned


def test_what_does_not_belong_together_is_refused_before_anything_is_written(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    out, sd1 = tmp_path / "out.safetensors", tiny_models["sd1"]
    with pytest.raises(ModelError, match="give two models of one family"):
        told(extract_lora(config(sd1, tiny_models["sdxl"], out)))
    with pytest.raises(ModelError, match="no layer differs"):
        told(extract_lora(config(sd1, sd1, out)))
    painting = tiny.saved_pipeline(tiny.inpainting_pipeline("sd1"), tmp_path / "painting")
    with pytest.raises(ModelError, match=r"unet.conv_in.weight: \(32, 4, 3, 3\) in .* has \(32, 9, 3, 3\)"):
        told(extract_lora(config(sd1, painting, out)))
    broken = tuned("sd1", strength=float("inf"))
    with pytest.raises(ModelError, match="holds what is no number"):
        told(extract_lora(config(sd1, tiny.saved_pipeline(broken, tmp_path / "broken"), out)))
    assert not out.exists()
    out.touch()
    with pytest.raises(OutputError, match="is there already"):
        told(extract_lora(config(sd1, sd1, out)))


def test_the_same_models_give_the_same_bytes(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    model, out = tiny.saved_pipeline(tuned("sd1"), tmp_path / "tuned"), tmp_path / "out.safetensors"
    files = []
    for _ in range(2):
        told(extract_lora(config(tiny_models["sd1"], model, out, rank=3, dtype="fp16", overwrite=True)))
        files.append(out.read_bytes())
    assert files[0] == files[1]


def test_the_models_are_never_replaced(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    base = tiny.saved_pipeline(tiny.pipeline("sd1"), tmp_path / "base")
    weights = base / "unet" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    for one, other in ((base, tiny_models["sd1"]), (tiny_models["sd1"], base)):
        with pytest.raises(OutputError, match="is of the model base, which stays"):
            told(extract_lora(config(one, other, weights, overwrite=True)))
    assert weights.read_bytes() == before
