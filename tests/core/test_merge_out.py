"""What a merged model replaces is a model, and what is copied into it comes out of the base model's folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sdtune.config import resolve
from sdtune.core.families import family_named
from sdtune.core.merge import merge
from sdtune.core.merge_out import making
from sdtune.core.model_folder import check_configs
from sdtune.core.reports import Report
from sdtune.errors import ModelError, OutputError
from sdtune.lora_config import Merge
from tests import tiny

STEM = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def base(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_models["sd1"], tmp_path / "dl" / "base"))


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    down, up = torch.ones(1, tiny.WIDTH), torch.ones(tiny.WIDTH, 1)
    save_file({f"{STEM}.lora_down.weight": down, f"{STEM}.lora_up.weight": up}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def merged(*given: Path, out: Path, **told: Any) -> list[Report]:
    settings = {"given": [str(one) for one in given], "out": str(out), "verify": False, **told}
    return list(merge(resolve(Merge, [settings])))


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["../../stuff", "../secret", "/tmp/stuff", "unet/../../x", "..", "", "a b"])
def test_parts_have_plain_names(name: str, base: Path, lora: Path, tmp_path: Path) -> None:
    told = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps(told | {name: ["diffusers", "X"]}))
    for folder in (tmp_path / "stuff", tmp_path / "dl" / "secret"):
        folder.mkdir()
        (folder / "keys.txt").write_text("secret")
    before = snapshot(tmp_path)
    with pytest.raises(ModelError, match=r"model_index.json: '.*' is no name of a part; download"):
        merged(base, lora, out=tmp_path / "work" / "out")
    assert snapshot(tmp_path) == before
    assert not any((tmp_path / "work").iterdir())


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer/merges.txt", "unet/config.json", "vae/more.json"])
def test_links_out_of_the_model_are_not_followed(name: str, base: Path, lora: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((base / name).read_bytes() if (base / name).exists() else b"{}")
    (base / name).unlink(missing_ok=True)
    (base / name).symlink_to(secret)
    with pytest.raises(ModelError, match=rf"{name}: a link that leads out of the model's folder; put the file itself"):
        merged(base, lora, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (base / name).unlink()
    shutil.move(secret, base / "elsewhere")
    (base / name).symlink_to(base / "elsewhere")
    merged(base, lora, out=tmp_path / "out")
    assert (tmp_path / "out" / name).is_file()
    assert not (tmp_path / "out" / name).is_symlink()


def test_links_of_the_hubs_cache_are_followed(base: Path, lora: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    snapshot_folder = repository / "snapshots" / "0123"
    (base / "LICENSE").write_text("as you like")
    (repository / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in base.rglob("*") if path.is_file())):
        shutil.copy(file, repository / "blobs" / str(number))
        link = snapshot_folder / file.relative_to(base)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("../" * len(link.relative_to(repository).parents) + f"models--a--b/blobs/{number}")
    merged(snapshot_folder, lora, out=tmp_path / "out")
    merged(base, lora, out=tmp_path / "same")
    here, there = snapshot(tmp_path / "out"), snapshot(tmp_path / "same")
    texts = {path.relative_to(tmp_path / "same"): told for path, told in there.items() if path.suffix != ".safetensors"}
    assert len(texts) > 7
    assert texts == {p.relative_to(tmp_path / "out"): told for p, told in here.items() if p.suffix != ".safetensors"}


@pytest.mark.parametrize("cache", ["models--a--b/blobs", "models--a--b/other", "datasets--a--b/blobs", "a--b/blobs"])
def test_links_into_the_hubs_cache_are_followed_from_anywhere(
    cache: str, base: Path, lora: Path, tmp_path: Path
) -> None:
    (base / "LICENSE").write_text("as you like")
    merged(base, lora, out=tmp_path / "same")
    (tmp_path / cache).mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in base.rglob("*") if path.is_file())):
        file.symlink_to(shutil.move(file, tmp_path / cache / str(number)))
    if cache != "models--a--b/blobs":
        with pytest.raises(ModelError, match=r"a link that leads out of the model's folder"):
            merged(base, lora, out=tmp_path / "out")
        return
    merged(base, lora, out=tmp_path / "out")
    there = {path.relative_to(tmp_path / "same") for path in snapshot(tmp_path / "same")}
    assert {path.relative_to(tmp_path / "out") for path in snapshot(tmp_path / "out")} == there
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


@pytest.mark.parametrize(
    "name",
    [
        *("unet/train_args.json", "scheduler/scheduler_config_old.json", "tokenizer/README.txt", "vae/LICENSE (1).md"),
        *("tokenizer/tokenizer.model", "tokenizer/vocab.txt", "prompt_helper/x y.json", "LICENSE of ours.txt"),
        *(".DS_Store", "unet/.DS_Store", "prompt_helper/README.md"),
    ],
)
def test_what_a_merge_has_made_is_replaced(name: str, base: Path, lora: Path, tmp_path: Path) -> None:
    told = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps(told | {"prompt_helper": ["diffusers", "X"]}))
    (base / "prompt_helper").mkdir()
    (base / name).write_text("{}")
    merged(base, lora, out=tmp_path / "out")
    assert (tmp_path / "out" / "prompt_helper").is_dir()
    assert (tmp_path / "out" / name).is_file() == (not name.endswith(("README.txt", "README.md", ".DS_Store")))
    if name.endswith(".DS_Store"):
        (tmp_path / "out" / name).write_bytes(b"Bud1")
    before = snapshot(tmp_path / "out")
    merged(base, Path(f"{lora}:0.5"), out=tmp_path / "out", overwrite=True)
    assert snapshot(tmp_path / "out") != before


@pytest.mark.parametrize(
    "name",
    [
        *("pics/a.png", "pics/a.json", "notes.txt", "text.json", "my-lora.safetensors", "vae.png", "x/"),
        *("unet/notes.txt", "unet/a.safetensors", "unet/a.png", "unet/more/config.json", "tokenizer/README.txt"),
    ],
)
def test_only_a_model_is_replaced(name: str, base: Path, lora: Path, tmp_path: Path) -> None:
    merged(base, lora, out=tmp_path / "out")
    merged(base, lora, out=tmp_path / "out", overwrite=True)
    for more in ("README.md", "LICENSE", "NOTICE.txt", ".gitattributes", "unet/old.bin"):
        told = more.replace("old", "diffusion_pytorch_model")
        (tmp_path / "out" / told).write_text("the model's")
    merged(base, lora, out=tmp_path / "out", overwrite=True)
    place = tmp_path / "out" / name
    place.parent.mkdir(exist_ok=True)
    if name.endswith("/"):
        place.mkdir()
    else:
        place.write_text("dear")
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match=rf"out: holds '{name.split('/')[0]}.*, which is not a model's, so it stays"):
        merged(base, lora, out=tmp_path / "out", overwrite=True)
    assert snapshot(tmp_path) == before


def test_what_comes_into_the_folder_meanwhile_stays(base: Path, tmp_path: Path) -> None:
    work = making(base)
    work.__enter__().mkdir()
    (base / "a.png").write_text("dear")
    with pytest.raises(OutputError, match=r"base: holds 'a.png', which is not a model's"):
        work.__exit__(None, None, None)
    assert (base / "a.png").read_text() == "dear"
    check_configs(base, family_named("sd1"))
    assert sorted(path.name for path in (tmp_path / "dl").iterdir()) == ["base"]


@pytest.mark.parametrize("name", ["there", "there.safetensors"])
def test_a_link_leads_to_what_was_replaced(name: str, base: Path, lora: Path, tmp_path: Path) -> None:
    merged(base, lora, out=tmp_path / name)
    before = snapshot(tmp_path / "there") or (tmp_path / name).read_bytes()
    link = tmp_path / f"link-{name}"
    link.symlink_to(name)
    merged(base, Path(f"{lora}:0.5"), out=link, overwrite=True)
    assert link.is_symlink()
    assert (snapshot(tmp_path / "there") or (tmp_path / name).read_bytes()) != before


def test_a_link_to_a_lora_leads_to_what_was_replaced(lora: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.safetensors"
    shutil.copy(lora, tmp_path / "there.safetensors")
    link.symlink_to("there.safetensors")
    merged(lora, lora, out=link, overwrite=True, verify=None)
    assert link.is_symlink()
    assert (tmp_path / "there.safetensors").read_bytes() != lora.read_bytes()


@pytest.mark.parametrize("name", [".safetensors", ".SafeTensors"])
def test_a_file_has_a_name_before_its_ending(name: str, base: Path, lora: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"(?i)safetensors: has no name before .safetensors; give one with --out"):
        merged(base, lora, out=tmp_path / name)
    assert not (tmp_path / name).exists()
