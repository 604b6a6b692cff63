"""A picture drawn once more: what its file tells, where what it names is found, and what the verdict says."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdtune.choices.samplers import EulerAncestral
from sdtune.core import lora_file
from sdtune.core.applied import read as applied
from sdtune.core.lora import Lora, LoraModule
from sdtune.core.picture_file import save_picture
from sdtune.core.sampling import again, search
from sdtune.core.sampling.recipe import FileUse, LoraUse
from sdtune.errors import ConfigError, DataError, LoraError, ModelError
from sdtune.sample_config import Hires, Sample
from tests.core.sampling.recipes import HASH, recipe

MODULE = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def image(shade: int = 0) -> Image.Image:
    return Image.fromarray(numpy.full((48, 64, 3), shade, dtype=numpy.uint8))


def file_of(path: Path, data: bytes) -> FileUse:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return FileUse(file=path.name, sha256=hashlib.sha256(data).hexdigest())


@pytest.fixture(scope="module")
def lora_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("lora") / "a.safetensors"
    lora_file.write(path, Lora({MODULE: LoraModule(torch.ones(1, 32), torch.ones(32, 1), 1.0)}, "sd1"))
    return path.read_bytes()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with nothing in it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_recipe_comes_out_of_a_picture_under_any_name(suffix: str, tmp_path: Path) -> None:
    one = recipe(prompt="träume\n\x1b[31m", loras=(LoraUse(file="a", sha256=HASH, strength=0.5),))
    path = save_picture(tmp_path / f"a{suffix}", image(), one)
    assert again.recipe_in(path) == one
    assert again.recipe_in(path.rename(tmp_path / "picture")) == one


def test_pictures_that_tell_nothing_say_whose_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.png"

    def told(**texts: str) -> str:
        info = PngInfo()
        for name, text in texts.items():
            info.add_text(name, text)
        image().save(path, pnginfo=info)
        with pytest.raises(DataError) as problem:
            again.recipe_in(path)
        assert str(problem.value).isprintable()
        return str(problem.value)

    assert "holds no recipe of sdtune: another program wrote it, or what it told was removed" in told()
    assert "drawn by another program (v1.10.1)" in told(parameters="a cat\nSteps: 20, Seed: 1, Version: v1.10.1")
    assert "drawn by another program;" in told(parameters="a cat\nSteps: 20, Seed: 1")
    assert "drawn by another program (" in told(parameters="Version: \x1b[31m")
    assert "sdtune 0.1.0 wrote none" in told(parameters="a cat\nSteps: 20, Version: sdtune 0.1.0")
    assert "its recipe is damaged" in told(sdtune="{")
    for name, data in (("b.png", b""), ("c.png", b"GIF89a"), ("d.png", b"\x89PNG\r\n\x1a\n")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=r"no PNG, JPEG or WebP|holds no recipe"):
            again.recipe_in(tmp_path / name)
    for path in (tmp_path / "nowhere.png", tmp_path, Path("a\0b"), Path("x" * 5000)):
        with pytest.raises(DataError, match=r"cannot be read|is no PNG"):
            again.recipe_in(path)


def test_a_chunk_that_unpacks_to_a_great_size_is_not_unpacked(tmp_path: Path) -> None:
    body = b"sdtune\0\0" + zlib.compress(b"0" * 10**8)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    with pytest.raises(DataError, match="holds no recipe"):
        again.recipe_in(tmp_path / "a.png")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "place",
    [
        "here/models/cats.safetensors",
        "here/cats.safetensors",
        "here/runs/renamed/cats.safetensors",
        "here/runs/renamed/renamed.safetensors",
        "there/samples/cats.safetensors",
        "there/cats.safetensors",
        "there/runs/cats-1/cats.safetensors",
        "named/cats.safetensors",
    ],
)
def test_a_lora_is_found_by_its_bytes(place: str, tmp_path: Path, lora_bytes: bytes) -> None:
    use = file_of(tmp_path / place, lora_bytes)
    decoy = tmp_path / "there/samples/models/cats.safetensors"
    file_of(decoy, b"another file of that name")
    one = recipe(
        loras=(LoraUse(file="models/cats.safetensors", sha256=use.sha256, strength=0.7, blocks={"mid_block": 0.2}),)
    )
    (found,) = again.loras_of(one, tmp_path / "there/samples/a.png", (), tmp_path / "named")
    assert found.path.samefile(tmp_path / place)
    assert (found.strength.usual, found.strength.blocks) == (0.7, {"mid_block": 0.2})
    assert set(found.lora.modules) == {MODULE}


def test_a_lora_that_stands_there_often_is_read_once(
    here: Path, tmp_path: Path, lora_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = file_of(here / "cats.safetensors", lora_bytes)
    uses = [LoraUse(file="cats.safetensors", sha256=use.sha256, strength=number / 10) for number in range(30)]
    searched: list[FileUse] = []

    def find(use: FileUse, picture: Path, folder: Path | None) -> Path | None:
        searched.append(use)
        return search.find(use, picture, folder)

    monkeypatch.setattr(again, "find", find)
    found = again.loras_of(recipe(loras=tuple(uses)), tmp_path / "a.png", ())
    assert [one.strength.usual for one in found] == [use.strength for use in uses]
    assert len({id(one.lora) for one in found}) == len(searched) == 1


@pytest.mark.usefixtures("here")
def test_a_lora_that_is_given_acts_as_strongly_as_it_did(tmp_path: Path, lora_bytes: bytes) -> None:
    use = file_of(tmp_path / "far/away.safetensors", lora_bytes)
    one = recipe(loras=(LoraUse(file="cats.safetensors", sha256=use.sha256, strength=0.7),))
    given = applied(str(tmp_path / "far/away.safetensors"))
    (found,) = again.loras_of(one, tmp_path / "a.png", [given])
    assert (found.path, found.strength.usual) == (given.path, 0.7)
    with pytest.raises(LoraError, match=r"away\.safetensors: is none of the LoRAs that .*a\.png was drawn with"):
        again.loras_of(recipe(), tmp_path / "a.png", [given])


def test_a_lora_that_is_not_found_is_named_with_what_to_do(here: Path, tmp_path: Path, lora_bytes: bytes) -> None:
    file_of(tmp_path / "secret.safetensors", lora_bytes)
    digits = hashlib.sha256(lora_bytes).hexdigest()
    for name, sha256 in (
        ("cats.safetensors", HASH),
        ("../secret.safetensors", digits),
        (str(tmp_path / "secret.safetensors"), digits),
        ("a\\..\\secret.safetensors", digits),
        ("~/x\n\x1b[31m", HASH),
        ("a\0b", HASH),
        ("x" * 4096, HASH),
        ("/", HASH),
    ):
        one = recipe(loras=(LoraUse(file=name, sha256=sha256),))
        with pytest.raises(LoraError, match=r"which is not found; give it with --lora FILE$") as problem:
            again.loras_of(one, here / "deep/down/a.png", ())
        assert str(problem.value).isprintable()
        assert sha256[:12] in str(problem.value)


@pytest.mark.usefixtures("here")
def test_the_settings_are_those_of_the_recipe(tmp_path: Path) -> None:
    init, mask = file_of(tmp_path / "photo.png", b"photo"), file_of(tmp_path / "hole.png", b"hole")
    one = recipe(
        prompt="a {b|c} --w 5",
        negative="dark",
        syntax="plain",
        guidance_rescale=0.7,
        sampler=EulerAncestral(),
        clip_skip=2,
        init=init,
        strength=0.4,
        mask=mask,
        feather=3,
        structure=0.2,
        hires=Hires(scale=2),
        tiles="auto",
    )
    path = save_picture(tmp_path / "a.webp", image(), one)
    config = again.config_of(one, path, Sample(again=path, batch_size=2, memory={"threads": 1}))
    assert config.prompt == ("a {b|c} --w 5",)
    assert (config.init, config.mask) == (tmp_path / "photo.png", tmp_path / "hole.png")
    assert (config.model, config.format, config.tiles, config.count) == ("mini", "webp", "auto", 1)
    assert (config.batch_size, config.memory.threads, config.out) == (2, 1, Path("samples"))
    for name in ("negative", "syntax", "seed", "width", "height", "steps", "guidance", "guidance_rescale", "sampler"):
        assert getattr(config, name) == getattr(one, name)
    for name in ("clip_skip", "strength", "feather", "structure", "hires"):
        assert getattr(config, name) == getattr(one, name)
    other = again.config_of(one, path, Sample(again=path, out=Path("b.png"), model="x", init=tmp_path / "hole.png"))
    assert (other.model, other.format, other.init) == ("x", "png", tmp_path / "hole.png")
    (tmp_path / "photo.png").write_bytes(b"another")
    with pytest.raises(
        DataError, match=rf"was drawn on photo\.png \(SHA-256 {init.sha256[:12]}.*give it with --init FILE"
    ):
        again.config_of(one, path, Sample(again=path))


@pytest.mark.parametrize(
    ("told", "flag"),
    [
        ({"seed": 5}, "--seed"),
        ({"prompt": ("a",)}, "--prompt"),
        ({"guidance_rescale": 0.5}, "--guidance-rescale"),
        ({"hires": {"scale": 2}}, "--hires"),
        ({"count": 2}, "--count"),
        ({"run": Path("x")}, "--run"),
        ({"compare": True}, "--compare"),
    ],
)
def test_what_stands_in_the_picture_is_not_given_beside_it(told: dict[str, Any], flag: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^{flag}: stands in the picture that --again names"):
        again.config_of(recipe(), tmp_path / "a.png", Sample(again=tmp_path / "a.png", **told))


def test_the_picture_itself_is_not_where_the_second_one_goes(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "a.png", image(), recipe())
    (tmp_path / "link.png").symlink_to(path)
    for out in (path, tmp_path / "link.png"):
        with pytest.raises(ConfigError, match="is the picture itself"):
            again.config_of(recipe(), path, Sample(again=path, out=out, overwrite=True))
    for flag in ("init", "mask"):
        with pytest.raises(ConfigError, match=rf"--{flag} .*: .*a\.png was drawn without one; leave it out"):
            again.config_of(recipe(), path, Sample(again=path, **{flag: path}))


def test_a_model_is_found_here_and_never_fetched(
    here: Path, tmp_path: Path, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_picture(tmp_path / "there/a.png", image(), recipe())

    def model(name: str) -> str | None:
        named = recipe(model={"name": name, "family": "sd1", "weights": HASH})
        return again.config_of(named, path, Sample(again=path)).model

    def fetch(*_: object) -> Path:
        raise AssertionError("nothing is fetched")

    monkeypatch.setattr("sdtune.core.hub.fetch", fetch)
    assert (model("mini"), model("sdxl")) == ("mini", "sdxl")
    (here / "models").mkdir()
    (here / "models/mine").symlink_to(tiny_models["sd1"])
    assert model("mine") == "models/mine"
    (tmp_path / "there/own").symlink_to(tiny_models["sd1"])
    assert model("own") == str(tmp_path / "there/own")
    (here / "single.safetensors").touch()
    assert model("single") == model("single.safetensors") == "single.safetensors"
    for name in ("owner/model", "nowhere", str(tiny_models["sd1"]), "../there/own", "a\n\x1b", "", "x" * 4096, "a\0b"):
        with pytest.raises(ModelError, match=r"a\.png: was drawn with the model .*, which is not here; give it"):
            model(name)


def test_what_is_the_same_is_called_as_it_was() -> None:
    use = LoraUse(file="runs/cats/cats.safetensors", sha256=HASH)
    then = recipe(loras=(use,), init=FileUse(file="photo.png", sha256=HASH))
    moved = {"loras": (use.model_copy(update={"file": "b"}),), "init": FileUse(file="b", sha256=HASH)}
    now = recipe(model={"name": "renamed", "family": "sd1", "weights": HASH}, **moved)
    assert again.as_recorded(then, now) == then
    other = recipe(
        model={"name": "renamed", "family": "sd1", "weights": "f" * 64}, init=FileUse(file="b", sha256="f" * 64)
    )
    assert again.as_recorded(then, other) == other
