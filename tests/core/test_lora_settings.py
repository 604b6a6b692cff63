"""PEFT's settings, in a file or beside it: alpha stands nowhere else in its form."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdtune.core import lora_names
from sdtune.core.header import read_header
from sdtune.core.lora_keys import keys_of
from sdtune.core.lora_reader import read
from sdtune.errors import LoraError
from tests import foreign, tiny

BARE = "mid_block.attentions.0.proj_in"


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize("where", ["inside", "inside by part", "beside"])
def test_alphas_of_peft_stand_in_its_settings(where: str, stabilised: bool, tmp_path: Path) -> None:
    made = foreign.loras(tiny.pipeline("sd1"), ["unet"], layers="attn")
    prefix = "{part}." if where == "inside by part" else "base_model.model."
    path = tmp_path / "adapter_model.safetensors"
    settings = foreign.peft_settings(made, part="unet" if where == "inside by part" else None, stabilised=stabilised)
    inside = {lora_names.SETTINGS: settings} if where != "beside" else None
    foreign.saved(path, foreign.dotted(foreign.AB, prefix, alpha=False)(made), inside)
    if where == "beside":
        (tmp_path / "adapter_config.json").write_text(settings)
    modules = read(path).modules
    assert modules.keys() == made.keys()
    for module, one in made.items():
        expected = one.delta * (math.sqrt(3) if stabilised else 1)
        torch.testing.assert_close(modules[module].delta(), expected, rtol=1e-6, atol=1e-6)
    assert keys_of(path, read_header(path, LoraError)).form == "peft"


@pytest.mark.parametrize(("rank_stabilised", "alpha"), [(False, 6.0), (True, 12.0)])
def test_alpha_of_a_bare_peft_adapter_stands_in_the_config_beside_it(
    rank_stabilised: bool, alpha: float, tmp_path: Path
) -> None:
    name = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    file = tmp_path / "adapter_model.safetensors"
    save_file({f"{name}.lora_A.weight": torch.ones(4, 8), f"{name}.lora_B.weight": torch.ones(8, 4)}, file)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 6, "use_rslora": rank_stabilised}))
    (module,) = read(file).modules.values()
    assert module.alpha == alpha


@pytest.mark.parametrize(
    "settings",
    [
        "[1]",
        "1e999",
        "[" * 100000,
        '{"unet.lora_alpha": "abc"}',
        '{"unet.lora_alpha": null}',
        '{"unet.lora_alpha": 1%s}' % ("0" * 400),
        '{"unet.alpha_pattern": [1]}',
        '{"unet.alpha_pattern": {"proj_in": []}}',
        '{"unet.use_rslora": "no"}',
    ],
)
@pytest.mark.parametrize("where", ["inside", "beside"])
def test_settings_that_peft_does_not_write(settings: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    tensors = {f"unet.{BARE}.lora_A.weight": torch.ones(4, 8), f"unet.{BARE}.lora_B.weight": torch.ones(8, 4)}
    save_file(tensors, path, {"lora_adapter_metadata": settings} if where == "inside" else None)
    if where == "beside":
        (tmp_path / "adapter_config.json").write_text(settings.replace("unet.", ""))
    with pytest.raises(LoraError, match="is not what peft writes; get the file again"):
        read(path)


def test_the_first_pattern_that_fits_counts(tmp_path: Path) -> None:
    settings = {
        "unet.lora_alpha": 2,
        "unet.alpha_pattern": {"attn1.to_k": 3, "to_k": 5, "^mid_block.attn": 7, "o_q": 9},
    }
    block = "unet.mid_block.attentions.0.transformer_blocks.0"
    tensors = {}
    for layer in ("attn1.to_k", "attn2.to_k", "attn1.to_q"):
        name = f"{block}.{layer}"
        tensors |= {f"{name}.lora_A.weight": torch.ones(4, 8), f"{name}.lora_B.weight": torch.ones(8, 4)}
    path = foreign.saved(tmp_path / "x.safetensors", tensors, {lora_names.SETTINGS: json.dumps(settings)})
    alphas = {name.removeprefix(f"{block}."): float(one.tensors()["alpha"]) for name, one in read(path).modules.items()}
    assert alphas == {"attn1.to_k": 3, "attn2.to_k": 5, "attn1.to_q": 2}


def test_a_loha_of_peft_tells_alpha_under_a_name_of_its_own(tmp_path: Path) -> None:
    name = f"base_model.model.{BARE}"
    factors = {"hada_w1_a": (6, 4), "hada_w1_b": (4, 8), "hada_w2_a": (6, 4), "hada_w2_b": (4, 8)}
    foreign.saved(tmp_path / "adapter_model.safetensors", foreign.of(name, **factors))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "alpha": 8, "peft_type": "LOHA"}))
    (one,) = read(tmp_path / "adapter_model.safetensors").modules.values()
    torch.testing.assert_close(one.delta(), torch.full((6, 8), 2.0 * 4 * 4))
