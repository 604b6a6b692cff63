"""Every form of LoRA file in the world: read whole, with exactly the modules and changes that were written."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from sdtune.core import lora_names, lora_reader
from sdtune.core.header import read_header
from sdtune.core.lora_keys import Keys, keys_of
from sdtune.core.lora_reader import read
from sdtune.errors import LoraError
from tests import foreign, foreign_forms, tiny
from tests.foreign_forms import FORMS

DOWN, UP = torch.ones(4, 8), torch.ones(8, 4)
NAME = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    return {family: tiny.pipeline(family) for family in ("sd1", "sd2", "sdxl", "sd3")}


def keys(path: Path, tensors: foreign.Tensors, metadata: dict[str, str] | None = None) -> Keys:
    return keys_of(path, read_header(foreign.saved(path, tensors, metadata), LoraError))


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_exactly_its_modules_and_changes(name: str, pipes: dict[str, Any], tmp_path: Path) -> None:
    form = FORMS[name]
    made = foreign_forms.made(form, pipes[form.family])
    path = foreign.saved(tmp_path / "lora.safetensors", form.write(made))
    lora = read(path)
    assert lora.modules.keys() == made.keys()
    assert len(made) > 20
    for module, one in made.items():
        torch.testing.assert_close(lora.modules[module].delta(), one.delta, rtol=1e-6, atol=1e-6)
    assert keys_of(path, read_header(path, LoraError)).form == form.form
    assert lora.family == {"sd3": "sd3", "sdxl": "sdxl"}.get(
        form.family
    )  # tiny ones differ from released ones in width


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.in_diffusers])
def test_diffusers_reads_the_same_out_of_the_forms_that_it_knows(name: str, tmp_path: Path) -> None:
    form, pipe = FORMS[name], tiny.pipeline(FORMS[name].family)
    made = foreign_forms.made(form, pipe)
    path = foreign.saved(tmp_path / "lora.safetensors", form.write(made))
    mine = read(path).modules
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers' own, of forms that it has given up
        pipe.load_lora_weights(tmp_path, weight_name=path.name, adapter_name="theirs")
    theirs = {
        lora_names.from_dotted(f"{part}.{place}"): layer.get_delta_weight("theirs").flatten(1)
        for part in (*form.text_encoders, "transformer" if form.family == "sd3" else "unet")
        for place, layer in getattr(pipe, part).named_modules()
        if isinstance(layer, LoraLayer)
    }
    assert theirs.keys() == mine.keys()
    for module, delta in theirs.items():
        torch.testing.assert_close(mine[str(module)].delta(), delta, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_without_alpha_means_that_it_is_the_rank(name: str, pipes: dict[str, Any], tmp_path: Path) -> None:
    form = FORMS[name]
    made = foreign_forms.made(dataclasses.replace(form, layers="to_q|q_proj", alphas=False), pipes[form.family])
    tensors = {key: value for key, value in form.write(made).items() if not key.endswith(".alpha")}
    if any("qkv" in key for key in tensors):
        return  # its q is a third of a fused one
    read_modules = read(foreign.saved(tmp_path / "lora.safetensors", tensors)).modules
    for module, one in made.items():
        torch.testing.assert_close(read_modules[module].delta(), one.delta, rtol=1e-6, atol=1e-6)


# ---- networks by their roles, under any form's names

NETWORKS = {
    "LoRA": {"lora_down.weight": (4, 8), "lora_up.weight": (6, 4), "alpha": ()},
    "LoRA, Tucker": {"lora_down.weight": (4, 8, 1, 1), "lora_mid.weight": (4, 4, 3, 3), "lora_up.weight": (6, 4, 1, 1)},
    "DoRA": {"lora_down.weight": (4, 8), "lora_up.weight": (6, 4), "dora_scale": (6, 1), "alpha": ()},
    "DoRA of peft": {"lora_down.weight": (4, 8), "lora_up.weight": (6, 4), "lora_magnitude_vector": (6,)},
    "LoHa": {"hada_w1_a": (6, 4), "hada_w1_b": (4, 8), "hada_w2_a": (6, 4), "hada_w2_b": (4, 8), "alpha": ()},
    "LoKr": {"lokr_w1": (2, 2), "lokr_w2": (3, 4), "alpha": ()},
    "LoKr of products": {"lokr_w1": (2, 2), "lokr_w2_a": (3, 1), "lokr_w2_b": (1, 4), "alpha": ()},
    "OFT": {"oft_blocks": (3, 2, 2), "alpha": ()},
    "difference": {"diff": (6, 8), "diff_b": (6,)},
}
NAMES = (NAME, "lycoris_mid_block_attentions_0_proj_in", "unet.mid_block.attentions.0.proj_in")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_are_told_by_their_roles(network: str, name: str, tmp_path: Path) -> None:
    tensors = {f"{name}.{role}": torch.rand(shape) for role, shape in NETWORKS[network].items()}
    path, module = tmp_path / "lora.safetensors", "unet.mid_block.attentions.0.proj_in"
    found = keys(path, tensors)
    assert found.kinds == {module: network.split(" ")[0].strip(",")}
    assert found.modules[module] == {role: f"{name}.{role}" for role in NETWORKS[network] if role != "diff_b"}
    assert found.biases == ({module: f"{name}.diff_b"} if network == "difference" else {})
    lora = read(path)
    assert lora.modules[module].kind == found.kinds[module]
    assert lora.modules[module].shape[0] == 6
    for module, bias in lora.biases.items():
        torch.testing.assert_close(bias, tensors[found.biases[module]])


def test_norms_are_changed_in_scale_and_bias(tmp_path: Path) -> None:
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_norm1"
    scale, bias = torch.rand(8), torch.rand(8)
    lora = read(foreign.saved(tmp_path / "lora.safetensors", {f"{name}.w_norm": scale, f"{name}.b_norm": bias}))
    ((module, adapter),) = lora.modules.items()
    assert module == "unet.mid_block.attentions.0.transformer_blocks.0.norm1"
    torch.testing.assert_close(adapter.delta(), scale[:, None])
    torch.testing.assert_close(lora.biases[module], bias)


@pytest.mark.parametrize("network", ["LoRA", "LoHa", "LoKr", "difference"])
def test_fused_layers_come_apart_in_every_network(network: str, tmp_path: Path) -> None:
    name = "lora_unet_joint_blocks_3_context_block_attn_qkv"
    tensors = {f"{name}.{role}": torch.rand(shape) for role, shape in NETWORKS[network].items()}
    path = foreign.saved(tmp_path / "lora.safetensors", tensors)
    lora = read(path)
    whole = {key.replace(name, NAME): value for key, value in tensors.items()}
    together = read(foreign.saved(tmp_path / "whole.safetensors", whole))
    block = "transformer.transformer_blocks.3.attn"
    parts = [f"{block}.add_{letter}_proj" for letter in "qkv"]
    (adapter,) = together.modules.values()
    torch.testing.assert_close(torch.cat([lora.modules[part].delta() for part in parts]), adapter.delta())
    assert lora.modules.keys() == set(parts)
    for bias in together.biases.values():
        torch.testing.assert_close(torch.cat([lora.biases[part] for part in parts]), bias)


@pytest.mark.parametrize("network", ["LoRA", "LoHa", "difference"])
def test_the_last_modulation_of_the_first_publication_is_turned_round(network: str, tmp_path: Path) -> None:
    tensors = {role: torch.rand(shape) for role, shape in NETWORKS[network].items()}
    deltas = {}
    for name in ("lora_unet_final_layer_adaLN_modulation_1", "transformer.norm_out.linear"):
        path = foreign.saved(tmp_path / name, {f"{name}.{role}": value for role, value in tensors.items()})
        lora = read(path.rename(path.with_name("x.safetensors")))
        deltas[name] = [*(one.delta() for one in lora.modules.values()), *lora.biases.values()]
    for theirs, ours in zip(*deltas.values(), strict=True):
        torch.testing.assert_close(theirs, torch.cat([ours[3:], ours[:3]]))


FUSED = "lora_unet_joint_blocks_3_context_block_attn_qkv"


@pytest.mark.parametrize(
    ("limit", "most", "tensors"),
    [
        (
            "MOST_HERE",
            4 * 8 * 9 - 4 * 8 - 4 * 4 * 9,
            foreign.of(
                NAME, lora_down__weight=(4, 8, 1, 1), lora_mid__weight=(4, 4, 3, 3), lora_up__weight=(6, 4, 1, 1)
            ),
        ),
        (
            "MOST_HERE",
            6 * 8,
            foreign.of("lora_unet_final_layer_adaLN_modulation_1", lokr_w1=(2, 2), lokr_w2=(3, 4)),
        ),
        ("MOST_LATER", 6 * 8, foreign.of(FUSED, lokr_w1=(2, 2), lokr_w2=(3, 4))),
        ("MOST_LATER", 0, foreign.of(FUSED, lokr_w1=(3, 2), lokr_w2=(2, 4))),
    ],
)
def test_a_file_that_makes_too_much_out_of_little_is_refused(
    limit: str, most: int, tensors: foreign.Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign.saved(tmp_path / "x.safetensors", tensors)
    monkeypatch.setattr(lora_reader, limit, most)
    assert read(path).modules
    if most:
        monkeypatch.setattr(lora_reader, limit, most - 1)
        with pytest.raises(LoraError, match=r"numbers would be made out of far fewer, which no LoRA .*; get it again"):
            read(path)


# ---- bundled words


@pytest.mark.parametrize(
    ("rests", "parts"),
    [
        (["string_to_param.*"], ["text_encoder"]),
        (["string_to_param.*", "string_to_token.*"], ["text_encoder"]),
        (["emb_params"], ["text_encoder"]),
        (["clip_l", "clip_g"], ["text_encoder", "text_encoder_2"]),
        (["clip_l", "clip_g", "t5"], ["text_encoder", "text_encoder_2", "text_encoder_3"]),
    ],
)
@pytest.mark.parametrize("word", ["cat", "<my cat (2)>"])
def test_bundled_words_come_along(word: str, rests: list[str], parts: list[str], tmp_path: Path) -> None:
    vectors = {rest: torch.rand(2, 8) for rest in rests}
    tensors = {f"bundle_emb.{word}.{rest}": value for rest, value in vectors.items()}
    path = foreign.saved(
        tmp_path / "lora.safetensors", {f"{NAME}.lora_down.weight": DOWN, f"{NAME}.lora_up.weight": UP, **tensors}
    )
    lora = read(path)
    assert len(lora.modules) == 1
    assert list(lora.embeddings) == [word]
    assert lora.embeddings[word].keys() == set(parts)
    for part, rest in zip(parts, [rest for rest in rests if "token" not in rest], strict=True):
        torch.testing.assert_close(lora.embeddings[word][part], vectors[rest])


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        (foreign.plain("lora_unet_joint_blocks_0_x_block_attn_qkv"), "does not make 3 equal layers; get it again"),
        (
            foreign.of("lora_unet_joint_blocks_0_x_block_attn_qkv", oft_blocks=(3, 2, 2)),
            "is an OFT of several layers in one, which cannot be told apart",
        ),
        (
            foreign.plain(NAME) | {f"{NAME}.alpha": torch.tensor(1e30)},
            "has an alpha of 1e+30, which nobody trains with",
        ),
        (foreign.of("transformer.norm_out.linear", lora_down__weight=(4, 8), lora_up__weight=(7, 4)), ""),
        (
            foreign.of("lora_unet_final_layer_adaLN_modulation_1", lora_down__weight=(4, 8), lora_up__weight=(7, 4)),
            "has 7 outputs, which have no halves",
        ),
        (
            foreign.of("lora_unet_joint_blocks_0_x_block_attn_qkv", diff_b=(7,)),
            "has 7 values, which are no equal shares; get it again",
        ),
    ],
)
def test_shares_that_do_not_come_out(tensors: foreign.Tensors, told: str, tmp_path: Path) -> None:
    path = foreign.saved(tmp_path / "x.safetensors", tensors)
    if not told:
        assert read(path).modules
        return
    with pytest.raises(LoraError) as problem:
        read(path)
    assert told in str(problem.value)
    assert str(problem.value).startswith(f"{path}: ")


# ---- precisions


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2],
    ids=str,
)
def test_every_precision_of_floats_is_read_as_it_is(dtype: torch.dtype, tmp_path: Path) -> None:
    down, up = torch.rand(4, 8).to(dtype), torch.rand(6, 4).to(dtype)
    tensors = {f"{NAME}.lora_down.weight": down, f"{NAME}.lora_up.weight": up}
    tensors[f"{NAME}.alpha"] = torch.tensor(2.0).to(dtype)
    (module,) = read(foreign.saved(tmp_path / "x.safetensors", tensors)).modules.values()
    torch.testing.assert_close(module.delta(), 0.5 * up.float() @ down.float(), rtol=1e-6, atol=1e-6)
    assert all(value.dtype in (torch.float32, torch.float64) for value in module.tensors().values())


def test_keys_are_told_without_torch(tmp_path: Path) -> None:
    path = foreign.saved(tmp_path / "x.safetensors", foreign.plain(NAME), {"a": json.dumps({"b": 1})})
    script = f"""
import sys
from pathlib import Path
from sdtune.core.header import read_header
from sdtune.core.lora_keys import family_of, keys_of
from sdtune.core.lora_settings import alphas
from sdtune.errors import LoraError
path = Path({str(path)!r})
header = read_header(path, LoraError)
keys = keys_of(path, header)
family_of(keys, header), alphas(path, header)
print(sorted({{"torch", "numpy", "safetensors", "diffusers", "PIL"}} & set(sys.modules)), *keys.modules)
"""
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert told.split() == ["[]", "unet.mid_block.attentions.0.proj_in"]
