"""What lora inspect tells of a file is what the file's weights are, in every form and network, without reading them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sdtune.core import lora_file
from sdtune.core.adapters import LoraModule
from sdtune.core.header import read_header
from sdtune.core.inspect_lora import inspect_lora
from sdtune.core.lora import Lora
from sdtune.core.lora_facts import modules_of
from sdtune.core.lora_keys import keys_of
from sdtune.core.lora_problems import OF_NOTHING
from sdtune.core.lora_reports import Inspected
from sdtune.errors import LoraError
from sdtune.inspect_config import LoraInspect
from tests import foreign
from tests.cli.test_help import HEAVY
from tests.core.adapters.examples import examples
from tests.core.loras import trained
from tests.foreign_forms import FORMS
from tests.foreign_forms import made as made_of

NAME = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
WORDS = {"modelspec.trigger_phrase": "ohwx"}


def inspected(path: Path, **more: Any) -> Inspected:
    *_, last = inspect_lora(LoraInspect(lora=path, **more))
    assert isinstance(last, Inspected)
    return last


def plain(name: str = NAME, rank: int = 4, width: int = 768, alpha: float | None = 2.0) -> dict[str, Tensor]:
    found = {f"{name}.lora_down.weight": torch.ones(rank, width), f"{name}.lora_up.weight": torch.ones(8, rank)}
    return found | ({} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)})


def saved(tmp_path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    path = tmp_path / "cats.safetensors"
    save_file(tensors, path, metadata | WORDS if "modelspec.trigger_phrase" not in metadata else metadata)
    return path


# ---- from the header alone


@pytest.mark.parametrize("form", ["kohya", "peft"])
def test_the_header_tells_what_the_weights_are(family_name: str, form: Any, tmp_path: Path) -> None:
    lora = trained(family_name)[0]
    lora_file.write(tmp_path / "cats.safetensors", lora, form)
    told = inspected(tmp_path / "cats.safetensors")
    read = lora_file.read(told.path).modules
    assert (told.family, told.modules, told.networks, told.dtype, told.rank) == (
        family_name,
        len(read),
        ("LoRA",),
        "fp16",
        "4",
    )
    assert sum(told.parts.values()) == sum(block.modules for block in told.blocks) == len(read)
    alphas = {module.alpha for module in read.values()}  # type: ignore[attr-defined]
    assert told.alpha == (f"{min(alphas):g}-{max(alphas):g}" if len(alphas) > 1 else f"{min(alphas):g}")
    assert told.size == told.path.stat().st_size
    names = [block.block for block in told.blocks]
    assert names[0] == "text_encoder"
    assert [name for name in names if "block" in name] == sorted(
        (name for name in names if "block" in name), key=lambda name: (name[0] == "u", name[0] == "m", name)
    )


@pytest.mark.parametrize("name", FORMS)
def test_of_every_form_of_the_world(name: str, tmp_path: Path) -> None:
    from tests import tiny

    form = FORMS[name]
    made = made_of(form, tiny.pipeline(form.family))
    path = foreign.saved(tmp_path / "cats.safetensors", form.write(made))
    header = read_header(path, LoraError)
    modules = modules_of(path, header, keys_of(path, header))
    assert {name: (one.rank, one.acting) for name, one in modules.items()} == {
        module: (len(one.down), pytest.approx(one.alpha)) for module, one in made.items()
    }
    told = inspected(path)
    assert (told.form, told.modules) == (form.form, len(made))


@pytest.mark.parametrize("name", examples())
def test_of_every_network(name: str, tmp_path: Path) -> None:
    example = examples()[name]
    module = "lora_unet_conv_in"
    tensors = {f"{module}.{role}": value.contiguous() for role, value in example.tensors.items()}
    if example.alpha is not None:
        tensors[f"{module}.alpha"] = torch.tensor(example.alpha)
    told = inspected(saved(tmp_path, tensors))
    (read,) = lora_file.read(told.path).modules.values()
    assert told.networks == (example.kind,) == (read.kind,)
    assert told.rank == (str(read.rank) if read.rank else "-")


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64],
)
@pytest.mark.parametrize("alpha", [1, 2, 6, 16])
def test_alpha_of_any_precision(dtype: torch.dtype, alpha: int, tmp_path: Path) -> None:
    tensors = plain(alpha=None) | {f"{NAME}.alpha": torch.tensor(alpha).to(dtype)}
    assert inspected(saved(tmp_path, tensors)).alpha == str(alpha)


def test_every_alpha_of_a_byte_is_what_torch_makes_of_it(tmp_path: Path) -> None:
    for number in range(256):
        value = torch.tensor(number, dtype=torch.uint8).view(torch.float8_e4m3fn)
        path = saved(tmp_path, plain(alpha=None) | {f"{NAME}.alpha": value})
        if torch.isfinite(value.float()):
            header = read_header(path, LoraError)
            (module,) = modules_of(path, header, keys_of(path, header)).values()
            assert module.alpha == float(value)
        else:
            with pytest.raises(LoraError, match="is no number"):
                inspected(path)


def test_no_more_is_read_than_the_header_and_the_alphas(tmp_path: Path) -> None:
    """A file of 16 GB, of which the disk holds none."""
    names = [f"lora_unet_up_blocks_1_attentions_{n}_transformer_blocks_0_attn1_to_q" for n in range(3)]
    entries, end = {}, 0
    for name in names:
        for role, shape in (("lora_down.weight", [1024, 2**20]), ("lora_up.weight", [2**18, 1024]), ("alpha", [])):
            size = 4 * (shape[0] * shape[1] if shape else 1)
            entries[f"{name}.{role}"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end := end + size]}
    header = json.dumps(entries).encode()
    path = tmp_path / "cats.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)
        for entry in entries.values():
            if not entry["shape"]:
                file.seek(8 + len(header) + entry["data_offsets"][0])
                file.write(struct.pack("<f", 8.0))
    told = inspected(path)
    assert (told.rank, told.alpha, told.modules) == ("1024", "8", 3)
    assert told.size > 15e9


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    path = saved(tmp_path, plain(), **{"modelspec.title": "cats"})
    script = """
import sys
from sdtune.cli.app import main
code = main(["lora", "inspect", sys.argv[1], "--metadata"])
print(code, sorted(set(sys.argv[2].split(",")) & set(sys.modules)), file=sys.stderr)
print("sdtune.config" in sys.modules, "sdtune.tables" in sys.modules, file=sys.stderr)
"""
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(path), ",".join(HEAVY)], capture_output=True, text=True
    )
    assert told.stderr.splitlines() == ["0 []", "False False"]
    assert "rank 4, alpha 2" in told.stdout


def test_a_run_folder_stands_for_its_lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "cats-1"
    run.mkdir()
    saved(run, plain())
    assert inspected(run).path == run / "cats.safetensors"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert inspected(Path("~/cats-1")).path == run / "cats.safetensors"
    with pytest.raises(LoraError, match=r"no \.safetensors in this folder"):
        inspected(tmp_path)
    with pytest.raises(LoraError, match=r"nowhere: no such LoRA file or run folder; check its name"):
        inspected(tmp_path / "nowhere")


def test_all_metadata_is_told_where_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, plain(), anything="x")
    assert inspected(path).metadata == {}
    assert inspected(path, metadata=True).metadata == {"anything": "x"} | WORDS


def test_words_that_are_bundled_are_named(tmp_path: Path) -> None:
    told = inspected(saved(tmp_path, plain() | {"bundle_emb.ohwx.string_to_param.*": torch.ones(2, 768)}))
    assert told.embeddings == ("ohwx",)


# ---- what a user should know


def problems(path: Path, **more: Any) -> str:
    return "\n".join(inspected(path, **more).problems)


def test_of_a_good_file_there_is_nothing_to_know(tmp_path: Path) -> None:
    for family in ("sd1", "sdxl", "sd3"):
        path = tmp_path / f"{family}.safetensors"
        lora = trained(family)[0]
        lora_file.write(path, Lora(lora.modules, family, WORDS), dtype="fp32")
        assert problems(path, weights=True) == ""


PEFT = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
AB = {f"{PEFT}.lora_A.weight": torch.ones(4, 768), f"{PEFT}.lora_B.weight": torch.ones(8, 4)}
SD3 = "transformer.transformer_blocks.0.attn.to_k"


@pytest.mark.parametrize(
    ("tensors", "metadata", "told"),
    [
        (plain(alpha=None), {}, "no alpha is given"),
        (plain() | plain(NAME.replace("to_k", "to_v"), alpha=None), {}, "1 of 2 modules have no alpha"),
        (plain(alpha=0.0), {}, "alpha is 0 in 1 module; nothing is added there"),
        (plain(), {"modelspec.trigger_phrase": ""}, "no trigger phrase is named; ask where"),
        (
            plain(),
            {"modelspec.trigger_phrase": "", "ss_tag_frequency": json.dumps({"a": {"cat": 2, "ohwx": 3}})},
            "most captions had: sdtune lora convert {path} --trigger ohwx --out cats-new.safetensors",
        ),
        (plain() | {f"{NAME}.dora_scale": torch.ones(8, 1)}, {}, "a DoRA: diffusers leaves its magnitudes out"),
        (AB, {}, "A1111, Forge and ComfyUI do not load all of its form, diffusers; to write kohya's: sdtune"),
        (
            {f"{SD3}.{end}": value for end, value in zip(("lora_A.weight", "lora_B.weight"), AB.values(), strict=True)}
            | {f"{SD3}.alpha": torch.tensor(2.0)},
            {},
            "alpha is not the rank in 1 module, and ComfyUI or diffusers takes the rank; to put",
        ),
        (plain("lora_unet_transformer_blocks_0_attn_to_k", width=1536), {}, "diffusers does not load kohya"),
        (plain(width=1280), {}, "nothing in it tells Stable Diffusion 1.x from 2.x"),
        (plain(), {"ss_base_model_version": "sdxl_base_v1-0"}, "says Stable Diffusion XL, but its weights are for"),
        (plain(), {"sshs_model_hash": OF_NOTHING}, "its sshs_model_hash is that of an empty file"),
        (
            {f"{NAME}.hada_w{n}_a": torch.ones(8, 4) for n in (1, 2)}
            | {f"{NAME}.hada_w{n}_b": torch.ones(4, 768) for n in (1, 2)},
            {},
            "diffusers does not; to make a plain LoRA of it: sdtune lora resize",
        ),
        (plain() | {"lora_unet_conv_norm_out.w_norm": torch.ones(8)}, {}, "whole weights are changed"),
        (
            {f"lora_te1_text_model_encoder_layers_0_{path}.lora_{end}.weight": torch.ones(*shape)
             for path in ("self_attn_q_proj", "mlp_fc1") for end, shape in (("down", (4, 768)), ("up", (768, 4)))},
            {},
            "without an out_proj of the text_encoder diffusers leaves all its attention out; for diffusers: "
            "sdtune lora convert {path} --form peft",
        ),
        (plain() | {"bundle_emb.ohwx.string_to_param.*": torch.ones(2, 768)}, {}, "new words are bundled"),
    ],
)  # fmt: skip
def test_each_problem_is_told_with_its_remedy(
    tensors: dict[str, Tensor], metadata: dict[str, str], told: str, tmp_path: Path
) -> None:
    if told.startswith("nothing in it"):
        tensors = {key.replace("attn2", "attn1"): value for key, value in tensors.items()}
    path = saved(tmp_path, tensors, **metadata)
    found = problems(path)
    assert told.format(path=path) in found
    for line in found.splitlines():
        what, _, remedy = line.partition("; ")
        assert remedy or ", so that" in what
        assert len(line.partition("; ")[0]) <= 90


# ---- by the weights


def weighed(tmp_path: Path, modules: dict[str, tuple[Tensor, Tensor]]) -> Inspected:
    lora = Lora({f"unet.{name}": LoraModule(*pair, len(pair[0])) for name, pair in modules.items()}, "sd1", WORDS)
    lora_file.write(tmp_path / "cats.safetensors", lora, dtype="fp32")
    return inspected(tmp_path / "cats.safetensors", weights=True)


def test_norms_and_singular_values_are_those_of_the_updates(family_name: str, tmp_path: Path) -> None:
    lora = trained(family_name)[0]
    lora_file.write(tmp_path / "cats.safetensors", lora, dtype="fp32")
    told = inspected(tmp_path / "cats.safetensors", weights=True)
    deltas = [module.delta().double() for module in lora_file.read(told.path).modules.values()]
    whole = sum(block.norm**2 for block in told.blocks if block.norm) ** 0.5
    assert whole == pytest.approx(torch.cat([delta.flatten() for delta in deltas]).norm().item(), rel=1e-5)
    largest = max(block.largest for block in told.blocks if block.largest)
    assert largest == pytest.approx(max(float(torch.linalg.svdvals(delta)[0]) for delta in deltas), rel=1e-5)
    assert all(1 <= (block.effective or 0) <= 4 for block in told.blocks)


@pytest.mark.parametrize(("values", "effective"), [((1, 1, 1, 1), 4.0), ((5, 0, 0, 0), 1.0), ((3, 3, 0, 0), 2.0)])
def test_the_effective_rank_counts_directions(values: tuple[float, ...], effective: float, tmp_path: Path) -> None:
    down = torch.eye(4, 32)
    told = weighed(tmp_path, {"mid_block.attentions.0.proj_in": (down, torch.eye(32, 4) * torch.tensor(values))})
    (block,) = told.blocks
    assert block.effective == pytest.approx(effective, rel=1e-6)
    assert block.largest == pytest.approx(max(values))


def test_dead_and_exploding_modules_are_named(tmp_path: Path) -> None:
    """By the size of an update's numbers, of which a large layer has no larger ones."""
    down, up = torch.ones(4, 32), torch.ones(32, 4)
    usual = {f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_{one}": (down, up) for one in "qkv"}
    told = weighed(
        tmp_path,
        usual
        | {
            "mid_block.attentions.0.proj_in": (down, 0 * up),
            "mid_block.attentions.0.proj_out": (down, 19 * up),
            "up_blocks.1.attentions.0.proj_in": (down, 21 * up),
            "up_blocks.1.attentions.0.proj_out": (torch.ones(4, 3200), torch.ones(3200, 4)),
        },
    )
    blocks = {block.block: block for block in told.blocks}
    assert blocks["mid_block"].dead == ("unet.mid_block.attentions.0.proj_in",)
    assert blocks["up_blocks.1.attentions"].exploding == ("unet.up_blocks.1.attentions.0.proj_in",)
    assert sum(len(block.dead) + len(block.exploding) for block in told.blocks) == 2
    text = "\n".join(told.problems)
    assert "1 of 7 modules add nothing (unet.mid_block.attentions.0.proj_in)" in text
    assert "1 module changes its weights over 20 times as strongly as the median does" in text


def test_hashes_are_those_that_sites_look_for(tmp_path: Path) -> None:
    path = saved(tmp_path, plain(), sshs_model_hash="0" * 64, **{"modelspec.hash_sha256": "0x" + "1" * 64})
    data = path.read_bytes()
    behind = hashlib.sha256(data[8 + struct.unpack("<Q", data[:8])[0] :]).hexdigest()
    told = inspected(path, weights=True)
    assert told.hashes["AutoV2"] == hashlib.sha256(data).hexdigest()[:10].upper()
    assert told.hashes["AutoV3"] == behind[:12].upper()
    (wrong,) = told.problems
    assert wrong.startswith("the file was changed after it was made, since sshs_model_hash and modelspec.hash_sha256 ")
    assert told.hash_holds is False
    assert inspected(path).problems == ()  # which only the weights can tell
    assert inspected(path).hash_holds is None
    held = saved(tmp_path, plain(), sshs_model_hash=behind, **{"modelspec.hash_sha256": f"0x{behind}"})
    assert (inspected(held, weights=True).problems, inspected(held, weights=True).hash_holds) == ((), True)
    half = saved(tmp_path, plain(), sshs_model_hash=behind, **{"modelspec.hash_sha256": "1" * 64})
    assert "since modelspec.hash_sha256 tell" in "".join(inspected(half, weights=True).problems)
    assert inspected(saved(tmp_path, plain()), weights=True).hash_holds is None
    empty = inspected(saved(tmp_path, plain(), sshs_model_hash=OF_NOTHING), weights=True)
    assert (empty.hash_holds, len(empty.problems)) == (False, 1)


def test_what_depends_on_the_base_has_no_norm(tmp_path: Path) -> None:
    path = saved(tmp_path, plain() | {f"{NAME}.dora_scale": torch.ones(8, 1)})
    told = inspected(path, weights=True)
    assert [block.norm for block in told.blocks] == [None]
    assert "depends on the model's weights" in told.problems[-1]


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    tensors = plain()
    tensors[f"{NAME}.lora_up.weight"][0, 0] = float("nan")
    path = saved(tmp_path, tensors)
    assert inspected(path).modules == 1
    with pytest.raises(LoraError, match="no numbers"):
        inspected(path, weights=True)


# ---- metadata in words


KOHYA = {
    "ss_sd_model_name": "C:\\models\\v1-5.safetensors",
    "ss_base_model_version": "sd_v1",
    "ss_steps": "800",
    "ss_epoch": "10",
    "ss_num_train_images": "20",
    "ss_num_reg_images": "0",
    "ss_total_batch_size": "2",
    "ss_learning_rate": "0.0001",
    "ss_text_encoder_lr": "5e-05",
    "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1)",
    "ss_lr_scheduler": "cosine",
    "ss_resolution": "(512, 768)",
    "ss_network_module": "lycoris.kohya",
    "ss_network_args": '{"algo": "loha"}',
    "ss_clip_skip": "None",
    "ss_seed": "3",
    "ss_training_finished_at": "1700000000.5",
    "ss_v_parameterization": "True",
}


def test_the_training_is_told_in_words(tmp_path: Path) -> None:
    assert inspected(saved(tmp_path, plain(), **KOHYA)).trained == {
        "base model": "v1-5.safetensors",
        "base version": "sd_v1",
        "steps": "800 (10 epochs)",
        "images": "20",
        "batch size": "2",
        "learning rate": "0.0001, of the text encoder 5e-05",
        "optimizer": "AdamW8bit (weight_decay=0.1)",
        "schedule": "cosine",
        "resolution": "512 x 768",
        "network": "lycoris.kohya (loha)",
        "predicts": "v",
        "seed": "3",
        "date": "2023-11-14",
    }


@pytest.mark.parametrize("name", [*KOHYA, "ss_tag_frequency", "training_info", "software", "modelspec.title"])
@pytest.mark.parametrize("value", ["", "[" * 10000, "1e999", '{"a": NaN}', "\x1b[31m", '{"step": [1]}', "()" * 999])
def test_metadata_of_any_kind_ends_in_words(name: str, value: str, tmp_path: Path) -> None:
    told = inspected(saved(tmp_path, plain(), **(KOHYA | {name: value})))
    assert all(isinstance(text, str) and len(text) < 500 for text in told.trained.values())
    assert told.title


def test_a_title_is_always_there(tmp_path: Path) -> None:
    assert inspected(saved(tmp_path, plain())).title == "cats"
    assert inspected(saved(tmp_path, plain(), ss_output_name="b")).title == "b"
    assert inspected(saved(tmp_path, plain(), ss_output_name="b", **{"modelspec.title": "c"})).title == "c"


def test_the_next_command_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "my cats; rm"
    folder.mkdir()
    told = inspected(saved(folder, plain()))
    assert re.fullmatch(r"sdtune lora inspect '.*/my cats; rm/cats.safetensors' --weights", told.try_next)
    assert inspected(told.path, weights=True).try_next.startswith("sdtune sample --prompt ohwx --lora '")
    assert inspected(told.path, weights=True).try_next.endswith(" --model sd15")
    assert os.path.isabs(told.path)


def test_the_next_command_draws_with_the_model_of_the_training(tmp_path: Path) -> None:
    path = saved(tmp_path, plain(), ss_sd_model_name="mini")
    assert inspected(path, weights=True).try_next.endswith("cats.safetensors --model mini")
    (tmp_path / "run.toml").touch()  # of which sample takes the model
    assert inspected(path, weights=True).try_next.endswith("cats.safetensors")


def test_the_next_command_draws_what_most_captions_had(tmp_path: Path) -> None:
    tags = json.dumps({"a": {"a cat": 2, "ohwx style": 3}})
    path = saved(tmp_path, plain(), ss_tag_frequency=tags, **{"modelspec.trigger_phrase": ""})
    assert inspected(path, weights=True).try_next.startswith("sdtune sample --prompt 'ohwx style' --lora ")


def test_a_program_is_named_only_where_it_made_the_file(tmp_path: Path) -> None:
    """modelspec.implementation is whose layout it has; kohya's plain network is what `network` says anyway."""
    told = saved(tmp_path, plain(), ss_network_module="networks.lora", **{"modelspec.implementation": "diffusers"})
    assert inspected(told).trained == {}
    kohya = saved(tmp_path, plain(), ss_sd_scripts_commit_hash="abc", ss_network_module="networks.oft")
    assert inspected(kohya).trained == {"network": "networks.oft", "made by": "sd-scripts"}
