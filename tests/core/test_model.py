"""Base models: told apart, loaded whole, or refused in one line that says what, where and what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from sdtune.core.families import families
from sdtune.core.model import SHORT_NAMES, Identity, denoiser_config, identify, load, load_denoiser
from sdtune.core.model_folder import _first_sentence
from sdtune.errors import ModelError
from tests import original, tiny
from tests.core.test_quantised import scaled_file

UNET = "unet/diffusion_pytorch_model.safetensors"


def same_weights(loaded: Any, expected: Any) -> None:
    for name, part in expected.components.items():
        if isinstance(part, torch.nn.Module):
            mine, theirs = getattr(loaded, name).state_dict(), part.state_dict()
            assert mine.keys() == theirs.keys()
            for key, value in theirs.items():
                assert torch.equal(mine[key], value), f"{name}.{key}"


@pytest.fixture
def sd1(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny SD1 to be spoilt."""
    return Path(shutil.copytree(tiny_models["sd1"], tmp_path / "model"))


def rewrite(file: Path, **changes: Any) -> None:
    """Entries of a JSON file changed, or dropped where they are None."""
    told = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))


# ---- folders


def test_folders_of_every_family_are_told_apart_and_load_whole(family_name: str, tiny_models: dict[str, Path]) -> None:
    identity = identify(str(tiny_models[family_name]))
    assert (identity.family, identity.source, identity.name) == (family_name, "folder", family_name)
    pipe = load(identity, torch.float32)
    same_weights(pipe, tiny.pipeline(family_name))
    assert type(pipe).__name__ == families()[family_name].pipeline
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert not any(part.training or any(weight.requires_grad for weight in part.parameters()) for part in parts)


def test_the_vae_stays_in_float32(family_name: str, tiny_models: dict[str, Path]) -> None:
    pipe = load(identify(str(tiny_models[family_name])), torch.bfloat16)
    assert pipe.vae.dtype == torch.float32
    assert getattr(pipe, families()[family_name].denoiser).dtype == pipe.text_encoder.dtype == torch.bfloat16


# ---- by parts


def in_parts(identity: Identity, expected: Any) -> None:
    """What loads without the denoiser, and the denoiser alone, are together the whole model."""
    family = families()[identity.family]
    denoiser = getattr(expected, family.denoiser)
    pipe = load(identity, torch.float32, "cpu", without=(family.denoiser,))
    assert all(weight.is_meta for weight in getattr(pipe, family.denoiser).parameters())
    told, all_told = (family.encode_captions(one, ["a red apple"]) for one in (pipe, load(identity, torch.float32)))
    assert all(torch.equal(told[name], value) for name, value in all_told.items())
    net = load_denoiser(identity, torch.float32)
    assert not net.training
    assert not any(weight.requires_grad for weight in net.parameters())
    early = denoiser_config(identity)
    assert {**early} | {"_name_or_path": None} == {**net.config} | {"_name_or_path": None}
    assert early.in_channels == denoiser.config.in_channels
    setattr(pipe, family.denoiser, net)
    same_weights(pipe, expected)


def test_folders_of_every_family_load_by_parts(family_name: str, tiny_models: dict[str, Path]) -> None:
    identity = identify(str(tiny_models[family_name]))
    in_parts(identity, tiny.pipeline(family_name))
    net = load_denoiser(identity, torch.bfloat16)
    assert {weight.dtype for weight in net.parameters()} == {torch.bfloat16}


def test_a_part_that_is_left_out_is_not_opened(sd1: Path) -> None:
    identity = identify(str(sd1))
    encoder = sd1 / "text_encoder/model.safetensors"
    (sd1 / UNET).rename(sd1 / "unet/away")
    pipe = load(identity, torch.float32, without=("unet",))
    expected = tiny.pipeline("sd1").text_encoder.state_dict()
    assert all(torch.equal(pipe.text_encoder.state_dict()[key], value) for key, value in expected.items())
    for loads in (lambda: load_denoiser(identity, torch.float32), lambda: denoiser_config(identity)):
        with pytest.raises(ModelError, match="unet has no weights; get unet/"):
            loads()
    (sd1 / "unet/away").rename(sd1 / UNET)
    encoder.unlink()
    assert torch.equal(
        load_denoiser(identity, torch.float32).state_dict()["conv_in.weight"], tiny.pipeline("sd1").unet.conv_in.weight
    )
    bare = load(identity, torch.float32, without=("unet", "vae", "text_encoder"))
    assert (bare.vae, bare.text_encoder) == (None, None)
    assert bare.tokenizer is not None


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_denoiser_alone_is_checked_like_the_whole(form: str, sd1: Path) -> None:
    spoilt = tiny.pipeline("sd1")
    spoilt.unet.conv_in.bias.data[0] = float("nan")
    path = original.save(spoilt, "sd1", sd1 / "one.safetensors")
    spoilt.unet.save_pretrained(sd1 / "unet")
    identity = identify(str(path if form == "file" else sd1))
    load(identity, torch.float32, without=("unet",))
    with pytest.raises(ModelError, match=r"weights of its unet are no numbers \(conv_in\.bias\); download it again"):
        load_denoiser(identity, torch.float32)


def test_a_config_of_old_is_read_as_diffusers_reads_it(sd1: Path) -> None:
    rewrite(sd1 / "unet/config.json", sample_size=32, _diffusers_version="0.6.0.dev0")
    identity = identify(str(sd1))
    assert load(identity, torch.float32).unet.config.sample_size == 64
    assert denoiser_config(identity).sample_size == load_denoiser(identity, torch.float32).config.sample_size == 64


# ---- inpainting


@pytest.mark.parametrize("pipeline", ["", "Inpaint", "Img2Img"])
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_folders_with_nine_channels_in_are_inpainting_models(name: str, pipeline: str, tmp_path: Path) -> None:
    expected = tiny.inpainting_pipeline(name)
    folder = tiny.saved_pipeline(expected, tmp_path / "model")
    assert "InpaintPipeline" in json.loads((folder / "model_index.json").read_text())["_class_name"]
    kind = families()[name].pipeline.replace("Pipeline", f"{pipeline}Pipeline")
    rewrite(folder / "model_index.json", _class_name=kind)
    identity = identify(str(folder))
    assert (identity.family, identity.inpainting) == (name, True)
    pipe = load(identity, torch.float32)
    same_weights(pipe, expected)
    assert type(pipe).__name__ == families()[name].pipeline
    in_parts(identity, expected)


@pytest.mark.parametrize("around", ["plain", "inpainting"])
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_single_file_has_its_own_channels_in_whatever_the_folder_around_it(
    name: str, around: str, tmp_path: Path
) -> None:
    plain, holes = tiny.pipeline(name, seed=3), tiny.inpainting_pipeline(name, seed=4)
    folder = tiny.saved_pipeline(plain if around == "plain" else holes, tmp_path / "model")
    for expected, inpainting in ((plain, False), (holes, True)):
        identity = identify(str(original.save(expected, name, folder / "one.safetensors")))
        assert (identity.family, identity.inpainting) == (name, inpainting)
        same_weights(load(identity, torch.float32), expected)
        in_parts(identity, expected)


@pytest.mark.parametrize("channels", [5, 7, 8])
def test_u_nets_that_see_other_things_are_refused(channels: int, sd1: Path) -> None:
    rewrite(sd1 / "unet/config.json", in_channels=channels)
    with pytest.raises(ModelError, match=rf"a model that .* \({channels} channels in\); train on its base model"):
        identify(str(sd1))


# ---- text encoders


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3"])
def test_text_encoders_load_with_and_without_the_prefix_of_old(
    name: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_models[name], tmp_path / "model"))
    for file in folder.glob("text_encoder*/model.safetensors"):
        weights = load_file(file)
        assert all(key.startswith(("text_model.", "text_projection")) for key in weights)
        if "text_projection.weight" not in weights:  # with a projection the model still has the prefix itself
            save_file(
                {key.removeprefix("text_model."): value for key, value in weights.items()}, file, {"format": "pt"}
            )
    same_weights(load(identify(str(folder)), torch.float32), tiny.pipeline(name))


def test_identify_needs_no_torch_and_loading_is_silent(tiny_models: dict[str, Path]) -> None:
    script = f"""
import sys
from sdtune.core.model import identify, load
identity = identify({str(tiny_models["sdxl"])!r}), identify("sd15")
assert not {{"torch", "diffusers", "transformers"}} & sys.modules.keys()
import torch
load(identity[0], torch.float32)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


def test_sd3_without_t5s_folder_loads_without_t5(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_models["sd3"], tmp_path / "model"))
    t5 = {"text_encoder_3": ["transformers", "T5EncoderModel"], "tokenizer_3": ["transformers", "T5TokenizerFast"]}
    rewrite(folder / "model_index.json", **t5)
    pipe = load(identify(str(folder)), torch.float32)
    assert pipe.text_encoder_3 is None
    assert pipe.tokenizer_3 is None


def spoil(folder: Path, how: str) -> None:
    """One thing wrong with a folder of SD1."""
    index, config, weights = folder / "model_index.json", folder / "unet/config.json", folder / UNET
    if how == "class":
        rewrite(index, _class_name="StableDiffusionXLPipeline")
    elif how == "no index":
        index.unlink()
    elif how == "single":
        index.rename(folder / "some.safetensors")
    elif how == "run":
        index.rename(folder / "run.toml")
        (folder / "cats.safetensors").touch()
    elif how == "no denoiser":
        rewrite(index, unet=None)
    elif how == "no config":
        config.unlink()
    elif how == "not json":
        config.write_text("{")
    elif how == "list":
        index.write_text("[]")
    elif how == "stranger":
        rewrite(config, _class_name="UNet1DModel")
    elif how == "editing":
        rewrite(config, in_channels=8)
    elif how == "refiner":
        rewrite(config, cross_attention_dim=1280)
    elif how == "no weights":
        weights.unlink()
    elif how == "pickle":
        weights.rename(weights.with_suffix(".bin"))
    elif how == "short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "text":
        weights.write_text("hello")
    elif how in ("unet key", "text key"):
        file = weights if how == "unet key" else folder / "text_encoder/model.safetensors"
        kept = load_file(file)
        del kept[sorted(kept)[0]]
        save_file(kept, file, {"format": "pt"})
    elif how == "shape":
        rewrite(config, block_out_channels=[64, 64])
    elif how == "code":
        rewrite(index, vae=["my_vae", "MyVAE"])
    elif how == "text shape":
        rewrite(folder / "text_encoder/config.json", hidden_size=64)
    elif how == "vae blocks":
        rewrite(folder / "vae/config.json", block_out_channels=[64])
    elif how in ("scheduler for vae", "unknown vae"):
        rewrite(index, vae=["diffusers", "DDIMScheduler" if how == "scheduler for vae" else "AutoencoderOfMine"])
    elif how == "vae for scheduler":
        rewrite(index, scheduler=["diffusers", "AutoencoderKL"])
    elif how == "model for tokenizer":
        rewrite(index, tokenizer=["transformers", "CLIPTextModel"])
    elif how == "nameless tokenizer":
        rewrite(index, tokenizer=None)
    elif how in ("no tokenizer", "no scheduler"):
        shutil.rmtree(folder / how.removeprefix("no "))


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        (
            "class",
            "model_index.json says StableDiffusionXLPipeline, but its unet is that of Stable Diffusion 1.x; mend",
        ),
        ("no index", "no model_index.json; a model folder has"),
        ("single", "some.safetensors"),
        ("run", "a run, whose LoRA is no base model; give the model that it was trained on"),
        ("no denoiser", "names no unet or transformer"),
        ("no config", "unet/config.json is missing; download"),
        ("not json", "not a config in JSON; download"),
        ("list", "not a config in JSON; download"),
        ("stranger", "its unet is of no family that sdtune trains (Stable Diffusion 1.x, "),
        ("editing", "a model that edits by instructions (8 channels in); train"),
        ("refiner", "the SDXL refiner"),
    ],
)
def test_folders_refused_at_sight(how: str, problem: str, sd1: Path) -> None:
    spoil(sd1, how)
    with pytest.raises(ModelError) as told:
        identify(str(sd1))
    assert problem in str(told.value)
    assert str(sd1) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("no weights", "unet has no weights; get unet/*.safetensors"),
        ("pickle", "only a pickle (diffusion_pytorch_model.bin), which can run any code; get unet/*.safetensors"),
        ("short", "download it again"),
        ("text", "not a safetensors file"),
        ("unet key", "unet: a weight is missing (conv_in.bias); download it again"),
        ("text key", "text_encoder: a weight is missing"),
        ("shape", "but got torch.Size([32])); its configs and weights do not fit each other, so download it again"),
        ("text shape", "weight has shape (77, 32), by the config (77, 64)); its configs and weights do not fit each"),
        ("vae blocks", "vae: cannot be loaded; its configs and weights do not fit each other"),
        ("scheduler for vae", "vae is of class DDIMScheduler, not an autoencoder; mend model_index.json, or"),
        ("unknown vae", "vae is of class AutoencoderOfMine, which diffusers does not have; mend"),
        ("vae for scheduler", "scheduler is of class AutoencoderKL, not a scheduler; mend"),
        ("model for tokenizer", "tokenizer is of class CLIPTextModel, not a tokenizer of CLIP; mend"),
        ("nameless tokenizer", "model_index.json names no tokenizer; mend"),
        ("code", "vae needs code of its own (my_vae.MyVAE), which sdtune does not run"),
        ("no tokenizer", "tokenizer has no vocabulary; get tokenizer/*"),
        ("no scheduler", "scheduler/scheduler_config.json is missing"),
    ],
)
def test_folders_refused_at_loading(how: str, problem: str, sd1: Path) -> None:
    spoil(sd1, how)
    with pytest.raises(ModelError) as told:
        load(identify(str(sd1)), torch.float32)
    assert problem in str(told.value)
    assert str(sd1) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_no_numbers(part: str, value: float, sd1: Path) -> None:
    (file,) = (sd1 / part).glob("*.safetensors")
    weights = load_file(file)
    key = min(key for key, weight in weights.items() if weight.is_floating_point())
    weights[key].view(-1)[-1] = value
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match=f"{sd1}: weights of its {part} are no numbers .*; download it again"):
        load(identify(str(sd1)), torch.bfloat16)


def test_what_a_library_says_is_cut_where_a_sentence_or_a_word_ends() -> None:
    assert _first_sentence("A\n  is 1.5 of b. For details look at the above report!") == "A is 1.5 of b"
    assert _first_sentence("Raised! See below.") == "Raised"
    assert _first_sentence("word " * 100).endswith("word word ...")


# ---- names


def test_short_names_are_known_without_a_look() -> None:
    assert {"mini", "sd15", "sd21", "sdxl", "sd35-medium"} <= SHORT_NAMES.keys()
    assert (identify("sd15").source, identify("sd15").family) == ("hub", "sd1")
    assert identify("sd35-medium").family == "sd3"
    assert identify("sd21").location == SHORT_NAMES["sd21"]


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("minni", "minni: no such folder or file; did you mean mini?"),
        ("SDXL", "did you mean sdxl?"),
        ("sd-15", "did you mean sd15?"),
        (
            "cats",
            "cats: no such folder or file; give a folder, a .safetensors file, owner/model on the hub, or one of mini",
        ),
        ("./cats/dogs", "./cats/dogs: no such folder or file"),
        ("a/b/c", "a/b/c: no such folder or file"),
        ("cats/dogs.safetensors", "no such folder or file"),
        (
            "cats.ckpt",
            "cats.ckpt: .ckpt is a pickle; pickles can run any code when opened, so sdtune reads none; get or",
        ),
        ("cats.pth", ".pth is a pickle"),
        ("a b/c", "a b/c: no such folder or file, and no name that the hub could have; give a folder, a .safetensors"),
        ("[bold]/x", "no name that the hub could have"),
        ("a/" + "b" * 300, "no name that the hub could have"),
        ("b" * 300 + "/a", "no name that the hub could have"),
        ("a/b.git", "no name that the hub could have"),
        ("a/b@../c", "no name that the hub could have"),
        ("a\nb/c", "'a\\nb/c': no such folder or file"),
        ("b" * 5000, "...: no such folder or file"),
        ("~nobody-of-this-name/model", "no such folder or file"),
        ("/dev/zero", "/dev/zero: not a regular file; give"),
        ("/dev/null", "/dev/null: not a regular file; give"),
        (__file__, "test_model.py: not a .safetensors file; give one"),
    ],
)
def test_names_that_stand_for_nothing(model: str, problem: str) -> None:
    with pytest.raises(ModelError) as told:
        identify(model)
    assert problem in str(told.value)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500


def test_a_path_within_a_local_folder_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="models/sdlx: no such folder or file"):
        identify("models/sdlx")


# ---- single files


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_single_files_load_whole_with_the_configs_of_a_folder_around_them(
    name: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_models[name], tmp_path / "model"))
    other = tiny.pipeline(name, seed=7)
    path = original.save(other, name, folder / "other.safetensors")
    identity = identify(str(path))
    assert (identity.name, identity.source, identity.family) == ("other", "file", name)
    pipe = load(identity, torch.float32)
    same_weights(pipe, other)
    in_parts(identity, other)
    assert pipe.scheduler.config.prediction_type == ("v_prediction" if name == "sd2" else "epsilon")
    half = load(identity, torch.bfloat16)
    assert (half.vae.dtype, half.unet.dtype) == (torch.float32, torch.bfloat16)


def test_single_files_of_v_models_say_so(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_models["sdxl"], tmp_path / "model"))
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    path = original.save(tiny.pipeline("sdxl"), "sdxl", folder / "v.safetensors", **marks)
    pipe = load(identify(str(path)), torch.float32)
    process = families()["sdxl"].process(pipe)
    assert process.prediction == "v"
    assert process.alphas_cumprod is not None
    assert process.alphas_cumprod[-1] < 1e-6
    original.save(tiny.pipeline("sdxl"), "sdxl", path, {"modelspec.prediction_type": "v"})
    assert identify(str(path)).prediction == "v_prediction"


@pytest.mark.usefixtures("empty_cache")
def test_a_single_file_without_configs_says_which_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    path = original.save(tiny.pipeline("sd1"), "sd1", tmp_path / "one.safetensors")
    with pytest.raises(ModelError) as told:
        load(identify(str(path)), torch.float32)
    needed = (
        f"{path}: single files need their family's configs and tokenizer; {SHORT_NAMES['sd15']} is not on this machine"
    )
    assert str(told.value).startswith(needed)
    assert "put the file into a model folder of Stable Diffusion 1.x" in str(told.value)


def test_a_single_file_takes_configs_of_its_family_from_the_cache(
    tmp_path: Path, tiny_models: dict[str, Path], empty_cache: Path
) -> None:
    snapshot = in_cache(empty_cache, SHORT_NAMES["sdxl"], tiny_models["sdxl"])
    for weights in snapshot.glob("*/*.safetensors"):
        weights.unlink()
    other = tiny.pipeline("sdxl", seed=3)
    path = original.save(other, "sdxl", tmp_path / "one.safetensors")
    same_weights(load(identify(str(path)), torch.float32), other)


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
def test_a_single_file_with_scales_beside_its_weights_is_refused(name: str, tmp_path: Path) -> None:
    """The libraries would read the weights without them, and draw noise."""
    identity, _ = scaled_file(tmp_path / "one.safetensors", name, rows=False)
    for read in (lambda: load(identity, torch.float32), lambda: denoiser_config(identity)):
        with pytest.raises(
            ModelError, match=r"one\.safetensors: its weights are packed \(F8_E4M3 with scales\).*merge"
        ):
            read()


def test_single_files_whose_weights_are_not_all_there(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_models["sd1"], tmp_path / "model"))
    path = original.save(tiny.pipeline("sd1"), "sd1", folder / "one.safetensors")
    weights = load_file(path)
    del weights["model.diffusion_model.middle_block.1.proj_in.weight"]
    save_file(weights, path)
    with pytest.raises(ModelError, match=r"one\.safetensors"):
        load(identify(str(path)), torch.float32)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            ["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"],
            "a LoRA, not a base model; give the model that it was made for",
        ),
        (["unet.mid_block.attentions.0.proj_in.lora_A.weight"], "a LoRA, not a base model"),
        (["first_stage_model.encoder.conv_in.weight"], "a VAE alone, not a whole model"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.weight"], "a VAE alone"),
        (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        (["emb_params"], "a textual inversion"),
        (["down_blocks.0.resnets.0.conv1.weight"], "a denoiser alone in diffusers' layout; give the folder"),
        (["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"], "of no family that sdtune trains"),
    ],
)
def test_files_that_are_no_base_model(keys: list[str], problem: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({key: torch.ones(4, 4) for key in keys}, path)
    with pytest.raises(ModelError) as told:
        identify(str(path))
    assert str(told.value).startswith(f"{path}: {problem}")


def test_single_files_of_kinds_that_cannot_be_trained(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    entrance, proj_in = (
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.input_blocks.1.1.proj_in.weight",
    )
    save_file({entrance: torch.ones(4, 8, 3, 3), proj_in: torch.ones(4, 4, 1, 1)}, path)
    with pytest.raises(ModelError, match="a model that edits by instructions"):
        identify(str(path))
    refiner = ("model.diffusion_model.label_emb.0.0.weight", "conditioner.embedders.0.model.ln_final.weight")
    save_file({key: torch.ones(4, 4) for key in refiner}, path)
    with pytest.raises(ModelError, match="the SDXL refiner"):
        identify(str(path))


def test_text_under_the_name_of_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://example.invalid/pointer")
    with pytest.raises(ModelError, match=r"model\.safetensors: not a safetensors file"):
        identify(str(path))


# ---- the hub


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache on this machine, empty."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return cache


def in_cache(cache: Path, name: str, folder: Path, revision: str = "main") -> Path:
    """A model's folder put into the hub's cache."""
    repository, sha = cache / f"models--{name.replace('/', '--')}", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / revision).write_text(sha)
    return Path(shutil.copytree(folder, repository / "snapshots" / sha))


@pytest.mark.parametrize("revision", ["main", "v2"])
def test_models_in_the_cache_need_no_network(
    revision: str, empty_cache: Path, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cache(empty_cache, "someone/drawings", tiny_models["sdxl"], revision)
    monkeypatch.setattr("sdtune.core.hub.fetch", lambda *_: pytest.fail("the network was asked"))
    identity = identify("someone/drawings" + ("" if revision == "main" else f"@{revision}"))
    assert (identity.family, identity.source) == ("sdxl", "hub")
    same_weights(load(identity, torch.float32), tiny.pipeline("sdxl"))


def test_a_cached_model_of_which_only_half_precision_is_there(
    empty_cache: Path, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = in_cache(empty_cache, "someone/drawings", tiny_models["sd1"])
    for file in snapshot.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    monkeypatch.setattr("sdtune.core.hub.fetch", lambda *_: pytest.fail("the network was asked"))
    same_weights(load(identify("someone/drawings"), torch.float32), tiny.pipeline("sd1"))
    in_parts(identify("someone/drawings"), tiny.pipeline("sd1"))


@pytest.mark.usefixtures("empty_cache")
def test_inpainting_models_in_the_cache(empty_cache: Path, tmp_path: Path) -> None:
    folder = tiny.saved_pipeline(tiny.inpainting_pipeline("sd1"), tmp_path / "model")
    in_cache(empty_cache, "someone/holes", folder)
    assert identify("someone/holes").inpainting
    in_parts(identify("someone/holes"), tiny.inpainting_pipeline("sd1"))


@pytest.mark.parametrize("what", ["identify", "load"])
@pytest.mark.usefixtures("empty_cache")
def test_without_a_network_it_is_said_at_once(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens at the discard port
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    started = time.monotonic()
    with pytest.raises(ModelError) as told:
        identify("someone/drawings") if what == "identify" else load(identify("sd15"), torch.float32)
    assert time.monotonic() - started < 5
    name = "someone/drawings" if what == "identify" else SHORT_NAMES["sd15"]
    assert str(told.value) == (
        f"{name} is not on this machine and 127.0.0.1 cannot be reached; download it once with a network, "
        "or give a local folder or .safetensors file, or use --model mini"
    )


@pytest.mark.usefixtures("empty_cache")
def test_a_proxy_is_what_must_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"hub\.invalid \(through the proxy 127\.0\.0\.1\) cannot be reached"):
        identify("someone/drawings")


@pytest.mark.usefixtures("empty_cache")
def test_offline_by_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set; unset it once, or give a local folder"):
        identify("someone/drawings")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs; someone/secret is gated, someone/drawings is in `folder`."""

    folder: ClassVar[Path]
    asked: ClassVar[list[str]]
    sha = "1" * 40

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if "/secret" in path:
            return self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
        if "/drawings" not in path:
            return self.answer(404, X_Error_Code="RepoNotFound")
        files = [file for file in sorted(self.folder.rglob("*")) if file.is_file()]
        names = {str(file.relative_to(self.folder)): file for file in files}
        if "/resolve/" in path:
            name = path.split("/resolve/")[1].partition("/")[2]
            if name not in names:
                return self.answer(404, X_Error_Code="EntryNotFound")
            body = names[name].read_bytes()
            return self.answer(200, body, ETag=f'"{name}"', X_Repo_Commit=self.sha)
        if "/revision/" in path and "/revision/main" not in path and self.sha not in path:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": name} for name, file in names.items()
            ]
            return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
        told = {"id": "someone/drawings", "sha": self.sha, "siblings": [{"rfilename": name} for name in names]}
        return self.answer(200, json.dumps(told).encode(), Content_Type="application/json")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on this machine."""
    assert not empty_cache.exists()
    Hub.folder, Hub.asked = tmp_path / "hub", []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, place)
    monkeypatch.setattr(constants, "ENDPOINT", place)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_what_is_not_cached_is_fetched_once_and_no_more_than_is_needed(
    variant: str, hub: type[Hub], tiny_models: dict[str, Path]
) -> None:
    shutil.copytree(tiny_models["sd1"], hub.folder)
    for file in hub.folder.glob("*/*.safetensors"):
        file.rename(file.with_suffix(f"{variant}.safetensors"))
    needless = (
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "all.safetensors",
    )
    for name in needless:
        (hub.folder / name).write_bytes(b"")
    identity = identify("someone/drawings")
    assert identity.family == "sd1"
    assert not any(path.endswith("safetensors") for path in hub.asked)
    same_weights(load(identity, torch.float32), tiny.pipeline("sd1"))
    assert not any(path.endswith(needless) for path in hub.asked)
    hub.asked.clear()
    load(identify("someone/drawings"), torch.float32)
    assert not hub.asked


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("someone/secret", "someone/secret is given only to those who accept its licence: accept its licence on the"),
        ("someone/nothing", "someone/nothing: the hub knows no such model; check the spelling"),
        ("someone/drawings@v9", "the model has no revision v9; leave out @v9"),
    ],
)
def test_what_the_hub_does_not_give(name: str, problem: str, hub: type[Hub], tiny_models: dict[str, Path]) -> None:
    shutil.copytree(tiny_models["sd1"], hub.folder)
    with pytest.raises(ModelError) as told:
        identify(name)
    assert problem in str(told.value)
    assert "\n" not in str(told.value)
