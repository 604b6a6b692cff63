"""A merged model is the base with its LoRAs beside it, in every layout, and nothing is left where it is not whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.config import Sample, resolve
from sdtune.core import lora_file
from sdtune.core.adapters import Adapter, LoraModule, adapters
from sdtune.core.adapters.base import flat
from sdtune.core.applied import Applied
from sdtune.core.blocks import Strength
from sdtune.core.families import family_named
from sdtune.core.header import read_header
from sdtune.core.lora import Lora, load_all
from sdtune.core.lora_reports import Merged
from sdtune.core.merge import merge
from sdtune.core.merge_check import prediction_difference
from sdtune.core.model import MINI, identify, load
from sdtune.core.reports import Drawn, Note, Progress, Report, Warned
from sdtune.core.sample import sample
from sdtune.core.weights import Weights, open_weights
from sdtune.errors import LoraError, ModelError, OutputError, SdtuneError
from sdtune.lora_config import Merge
from tests import original, pictures, tiny

RANK, ALPHA = 2, 3.0
LAYERS = (".to_q", ".to_out.0", ".ff.net.0.proj", ".proj_in", ".conv1", ".q_proj", ".fc2", ".attn.to_k", ".linear_1")


def merged(*given: str | Path, out: Path, **told: Any) -> list[Report]:
    return list(merge(resolve(Merge, [{"given": [str(one) for one in given], "out": str(out), **told}])))


def result(reports: Sequence[Report]) -> Merged:
    assert isinstance(reports[-1], Merged)
    return reports[-1]


def weights_of(place: Path) -> Weights:
    return open_weights(identify(str(place)))


def random_lora(base: Path, seed: int = 0, parts: str = "") -> Lora:
    """A LoRA of random A and B for some layers of each kind in each part but the VAE."""
    weights = weights_of(base)
    draws = torch.Generator().manual_seed(seed)
    modules: dict[str, Adapter] = {}
    for name, shape in weights.shapes.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and module.endswith(LAYERS) and not module.startswith("vae.") and module.startswith(parts):
            down = torch.randn(RANK, *shape[1:], generator=draws) * 0.2
            up = torch.randn(shape[0], RANK, *[1] * (len(shape) - 2), generator=draws) * 0.2
            modules[module] = LoraModule(down, up, ALPHA)
    assert len(modules) > 10
    return Lora(modules, weights.family.name)


def written(lora: Lora, path: Path) -> Path:
    lora_file.write(path, lora, dtype="fp32")
    return path


@pytest.fixture(scope="module")
def files(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{family: a LoRA of all of its parts}."""
    root = tmp_path_factory.mktemp("loras")
    return {name: written(random_lora(base), root / f"{name}-style.safetensors") for name, base in tiny_models.items()}


@pytest.fixture(scope="module")
def singles(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{family: its tiny model as one file, in a folder that has its configs}."""
    found = {}
    for name, base in tiny_models.items():
        room = tmp_path_factory.mktemp("single") / name
        shutil.copytree(base, room)
        found[name] = room / "single.safetensors"
        if name == "sd3":
            text = room / "text_encoder" / "model.safetensors"
            one = {
                "text_projection.weight": torch.eye(tiny.WIDTH)
            }  # what diffusers takes it for, as in released models
            save_file(load_file(text) | one, text, {"format": "pt"})
            at_zero = written(random_lora(base), room.parent / "zero.safetensors")
            merged(room, f"{at_zero}:0", out=room.parent / "single.safetensors", verify=False)
            shutil.move(room.parent / "single.safetensors", found[name])
        else:
            original.save(tiny.pipeline(name), name, found[name], {"modelspec.license": "CC0"}, alphas=torch.arange(5))
    return found


def room_for(base: Path, folder: Path, layout: str) -> Path:
    """Where a merged model can be loaded from: a single file has the configs of a folder around it."""
    if layout == "folder":
        return folder / "merged"
    shutil.copytree(base if base.is_dir() else base.parent, folder / "room")
    return folder / "room" / "merged.safetensors"


@pytest.mark.parametrize("layout", ["folder", "file"])
@pytest.mark.parametrize("source", ["folder", "file"])
def test_it_is_the_base_with_the_lora_beside_it(
    family_name: str,
    source: str,
    layout: str,
    tiny_models: dict[str, Path],
    singles: dict[str, Path],
    files: dict[str, Path],
    tmp_path: Path,
) -> None:
    base = (tiny_models if source == "folder" else singles)[family_name]
    out = room_for(base, tmp_path, layout)
    told = result(merged(base, f"{files[family_name]}:0.7", out=out))
    lora = lora_file.read(files[family_name])
    before, after = weights_of(base), weights_of(out)
    assert after.shapes == before.shapes
    assert after.dtypes == before.dtypes
    for name, shape in before.shapes.items():
        adapter = lora.modules.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        was, now = before.read(name), after.read(name)
        if adapter is None:
            assert torch.equal(was, now), name
        else:
            assert not torch.equal(was, now), name
            torch.testing.assert_close(now, was + 0.7 * adapter.delta().reshape(shape), rtol=1e-5, atol=1e-5)
    assert (told.changed, told.layout, told.dtype) == (
        len(lora.modules),
        {"folder": "diffusers", "file": "original"}[layout],
        "fp32",
    )
    assert told.layers < 1e-5
    assert told.denoised is not None
    assert told.denoised < 1e-5
    if not (family_name == "sd3" and (source, layout) == ("folder", "file")):  # see singles
        compare(base, [Applied(files[family_name], lora, Strength(0.7))], out)


def compare(base: Path, applied: list[Applied], out: Path, rounding: float = 1e-5) -> None:
    """The prediction of the merged model as loaded to draw, and that of the base with the LoRAs beside its weights."""
    answers = []
    for place, beside in ((base, applied), (out, []), (base, [])):
        pipe = load(identify(str(place)), torch.float32)
        load_all(pipe, beside)
        family = family_named(identify(str(place)).family)
        net = getattr(pipe, family.denoiser)
        with torch.no_grad():
            told = family.encode_captions(pipe, ["a red apple"])
            size = family.condition_on_size((64, 64), (0, 0), (64, 64))
            noise = torch.randn(1, net.config.out_channels, 8, 8, generator=torch.Generator().manual_seed(4))
            given = told | {name: value[None] for name, value in size.items()}
            answers.append(family.denoise(net, noise, torch.tensor([300.0]), given))
    beside, inside, bare = answers
    assert (inside - beside).abs().max() <= rounding * beside.abs().max()
    assert (bare - beside).abs().max() > 1e-3 * beside.abs().max()


def test_two_are_added_as_they_stack(tiny_models: dict[str, Path], files: dict[str, Path], tmp_path: Path) -> None:
    other = written(random_lora(tiny_models["sd1"], seed=1), tmp_path / "other.safetensors")
    given = [f"{files['sd1']}:0.5", f"{files['sd1']}:0.25", f"{other}:-0.4"]
    merged(tiny_models["sd1"], *given, out=tmp_path / "three", verify=False)
    merged(tiny_models["sd1"], f"{files['sd1']}:0.75", f"{other}:-0.4", out=tmp_path / "two", verify=False)
    both = [weights_of(tmp_path / name) for name in ("three", "two")]
    for name in both[0].shapes:
        torch.testing.assert_close(both[0].read(name), both[1].read(name), rtol=1e-5, atol=1e-5)
    loras = [(files["sd1"], 0.5), (files["sd1"], 0.25), (other, -0.4)]
    applied = [Applied(path, lora_file.read(path), Strength(strength)) for path, strength in loras]
    compare(tiny_models["sd1"], applied, tmp_path / "three")


def test_every_network_changes_the_base_as_if_it_were_alone(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Also where the change depends on the weights: DoRA's and OFT's."""
    base, inside = tiny_models["sd1"], "unet.mid_block.attentions.0.transformer_blocks.0"
    draws = torch.Generator().manual_seed(5)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draws) / 4

    width = tiny.WIDTH
    pair = {"lora_down.weight": numbers(2, width), "lora_up.weight": numbers(width, 2)}
    kernels = {"lora_down.weight": numbers(2, width, 3, 3), "lora_up.weight": numbers(width, 2, 1, 1)}
    hada = {
        f"hada_w{n}_{side}": numbers(*shape) for n in "12" for side, shape in (("a", (width, 2)), ("b", (2, width)))
    }
    told: dict[str, tuple[str, dict[str, torch.Tensor]]] = {
        f"{inside}.attn1.to_q": ("DoRA", pair | {"dora_scale": numbers(1, width).abs() + 0.5}),
        f"{inside}.attn1.to_k": ("LoHa", hada),
        f"{inside}.attn1.to_v": ("LoKr", {"lokr_w1": numbers(4, 4), "lokr_w2": numbers(8, 8)}),
        f"{inside}.attn2.to_q": ("OFT", {"oft_blocks": numbers(4, 8, 8)}),
        f"{inside}.attn2.to_out.0": ("difference", {"diff": numbers(width, width)}),
        f"{inside}.norm1": ("difference", {"w_norm": numbers(width)}),
        "unet.mid_block.resnets.0.conv1": ("DoRA", kernels | {"dora_scale": numbers(width, 1, 1, 1).abs() + 0.5}),
    }
    modules = {name: adapters()[kind].from_tensors(tensors, None) for name, (kind, tensors) in told.items()}
    one = written(Lora(modules, "sd1"), tmp_path / "a.safetensors")
    for out in (tmp_path / "merged", tmp_path / "merged.safetensors"):
        report = result(merged(base, f"{one}:0.5", f"{one}:0.3", out=out))
        before, after = weights_of(base), weights_of(out)
        for name, adapter in modules.items():
            was = before.read(f"{name}.weight")
            change = 0.8 * adapter.delta(was.reshape(flat(was.shape))).reshape(was.shape)
            torch.testing.assert_close(after.read(f"{name}.weight"), was + change, rtol=1e-5, atol=1e-5)
        assert report.changed == len(modules)
        assert report.layers < 1e-5
        assert report.denoised is not None
        assert report.denoised < 1e-5
    lora = lora_file.read(one)
    compare(base, [Applied(one, lora, Strength(0.5)), Applied(one, lora, Strength(0.3))], tmp_path / "merged")


def test_the_check_sees_what_is_not_the_same(
    tiny_models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    merged(tiny_models["sdxl"], files["sdxl"], out=tmp_path / "merged.safetensors", verify=False)
    lora = lora_file.read(files["sdxl"])
    text = replace(lora, modules={name: one for name, one in lora.modules.items() if name.startswith("text_encoder_2")})
    identity, cpu = identify(str(tiny_models["sdxl"])), torch.device("cpu")
    for wrong in ([(lora, 0.9)], [], [(lora, 1.0), (text, 0.5)]):
        applied = [Applied(files["sdxl"], one, Strength(strength)) for one, strength in wrong]
        assert prediction_difference(identity, applied, tmp_path / "merged.safetensors", cpu) > 1e-3


def test_blocks_have_strengths_of_their_own(
    tiny_models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    told = "0.8:text_encoder=0,unet.up_blocks.1=0.5,M00=-1"
    merged(tiny_models["sdxl"], f"{files['sdxl']}:{told}", out=tmp_path / "merged", verify=False)
    lora = lora_file.read(files["sdxl"])
    before, after = weights_of(tiny_models["sdxl"]), weights_of(tmp_path / "merged")
    seen = set()
    for module, adapter in lora.modules.items():
        strength = 0.8
        for start, value in (("text_encoder.", 0.0), ("unet.up_blocks.1.", 0.5), ("unet.mid_block.", -1.0)):
            strength = value if module.startswith(start) else strength
        seen.add(strength)
        name = f"{module}.weight"
        change = after.read(name) - before.read(name)
        torch.testing.assert_close(change, strength * adapter.delta().reshape(change.shape), rtol=1e-4, atol=1e-5)
    assert seen == {0.8, 0.0, 0.5, -1.0}
    applied = [Applied(files["sdxl"], lora, Strength(0.8, {"text_encoder": 0, "unet.up_blocks.1": 0.5, "M00": -1}))]
    compare(tiny_models["sdxl"], applied, tmp_path / "merged")


def test_it_draws_as_the_base_with_its_lora(
    tiny_models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    merged(tiny_models["sd1"], f"{files['sd1']}:0.6", out=tmp_path / "merged", verify=False)
    drawn = []
    for name, told in (
        ("beside", {"model": str(tiny_models["sd1"]), "lora": [f"{files['sd1']}:0.6"]}),
        ("inside", {"model": str(tmp_path / "merged")}),
        ("bare", {"model": str(tiny_models["sd1"])}),
    ):
        out = str(tmp_path / f"{name}.png")
        reports = list(sample(resolve(Sample, [{"prompt": ["a red apple"], "steps": 3, "out": out, **told}])))
        drawn += [pictures.pixels(report.path) for report in reports if isinstance(report, Drawn)]
    assert abs(drawn[0] - drawn[1]).max() <= 1
    assert abs(drawn[0] - drawn[2]).max() > 1


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_numbers_are_rounded_once(
    dtype: str, tiny_models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    told = result(merged(tiny_models["sd2"], files["sd2"], out=tmp_path / "merged.safetensors", dtype=dtype))
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    lora = lora_file.read(files["sd2"])
    before, after = weights_of(tiny_models["sd2"]), weights_of(tmp_path / "merged.safetensors")
    for name, shape in before.shapes.items():
        adapter = lora.modules.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        exact = before.read(name) + (adapter.delta().reshape(shape) if adapter else 0)
        assert torch.equal(after.read(name), exact.to(kind)), name
    assert told.dtype == dtype
    epsilon = float(torch.finfo(kind).eps)
    assert epsilon / 50 < told.layers < epsilon
    assert told.denoised is not None
    assert epsilon / 50 < told.denoised < 20 * epsilon


def test_a_file_stays_what_it_was_but_for_what_changed(
    singles: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    base = tmp_path / "base.safetensors"
    halves = {
        key: value.half() if value.is_floating_point() else value for key, value in load_file(singles["sdxl"]).items()
    }
    halves |= {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0), "some.more": torch.full((3,), torch.nan)}
    save_file(halves, base, {"modelspec.license": "CC0", "modelspec.title": "Base", "secret": "/home/me"})
    one = f"{files['sdxl']}:0.5:text=0"
    told = result(merged(base, one, out=tmp_path / "merged.safetensors", verify=False))
    header, after = read_header(tmp_path / "merged.safetensors", ModelError), load_file(tmp_path / "merged.safetensors")
    assert after.keys() == halves.keys()
    same = {key for key in halves if after[key].numpy().tobytes() == halves[key].numpy().tobytes()}
    assert all(after[key].dtype == halves[key].dtype for key in halves)
    assert len(halves) - len(same) == told.changed
    assert all(key.startswith("model.diffusion_model.") for key in halves.keys() - same)
    assert told.dtype == "fp16"
    assert told.denoised is None
    identity = identify(str(tmp_path / "merged.safetensors"))
    assert (identity.prediction, identity.zero_snr) == ("v_prediction", True)
    assert header.metadata["modelspec.license"] == "CC0"
    assert header.metadata["modelspec.title"] == "merged"
    assert header.metadata["modelspec.merged_from"] == "base, sdxl-style:0.5"
    assert header.metadata["modelspec.prediction_type"] == "v"
    assert not any("/" in value for key, value in header.metadata.items() if key != "modelspec.implementation")


@pytest.mark.parametrize(("family", "prediction"), [("sd1", "v_prediction"), ("sd2", "epsilon"), ("sdxl", "epsilon")])
def test_a_file_says_what_its_folder_predicts(family: str, prediction: str, tmp_path: Path) -> None:
    base = tiny.saved(family, tmp_path / "base", prediction=prediction)
    scheduler = base / "scheduler" / "scheduler_config.json"
    config = json.loads(scheduler.read_text()) | {"rescale_betas_zero_snr": True}
    scheduler.write_text(json.dumps(config))
    lora = written(random_lora(base), tmp_path / "a.safetensors")
    out = base.parent / "merged.safetensors"
    merged(base, lora, out=out, verify=False)
    identity = identify(str(out))
    assert (identity.family, identity.prediction, identity.zero_snr) == (family, prediction, True)
    shutil.copytree(base, tmp_path / "room")
    config |= {"rescale_betas_zero_snr": False, "prediction_type": "sample"}  # the file knows better
    (tmp_path / "room" / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    shutil.move(out, tmp_path / "room")
    back = tmp_path / "back"
    merged(tmp_path / "room" / out.name, f"{lora}:-1", out=back, verify=False)
    told = json.loads((back / "scheduler" / "scheduler_config.json").read_text())
    assert (told["prediction_type"], told["rescale_betas_zero_snr"]) == (prediction, True)


@pytest.mark.parametrize("layout", ["folder", "file"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_models_for_inpainting(family: str, layout: str, tmp_path: Path) -> None:
    base = tiny.saved_pipeline(tiny.inpainting_pipeline(family), tmp_path / "base")
    lora = written(random_lora(base), tmp_path / "a.safetensors")
    out = room_for(base, tmp_path, layout)
    told = result(merged(base, lora, out=out))
    assert identify(str(out)).inpainting
    plain = {"unet.conv_in": LoraModule(torch.ones(1, 4, 3, 3), torch.ones(tiny.WIDTH, 1, 1, 1), 1.0)}
    one = written(Lora({**random_lora(base).modules, **plain}, family), tmp_path / "plain.safetensors")
    with pytest.raises(LoraError, match=r"plain.safetensors: .* unet.conv_in .*, a model for inpainting; leave that"):
        merged(base, one, out=tmp_path / "other")
    merged(base, f"{one}:1:conv_in=0", out=tmp_path / "other", verify=False)
    assert told.denoised is not None
    assert told.denoised < 1e-5
    assert load(identify(str(out)), torch.float32).unet.config.in_channels == 9
    if layout == "file":
        plain = tiny.saved(family, tmp_path / "plain")
        shutil.copy(out, plain)
        merged(plain / out.name, f"{lora}:-1", out=tmp_path / "back", verify=False)
        assert load(identify(str(tmp_path / "back")), torch.float32).unet.config.in_channels == 9


def test_a_folder_has_all_that_the_base_has_but_weights_of_others(files: dict[str, Path], tmp_path: Path) -> None:
    base = tiny.saved("sd1", tmp_path / "base")
    index = json.loads((base / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "_name_or_path": "/home/me/base"}
    index |= {"feature_extractor": ["transformers", "CLIPImageProcessor"]}
    (base / "model_index.json").write_text(json.dumps(index))
    for part, name in (("safety_checker", "config.json"), ("feature_extractor", "preprocessor_config.json")):
        (base / part).mkdir()
        (base / part / name).write_text("{}")
    text = base / "text_encoder" / "config.json"
    told = {"torch_dtype": "float32", "_name_or_path": "/home/me/x", "quantization_config": {}}
    text.write_text(json.dumps(json.loads(text.read_text()) | told))
    (base / "LICENSE").write_text("as you like")
    (base / "README.md").write_text("about the base")
    (base / "unet" / "old.bin").write_bytes(b"pickle")
    merged(base, files["sd1"], out=tmp_path / "merged", dtype="bf16")
    out = tmp_path / "merged"
    assert sorted(path.name for path in out.iterdir()) == [
        *("LICENSE", "feature_extractor", "model_index.json", "scheduler"),
        *("text_encoder", "tokenizer", "unet", "vae"),
    ]
    names = {path.name for path in (out / "unet").iterdir()}
    assert names == {"config.json", "diffusion_pytorch_model.safetensors"}
    tokenizers = [{path.name: path.read_bytes() for path in (one / "tokenizer").iterdir()} for one in (out, base)]
    assert tokenizers[0] == tokenizers[1] != {}
    config = json.loads((out / "text_encoder" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"
    assert not {"_name_or_path", "quantization_config"} & config.keys()
    index = json.loads((out / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None]
    assert index["requires_safety_checker"] is False
    assert "_name_or_path" not in index
    keys = read_header(out / "text_encoder" / "model.safetensors", ModelError).shapes
    assert all(key.startswith("text_model.") for key in keys)
    assert (out / "unet").stat().st_mode & 0o777 == (base / "unet").stat().st_mode & 0o777


def test_a_merged_model_says_nothing_of_whose_machine_it_was_made_on(files: dict[str, Path], tmp_path: Path) -> None:
    base, lora = tiny.saved("sd1", tmp_path / "base"), tmp_path / "lora.safetensors"
    for name, told in (
        ("tokenizer/tokenizer_config.json", {"name_or_path": "/home/CANARY/tok"}),
        ("unet/config.json", {"_name_or_path": "/home/CANARY/x", "trained_from": "/home/CANARY/base"}),
        ("vae/config.json", {"_name_or_path": r"C:\Users\CANARY"}),
    ):
        file = base / name
        file.write_text(json.dumps(json.loads(file.read_text()) | told))
    save_file(load_file(files["sd1"]), lora, {"modelspec.trigger_phrase": r"C:\Users\CANARY\cat.png"})
    for out in (tmp_path / "merged", tmp_path / "merged.safetensors"):
        merged(base, lora, out=out, verify=False)
        made = [path for path in (out.rglob("*") if out.is_dir() else [out]) if path.is_file()]
        assert not any(b"CANARY" in path.read_bytes() for path in made)
    assert json.loads((tmp_path / "merged/unet/config.json").read_text())["trained_from"] == "base"
    header = read_header(tmp_path / "merged.safetensors", ModelError)
    assert header.metadata["modelspec.trigger_phrase"] == "cat.png"


def test_mini(tmp_path: Path) -> None:
    lora = written(random_lora(MINI), tmp_path / "a.safetensors")
    for out in (tmp_path / "merged", tmp_path / "merged.safetensors"):
        told = result(merged("mini", f"{lora}:0.1", out=out))
        assert told.dtype == "fp16"
        assert told.denoised is not None
        assert told.denoised < 0.02
        assert told.try_next.endswith(" --guidance 2"), "as mini's own preset says"
        file = out if out.is_file() else out / "unet" / "diffusion_pytorch_model.safetensors"
        assert read_header(file, ModelError).metadata["modelspec.resolution"] == "128x128"
        pipe = load(identify(str(out)), torch.float32)
        assert pipe.unet.config.sample_size == 16
        assert len(pipe.tokenizer) == len(load(identify("mini"), torch.float32).tokenizer)
    compare(MINI, [Applied(lora, lora_file.read(lora), Strength(0.1))], tmp_path / "merged.safetensors", 0.02)
    assert {"LICENSE", "NOTICE"} < {path.name for path in (tmp_path / "merged").iterdir()}


def started(*given: str | Path, out: Path, steps: int, **told: Any) -> Iterator[Report]:
    """A merge that has written so many tensors."""
    work = merge(resolve(Merge, [{"given": [str(one) for one in given], "out": str(out), **told}]))
    while not (isinstance(report := next(work), Progress) and report.number >= steps):
        pass
    return work


@pytest.mark.parametrize("name", ["merged", "merged.safetensors"])
@pytest.mark.parametrize("steps", [1, 150])
def test_what_ends_in_the_middle_leaves_nothing(
    name: str, steps: int, tiny_models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / name
    work: Any = started(tiny_models["sd1"], files["sd1"], out=out, steps=steps)
    with pytest.raises(KeyboardInterrupt):
        work.throw(KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []
    merged(tiny_models["sd1"], files["sd1"], out=out, verify=False)
    whole = snapshot(out)
    work = started(tiny_models["sd1"], f"{files['sd1']}:0.5", out=out, steps=steps, overwrite=True)
    assert snapshot(out) == whole, "the old one stays until the new is whole"
    work.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert snapshot(out) == whole
    merged(tiny_models["sd1"], f"{files['sd1']}:0.5", out=out, overwrite=True, verify=False)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert snapshot(out) != whole


def snapshot(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    return {str(path.relative_to(place.parent)): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.parametrize("name", ["merged", "merged.safetensors"])
def test_the_same_again_gives_the_same_bytes(
    name: str, tiny_models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    for folder in ("one", "two"):
        merged(tiny_models["sd3"], files["sd3"], out=tmp_path / folder / name, verify=False)
    assert snapshot(tmp_path / "one" / name) == snapshot(tmp_path / "two" / name)


def test_what_is_too_large_for_its_numbers_is_not_written(
    tiny_models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    lora = lora_file.read(files["sd1"])
    modules = {name: replace(one, up=one.up * 1e7) for name, one in lora.modules.items() if isinstance(one, LoraModule)}
    large = written(replace(lora, modules=modules), tmp_path / "large.safetensors")
    for name in ("merged", "merged.safetensors"):
        with pytest.raises(SdtuneError, match=rf"^{tmp_path / name}.*too large for F16; give --dtype bf16"):
            merged(tiny_models["sd1"], large, out=tmp_path / name, dtype="fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["large.safetensors"]


def test_what_does_not_fit_is_refused_before_anything_is_written(
    tiny_models: dict[str, Path], files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sd1, out = tiny_models["sd1"], tmp_path / "merged"
    with pytest.raises(LoraError, match=r"sdxl-style.safetensors: a LoRA for Stable Diffusion XL, but the model is"):
        merged(sd1, files["sdxl"], out=out)
    gone = "unet.down_blocks.3.attentions.0.transformer_blocks.0.attn1.to_q"
    there = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    matrix = LoraModule(torch.ones(1, 7), torch.ones(9, 1), 1.0)
    one = written(Lora({gone: matrix}, "sd1"), tmp_path / "gone.safetensors")
    with pytest.raises(LoraError, match=rf"gone.safetensors: the LoRA changes {gone}, which sd1 has not; choose"):
        merged(sd1, one, out=out)
    one = written(Lora({there: matrix}, "sd1"), tmp_path / "gone.safetensors")
    with pytest.raises(LoraError, match=r"the LoRA changes .*to_q as \(9, 7\), but in the model it is \(32, 32\)"):
        merged(sd1, one, out=out)
    third = {
        "text_encoder_3.encoder.block.0.layer.0.SelfAttention.q": matrix,
        **random_lora(tiny_models["sd3"]).modules,
    }
    one = written(Lora(third, "sd3"), tmp_path / "gone.safetensors")
    with pytest.raises(LoraError, match=r"changes a text_encoder_3, which .*gone.safetensors:1:text_encoder_3=0"):
        merged(tiny_models["sd3"], one, out=out)
    merged(tiny_models["sd3"], f"{one}:1:text_encoder_3=0", out=tmp_path / "three")
    shutil.rmtree(tmp_path / "three")
    with monkeypatch.context() as patch:
        patch.setattr("sdtune.core.disk.free", lambda _: 10**6)
        for name in ("merged", "merged.safetensors"):
            with pytest.raises(OutputError, match=r"merged.*: takes \d\d MB, and .* has 1 MB left; free some"):
                merged(sd1, files["sd1"], out=tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["gone.safetensors"]


def test_places_that_must_not_be_written(files: dict[str, Path], tmp_path: Path) -> None:
    base = tiny.saved("sd1", tmp_path / "base")
    lora = tmp_path / "here" / "a.safetensors"
    lora.parent.mkdir()
    shutil.copy(files["sd1"], lora)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    (tmp_path / "link").symlink_to("nowhere")
    before = snapshot(tmp_path)
    for out, overwrite, problem in (
        (base, False, "already holds files"),
        (base, True, "holds base, which the work reads"),
        (base / "unet" / "merged", True, "is inside of the base model"),
        (base / "merged.safetensors", True, "is inside of the base model"),
        (tmp_path, True, "holds no model, so it is not replaced"),
        (lora, False, "is what the work begins with"),
        (lora, True, "which the work reads"),
        (tmp_path / "full", False, "already holds files; give a new folder with --out, or add --overwrite"),
        (tmp_path / "full", True, "holds no model, so it is not replaced"),
        (tmp_path / "file", True, "is a file; give a folder"),
        (tmp_path / "link", True, "a link that leads nowhere"),
        (tmp_path / "merged.ckpt", True, "this reads like neither; give a name that ends in .safetensors for a file"),
        (tmp_path / "merged.md", False, "a folder, and this reads like neither; .* or without .md for a folder"),
        (tmp_path / "merged.SAFETENSORS", False, "without .SAFETENSORS for a folder"),
        (tmp_path / ("x" * 300), True, "cannot be written"),
        (tmp_path / "file" / "merged", True, "cannot be written"),
    ):
        with pytest.raises(OutputError, match=problem):
            merged(base, lora, out=out, overwrite=overwrite)
    assert snapshot(tmp_path) == before
    above = {"model_index.json": "{}"}
    (tmp_path / "here" / "model_index.json").write_text(json.dumps(above))
    with pytest.raises(OutputError, match=r"holds a.safetensors, which the work reads"):
        merged(base, lora, out=tmp_path / "here", overwrite=True)


def test_new_words_are_told_of(tiny_models: dict[str, Path], files: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "embeddings").mkdir(parents=True)
    shutil.copy(files["sd1"], run / "cats.safetensors")
    (run / "run.toml").write_text("")
    save_file({"emb_params": torch.zeros(1, tiny.WIDTH)}, run / "embeddings" / "sks.safetensors")
    reports = merged(tiny_models["sd1"], run, out=tmp_path / "merged", verify=False)
    (warned,) = (report.text for report in reports if isinstance(report, Warned))
    assert "sks.safetensors: a new word that was learned with cats.safetensors" in warned
    assert any("with run at 1" in report.text for report in reports if isinstance(report, Note))


def test_runs_are_told_apart_by_their_folders(
    tiny_models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("cats-1", "cats-2.5"):
        (tmp_path / name).mkdir()
        shutil.copy(files["sd1"], tmp_path / name / "cats.safetensors")
        (tmp_path / name / "run.toml").write_text("")
    given = (f"{tmp_path / 'cats-1'}:0.5", tmp_path / "cats-2.5" / "cats.safetensors")
    reports = merged(tiny_models["sd1"], *given, out=tmp_path / "v1.5", verify=False)
    assert any(
        ", with cats-1 at 0.5, with cats-2.5 at 1" in report.text for report in reports if isinstance(report, Note)
    )
    metadata = read_header(tmp_path / "v1.5" / "unet" / "diffusion_pytorch_model.safetensors", ModelError).metadata
    assert metadata["modelspec.merged_from"] == "sd1, cats-1:0.5, cats-2.5:1"


def test_a_lora_for_a_part_that_the_base_has_not_names_both(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    matrix = LoraModule(torch.ones(1, 8), torch.ones(8, 1), 1.0)
    one = written(Lora({"unet.mid_block.resnets.0.time_emb_proj": matrix}, None), tmp_path / "a.safetensors")
    for base, name in ((tiny_models["sd3"], "sd3"), (original_of(tiny_models["sd3"], tmp_path), "base.safetensors")):
        told = f"^{one}: the LoRA changes a unet, which {name} has not; choose the model that the LoRA was made for$"
        with pytest.raises(LoraError, match=told):
            merged(base, one, out=tmp_path / "merged.safetensors")


def original_of(folder: Path, room: Path) -> Path:
    """A model as one file."""
    at_zero = written(random_lora(folder), room / "zero.safetensors")
    merged(folder, f"{at_zero}:0", out=room / "base.safetensors", verify=False)
    return room / "base.safetensors"


def test_a_bias_is_added_and_one_that_is_not_there_is_named(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    base = tiny_models["sd1"]
    lora = random_lora(base, parts="unet")
    before = weights_of(base)
    there = next(module for module in lora.modules if f"{module}.bias" in before.shapes)
    missing = next(module for module in lora.modules if f"{module}.bias" not in before.shapes)
    values = torch.linspace(-1, 1, before.shapes[f"{there}.bias"][0])
    one = written(replace(lora, biases={there: values}), tmp_path / "a.safetensors")
    told = result(merged(base, f"{one}:0.5", out=tmp_path / "merged"))
    change = weights_of(tmp_path / "merged").read(f"{there}.bias") - before.read(f"{there}.bias")
    torch.testing.assert_close(change, 0.5 * values)
    assert told.denoised is not None
    assert told.denoised < 1e-5
    width = flat(before.shapes[f"{missing}.weight"])[0]
    one = written(replace(lora, biases={missing: torch.ones(width)}), tmp_path / "b.safetensors")
    with pytest.raises(LoraError, match=rf"the LoRA changes the bias of {missing}, which sd1 has not"):
        merged(base, one, out=tmp_path / "other")
