"""LoRA files as they are written: every network, each form, what is read back, kohya's hashes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor

from sdtune.core import lora_writer
from sdtune.core.adapters.base import Adapter
from sdtune.core.adapters.difference import Difference
from sdtune.core.adapters.dora import DoraModule
from sdtune.core.adapters.loha import LohaModule
from sdtune.core.adapters.lokr import LokrModule
from sdtune.core.adapters.lora import LoraModule
from sdtune.core.adapters.oft import OftModule
from sdtune.core.header import Header, read_header
from sdtune.core.lora import Lora
from sdtune.core.lora_reader import read
from sdtune.core.lora_writer import precision_of, write
from sdtune.core.safetensors_bytes import kohya_hashes
from sdtune.errors import LoraError, SdtuneError

LAYERS = {
    "sd1": "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    "sd2": "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    "sdxl": "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    "sd3": "transformer.transformer_blocks.0.attn.to_q",
}
NORM = "unet.mid_block.attentions.0.norm"


def drawn(*shape: int) -> Tensor:
    """Numbers that fp16 holds."""
    return torch.randint(-64, 64, shape, generator=torch.Generator().manual_seed(sum(shape))) / 64


def plain(rank: int = 4, alpha: float = 2.0) -> LoraModule:
    return LoraModule(drawn(rank, 8), drawn(8, rank), alpha)


NETWORKS: dict[str, Adapter] = {
    "LoHa": LohaModule.from_tensors(
        {"hada_w1_a": drawn(8, 2), "hada_w1_b": drawn(2, 8), "hada_w2_a": drawn(8, 2), "hada_w2_b": drawn(2, 8)}, 1.0
    ),
    "LoKr": LokrModule.from_tensors({"lokr_w1": drawn(2, 2), "lokr_w2_a": drawn(4, 2), "lokr_w2_b": drawn(2, 4)}, 1.0),
    "OFT": OftModule.from_tensors({"oft_blocks": drawn(2, 4, 4) - drawn(2, 4, 4).mT}, 0.5),
    "DoRA by inputs": DoraModule.from_tensors(
        {"lora_down.weight": drawn(4, 8), "lora_up.weight": drawn(8, 4), "dora_scale": drawn(1, 8)}, 2.0
    ),
    "DoRA by outputs": DoraModule.from_tensors(
        {"lora_down.weight": drawn(4, 8), "lora_up.weight": drawn(8, 4), "dora_scale": drawn(8, 1)}, 2.0
    ),
    "difference": Difference(drawn(8, 8)),
}


def must_be_equal(one: Lora, other: Lora) -> None:
    """Number by number."""
    assert one.modules.keys() == other.modules.keys()
    for name, adapter in one.modules.items():
        mine, theirs = adapter.tensors(), other.modules[name].tensors()
        assert mine.keys() == theirs.keys()
        assert type(adapter) is type(other.modules[name])
        assert all(mine[role].shape == theirs[role].shape for role in mine)
        assert all(torch.equal(mine[role].float(), theirs[role].float()) for role in mine), name
    assert one.biases.keys() == other.biases.keys()
    assert all(torch.equal(value, other.biases[name]) for name, value in one.biases.items())
    assert one.embeddings.keys() == other.embeddings.keys()
    for word, parts in one.embeddings.items():
        assert parts.keys() == other.embeddings[word].keys()
        assert all(torch.equal(value, other.embeddings[word][part]) for part, value in parts.items())


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_written_and_read_again_number_by_number(
    network: str, family_name: str, tmp_path: Path
) -> None:
    lora = Lora({LAYERS[family_name]: NETWORKS[network]}, family_name)
    assert write(tmp_path / "it.safetensors", lora) == "fp16"
    must_be_equal(read(tmp_path / "it.safetensors"), lora)
    told = read_header(tmp_path / "it.safetensors", LoraError).metadata
    assert told["ss_network_module"] == NETWORKS[network].module
    assert "lora_adapter_metadata" not in told or family_name == "sd3"


@pytest.mark.parametrize("form", ["peft", "diffusers"])
@pytest.mark.parametrize("network", NETWORKS)
def test_forms_without_a_place_for_a_network_are_refused_with_a_remedy(network: str, form: Any, tmp_path: Path) -> None:
    lora = Lora({LAYERS["sd1"]: NETWORKS[network]}, "sd1")
    with pytest.raises(
        LoraError, match=r"attn1\.to_q is an? .+, which the \w+ form has no place for; .*sdtune lora resize"
    ):
        write(tmp_path / "it.safetensors", lora, form)
    assert not any(tmp_path.iterdir())


def rich() -> Lora:
    """Biases, a norm and a new word beside a plain LoRA."""
    modules: dict[str, Adapter] = {LAYERS["sd1"]: plain(), NORM: Difference(drawn(8), "w_norm")}
    words = {"sks-cat": {"text_encoder": drawn(3, 8)}}
    return Lora(modules, "sd1", {}, {LAYERS["sd1"]: drawn(8), NORM: drawn(8) / 2, "unet.conv_in": drawn(4)}, words)


def test_biases_norms_and_new_words_are_written_and_read_again(tmp_path: Path) -> None:
    write(tmp_path / "it.safetensors", rich())
    must_be_equal(read(tmp_path / "it.safetensors"), rich())
    keys = load_file(tmp_path / "it.safetensors").keys()
    assert {key.rpartition(".")[2] for key in keys} == {"weight", "alpha", "w_norm", "b_norm", "diff_b", "clip_l"}


@pytest.mark.parametrize(
    ("part", "told"), [({"embeddings": {}}, r"a bias of unet\.mid_block.*attn1"), ({"biases": {}}, "the word sks-cat")]
)
def test_what_else_diffusers_forms_have_no_place_for(part: dict[str, Any], told: str, tmp_path: Path) -> None:
    lora = replace(rich(), modules={LAYERS["sd1"]: plain()}, **part)
    with pytest.raises(LoraError, match=f"{told}.* is changed, which the peft form has no place for; choose kohya"):
        write(tmp_path / "it.safetensors", lora, "peft")


@pytest.mark.parametrize(
    ("form", "keys"),
    [
        (
            "kohya",
            {"lora_unet_conv_in.alpha", "lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in.lora_up.weight"},
        ),
        ("peft", {"unet.conv_in.lora_A.weight", "unet.conv_in.lora_B.weight"}),
        ("diffusers", {"unet.conv_in.lora.down.weight", "unet.conv_in.lora.up.weight"}),
    ],
)
def test_keys_of_each_form(form: Any, keys: set[str], tmp_path: Path) -> None:
    write(tmp_path / "it.safetensors", Lora({"unet.conv_in": plain()}, "sd1"), form)
    assert load_file(tmp_path / "it.safetensors").keys() == keys


def test_the_older_form_names_text_encoders_as_its_scripts_did_and_bears_alpha(tmp_path: Path) -> None:
    name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    write(tmp_path / "it.safetensors", Lora({name: plain()}, "sd1"), "diffusers")
    tensors = {key: value.float() for key, value in load_file(tmp_path / "it.safetensors").items()}
    assert tensors.keys() == {f"{name}.lora_linear_layer.{side}.weight" for side in ("down", "up")}
    change = tensors[f"{name}.lora_linear_layer.up.weight"] @ tensors[f"{name}.lora_linear_layer.down.weight"]
    torch.testing.assert_close(change, plain().delta())


def test_a_lora_of_sd1_or_sd2_is_written_without_a_guess(tmp_path: Path) -> None:
    write(tmp_path / "it.safetensors", Lora({LAYERS["sd1"]: plain()}, None))
    again = read(tmp_path / "it.safetensors")
    assert again.family is None
    must_be_equal(again, Lora({LAYERS["sd1"]: plain()}, None))


@pytest.mark.parametrize(
    ("dtypes", "precision"),
    [
        ({"F16"}, "fp16"),
        ({"BF16"}, "bf16"),
        ({"F32"}, "fp32"),
        ({"F64"}, "fp32"),
        ({"F8_E4M3"}, "fp16"),
        ({"F8_E5M2", "F16"}, "fp16"),
        ({"BF16", "F16"}, "fp32"),
    ],
)
def test_the_precision_that_holds_all_numbers(dtypes: set[str], precision: str) -> None:
    told = {f"layer{number}.lora_up.weight": dtype for number, dtype in enumerate(sorted(dtypes))}
    assert precision_of(Header({}, {**told, "layer0.alpha": "F64"}, {}, {})) == precision


# ---- read back before it replaces a file


def spoilt(lora: Lora, what: str) -> Lora:
    """What a broken writer, or a broken disk, would leave."""
    (name, other), *rest = lora.modules.items()
    assert isinstance(other, LoraModule)
    changed = {
        "a number": {name: replace(other, up=other.up + 2**-9)},
        "an alpha": {name: replace(other, alpha=other.alpha * 1.01)},
        "a module": {},
        "a name": {f"{name}x": other},
    }[what]
    return replace(lora, modules=dict(rest) | changed)


@pytest.mark.parametrize("form", ["kohya", "peft"])
@pytest.mark.parametrize("what", ["a number", "an alpha", "a module", "a name"])
def test_what_is_read_back_otherwise_never_replaces_a_file(
    what: str, form: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it.safetensors"
    lora = Lora({LAYERS["sd1"]: plain(), "unet.conv_in": plain()}, "sd1")
    write(path, lora, form)
    before = path.read_bytes()
    monkeypatch.setattr(lora_writer, "read", lambda place: spoilt(read(place), what))
    with pytest.raises(SdtuneError, match=r"it\.safetensors: cannot be written \(what was read back is not"):
        write(path, replace(lora, metadata={"x": "y"}), form)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_our_own_reader_refuses_never_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    write(path, Lora({LAYERS["sd1"]: plain()}, "sd1"))
    before = path.read_bytes()
    vast = LoraModule(torch.ones(1025, 8), torch.ones(8, 1025), 1.0)
    with pytest.raises(SdtuneError, match=r"cannot be written \(.*1025"):
        write(path, Lora({LAYERS["sd1"]: vast}, "sd1"))
    assert path.read_bytes() == before


def test_what_changes_otherwise_than_it_shall_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_writer, "fitting", lambda module, alpha, _: replace(module, alpha=alpha))
    lora = Lora({LAYERS["sd1"]: plain(), "unet.conv_in": plain(alpha=3.0)}, "sd1")
    with pytest.raises(AssertionError, match="holds every change"):
        write(tmp_path / "it.safetensors", lora)
    monkeypatch.setattr(lora_writer, "is_held", lambda *_: True)
    with pytest.raises(SdtuneError, match="what was read back is not what was written"):
        write(tmp_path / "it.safetensors", lora)
    assert not any(tmp_path.iterdir())


# ---- hashes


def test_kohyas_hashes_are_those_of_the_file_that_the_library_would_write(tmp_path: Path) -> None:
    big = LoraModule(torch.randn(64, 4096), torch.randn(4096, 64), 8.0)
    write(tmp_path / "it.safetensors", Lora({LAYERS["sd1"]: big}, "sd1", {"ss_steps": "3", "modelspec.title": "a"}))
    data = (tmp_path / "it.safetensors").read_bytes()
    told = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    ours = {key: value for key, value in told.items() if key.startswith("ss_")}
    library = save(load(data), {"ss_steps": "3"})
    assert told["sshs_model_hash"] == hashlib.sha256(library[8 + int.from_bytes(library[:8], "little") :]).hexdigest()
    alone = lora_writer.pieces(load(data), ours)
    assert told["sshs_legacy_hash"] == hashlib.sha256(b"".join(alone)[0x100000:0x110000]).hexdigest()[:8]
    assert kohya_hashes(load(data), told) == (told["sshs_model_hash"], told["sshs_legacy_hash"])
