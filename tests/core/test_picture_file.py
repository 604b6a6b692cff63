"""Pictures that say how they were made: to others as A1111 does, to us exactly, whatever a prompt holds."""

from __future__ import annotations

import errno
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import ExifTags, Image
from sd_parsers import ParserManager
from sd_parsers.data import PromptInfo

from sdtune import __version__
from sdtune.choices.samplers import DDIM, Euler
from sdtune.core.picture_file import left_out, save_picture
from sdtune.core.picture_notes import exif_of, is_whole, notes_in
from sdtune.core.picture_text import parameters
from sdtune.core.sampling.grammar import without_loras
from sdtune.core.sampling.recipe import FileUse, read, written
from sdtune.errors import OutputError, SdtuneError
from sdtune.sample_config import Hires
from tests.core.sampling.recipes import HASH, lora, recipe

SUFFIXES = (".png", ".jpg", ".webp")
HOSTILE = (
    "a red apple",
    "",
    " \n ",
    "two\nlines, and: colons\r\nand a third\rand more",
    'quoted "twice" and {"prompt": "json"}',
    "a\nNegative prompt: b\nNegative prompt: c",
    "Negative prompt: alone",
    "a, negative prompt: b",
    "Steps: 3, Sampler: X, CFG scale: 1, Seed: 5, Size: 1x1",
    "a\nSteps: 3, Sampler: X, CFG scale: 1, Seed: 5, Size: 1x1\nb",
    'Hashes: {"a": 1}, Hashes: {',
    "\x1b[31mred\x1b[0m \x07\x9b31m",
    "<script>alert(1)</script>",
    "🍎👩‍🌾 ünïcode 红苹果 תפוח \u202eelppa\u2066",
    "nul\0nul",
    "a\u2028b\u2029c\x85d\x0be",
    "(weighted:1.3), [from:to:0.5] BREAK <lora:x:1>",
)


def recipe_text_of(path: Path) -> str | None:
    notes = notes_in(path)
    return notes.recipe if notes else None


def picture(width: int = 64, height: int = 48) -> Image.Image:
    values = numpy.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=numpy.uint8)
    return Image.fromarray(values)


def parsed(path: Path) -> PromptInfo:
    found = ParserManager().parse(path)
    assert found is not None
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_others_read_what_was_asked_for(suffix: str, tmp_path: Path) -> None:
    told: dict[str, Any] = {"negative": "blurred, dark", "loras": (lora("cats", strength=0.8), lora("dogs v2"))}
    told |= {"init": FileUse(file="a.png", sha256=HASH), "strength": 0.6, "clip_skip": 2}
    path = save_picture(tmp_path / f"a{suffix}", picture(), recipe(**told))
    info = parsed(path)
    assert [prompt.value for prompt in info.prompts] == ["a red apple <lora:cats:0.8> <lora:dogs v2:1>"]
    assert [prompt.value for prompt in info.negative_prompts] == ["blurred, dark"]
    (sampler,) = info.samplers
    assert (sampler.name, sampler.parameters["scheduler"]) == ("DPM++ 2M", "Karras")
    assert [sampler.parameters[name] for name in ("steps", "cfg_scale", "seed")] == ["20", "7.5", "7"]
    assert sampler.model is not None
    assert sampler.model.name == "mini"
    assert info.metadata["Size"] == "64x48"
    assert info.metadata["Denoising strength"] == "0.6"
    assert info.metadata["Clip skip"] == "2"
    assert info.metadata["Version"] == f"sdtune {__version__}"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("prompt", HOSTILE)
@pytest.mark.parametrize("negative", ["", "a\nSteps: 9, Sampler: Y, Seed: 1\nNegative prompt: x\x1b[0m"])
def test_no_prompt_breaks_what_others_read(suffix: str, prompt: str, negative: str, tmp_path: Path) -> None:
    one = recipe(prompt=prompt, negative=negative)
    path = save_picture(tmp_path / f"a{suffix}", picture(), one)
    info = parsed(path)
    (sampler,) = info.samplers
    assert (sampler.name, sampler.parameters["seed"], sampler.parameters["steps"]) == ("DPM++ 2M", "7", "20")
    assert bool(info.negative_prompts) == bool(negative)
    assert bool(info.prompts) == bool(prompt.strip())
    said = parameters(one)
    assert all(line.isprintable() or "\u200d" in line for line in said.split("\n")), ascii(said)
    text = recipe_text_of(path)
    assert text is not None
    assert read(text, path) == one


def test_of_a_png_every_byte_is_checked(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "a.png", picture(8, 8), recipe())
    data = path.read_bytes()
    assert is_whole(path)
    for place in range(8, len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        assert not is_whole(path), place
    for cut in range(0, len(data), 7):
        path.write_bytes(data[:cut])
        assert not is_whole(path)
    path.write_bytes(data + b"more")
    assert is_whole(path)
    assert not is_whole(tmp_path / "nowhere.png")
    assert not is_whole(tmp_path)


def test_settings_stand_under_a1111s_names() -> None:
    def settings(**told: Any) -> str:
        return parameters(recipe(**told)).split("\n")[-1]

    first = "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 7, Size: 64x48, "
    last = f"Model: mini, Version: sdtune {__version__}"
    assert settings() == first + last
    larger = Hires(scale=2, strength=0.4, steps=9)
    hires = "Denoising strength: 0.4, Hires upscale: 2, Hires steps: 9, Hires upscaler: Lanczos, "
    assert settings(hires=larger) == first + hires + last
    use = FileUse(file="a.png", sha256=HASH)
    inpainted = "Denoising strength: 1, Mask blur: 4, "
    assert settings(init=use, mask=use, strength=1, feather=4) == first + inpainted + last
    assert settings(guidance_rescale=0.7) == first + "CFG rescale: 0.7, " + last
    two = (lora("cats"), lora("dogs, 2: x", sha256="ab" * 32))
    assert settings(loras=two) == first + 'Lora hashes: "cats: 0123456789, dogs_ 2_ x: ababababab", ' + last
    assert "Sampler: DDIM, " in settings(sampler=DDIM())
    odd = {"name": 'a, b: "c"\n\x1b', "family": "sd1", "weights": HASH}
    assert r'Model: "a, b: \"c\"  ", Version' in settings(model=odd)
    single = {"name": "cats", "family": "sd1", "weights": HASH, "single": True}
    assert settings(model=single).endswith(f"Model hash: 0123456789, Model: cats, Version: sdtune {__version__}")
    flow = {"name": "sd35", "family": "sd3", "weights": HASH}
    assert "Steps: 20, Sampler: Euler, CFG scale" in settings(model=flow, sampler=Euler())


@pytest.mark.parametrize(
    ("family", "blocks", "tag"),
    [
        ("sd1", {"text": 0.5}, "<lora:cats:0.5:0.8>"),
        ("sd1", {"text_encoder": 0}, "<lora:cats:0:0.8>"),
        ("sd1", {"BASE": 0.8}, "<lora:cats:0.8>"),
        ("sdxl", {"text_encoder": 0}, "<lora:cats:0.8>"),
        ("sdxl", {"text_encoder": 0, "text_encoder_2": 0}, "<lora:cats:0:0.8>"),
        ("sd1", {"mid_block": 0.2, "IN01": 0}, "<lora:cats:0.8>"),
        ("sd1", {"mid_block": 0.2, "text": -1}, "<lora:cats:-1:0.8>"),
    ],
)
def test_a_tag_is_what_a1111_reads(family: str, blocks: dict[str, float], tag: str, tmp_path: Path) -> None:
    """Of two numbers the first is that of the text encoders; the prompt's own reader takes it so, too."""
    model = {"name": "mini", "family": family, "weights": HASH}
    one = recipe(loras=(lora("cats", strength=0.8, blocks=blocks),), model=model)
    assert parameters(one).startswith(f"a red apple {tag}\n")
    (prompt,) = parsed(save_picture(tmp_path / "a.png", picture(), one)).prompts
    assert prompt.value == f"a red apple {tag}"
    _, (found,) = without_loras(tag, "here")
    assert (found.name, float(found.strength)) == ("cats", 0.8)
    assert found.blocks == (None if tag.count(":") == 2 else f"text={tag.split(':')[2]}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_recipe_and_pixels_are_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    one = recipe(prompt="träume 红")
    first, second = (save_picture(tmp_path / f"{name}{suffix}", picture(), one) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as image:
        pixels = numpy.asarray(image.convert("RGB"), dtype=int)
    apart = abs(pixels - numpy.asarray(picture(), dtype=int))
    assert apart.max() == 0 if suffix != ".jpg" else apart.mean() < 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


def test_jpeg_keeps_its_colours_at_full_size(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "a.jpeg", picture(), recipe())
    with Image.open(path) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_exif_is_what_other_programs_read_and_keep(suffix: str, tmp_path: Path) -> None:
    one = recipe(prompt="träume 红")
    path = save_picture(tmp_path / f"a{suffix}", picture(), one)
    with Image.open(path) as image:
        exif = image.getexif()
        inner = exif.get_ifd(ExifTags.IFD.Exif)
        assert inner[ExifTags.Base.ExifVersion] == b"0232"
        assert inner[ExifTags.Base.UserComment] == b"UNICODE\0" + parameters(one).encode("utf-16-be")
        image.save(tmp_path / f"b{suffix}", exif=image.info["exif"])
    assert recipe_text_of(tmp_path / f"b{suffix}") == written(one)


def test_exif_in_the_other_byte_order_is_read(tmp_path: Path) -> None:
    comment = b"UNICODE\0" + "hi".encode("utf-16-be")
    inner = struct.pack("<HHHII", 1, 0x9286, 7, len(comment), 44) + struct.pack("<I", 0)
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x8769, 4, 1, 26, 0) + inner + comment
    picture().save(tmp_path / "a.jpg", exif=b"Exif\0\0" + tiff)
    notes = notes_in(tmp_path / "a.jpg")
    assert notes is not None
    assert (notes.parameters, notes.recipe) == ("hi", None)


def test_a_long_prompt_is_written_as_far_as_there_is_room(tmp_path: Path) -> None:
    some, much, more = (recipe(prompt="apple " * count) for count in (2000, 5000, 20_000))
    odd = recipe(prompt="红" * 15_000)
    huge = recipe(prompt="🍎" * 100_000)
    for one, missing in (
        (some, None),
        (much, "its parameters"),
        (more, "its parameters and its recipe"),
        (odd, "its recipe"),
    ):
        assert left_out(".jpg", one) == missing
        path = save_picture(tmp_path / "a.jpg", picture(), one, overwrite=True)
        notes = notes_in(path)
        assert notes is not None
        assert notes.recipe == (None if "recipe" in (missing or "") else written(one))
        assert notes.parameters == (None if "parameters" in (missing or "") else parameters(one))
        for suffix in (".png", ".webp"):
            assert left_out(suffix, one) is None
            assert recipe_text_of(save_picture(tmp_path / f"a{suffix}", picture(), one, overwrite=True)) == written(one)
    for suffix in (".png", ".webp"):
        assert left_out(suffix, huge) == "its recipe"
        assert recipe_text_of(save_picture(tmp_path / f"a{suffix}", picture(), huge, overwrite=True)) is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_file_is_replaced_unless_that_is_asked(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"mine")
    assert save_picture(path, picture(), recipe()) == tmp_path / f"a-2{suffix}"
    assert save_picture(path, picture(), recipe(seed=8)) == tmp_path / f"a-3{suffix}"
    assert path.read_bytes() == b"mine"
    assert save_picture(path, picture(), recipe(seed=9), overwrite=True) == path
    seeds = [read(recipe_text_of(one) or "", one).seed for one in sorted(tmp_path.iterdir())]
    assert seeds == [7, 8, 9]


def test_disks_without_links_keep_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links")

    monkeypatch.setattr("os.link", link)
    first, second = (save_picture(tmp_path / "a.png", picture(), recipe(seed=seed)) for seed in (1, 2))
    assert [path.name for path in (first, second)] == ["a.png", "a-2.png"]
    assert sorted(tmp_path.iterdir()) == sorted((first, second))
    assert read(recipe_text_of(first) or "", first).seed == 1


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SdtuneError, match=r"a\.png: the disk is full"):
        save_picture(tmp_path / "a.png", picture(), recipe())
    assert not list(tmp_path.iterdir())


def test_a_format_that_ends_before_the_picture_does_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"webp has at most 16383 pixels a side; give --format png"):
        save_picture(tmp_path / "a.webp", Image.new("RGB", (16384, 1)), recipe())


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_files_of_strangers_say_nothing_rather_than_break(tmp_path: Path) -> None:
    path = tmp_path / "x"
    png = b"\x89PNG\r\n\x1a\n"
    ours = chunk(b"tEXt", b"sdtune\0{}")
    jpeg = b"\xff\xd8\xff\xe1"

    def segment(body: bytes) -> bytes:
        return jpeg + struct.pack(">H", len(body) + 2) + body

    exif = exif_of("{}", "a")
    loop = exif[:14] + struct.pack(">HHHIII", 1, 0x8769, 4, 1, 8, 8)
    for data in (
        b"",
        png,
        png + b"\xff" * 7,
        png + b"\xff\xff\xff\xfftEXt",
        png + ours[:-1] + b"x",
        png + ours[:12],
        png + b"\0\0\0\0abcd" * 1000,
        png + chunk(b"tEXt", b"sdtune"[:3]),
        png + chunk(b"iTXt", b"parameters\0"),
        png + chunk(b"iTXt", b"parameters\0\1\0\0\0" + b"x" * 100),
        png + chunk(b"tEXt", b"sdtune\0" + b"x" * 2**23),
        png + chunk(b"zTXt", b"sdtune\0\0" + zlib.compress(b"0" * 10**7)),
        jpeg,
        jpeg + b"\0\0",
        segment(exif[:20]),
        segment(loop),
        segment(b"Exif\0\0II*\0\xff\xff\xff\xff"),
        segment(b"Exif\0\0MM"),
        b"RIFF\xff\xff\xff\xffWEBP",
        b"RIFF\x10\0\0\0WEBPEXIF\xff\xff\xff\xffMM",
        b"RIFF\x10\0\0\0WEBPVP8 \xff\xff\xff\x7f",
    ):
        path.write_bytes(data)
        notes = notes_in(path)
        assert notes is None or (notes.recipe is None and not notes.parameters), data[:60]
    path.write_bytes(png + ours + chunk(b"IEND", b""))
    whole = notes_in(path)
    assert whole is not None
    assert (whole.recipe, whole.whole) == ("{}", True)
    path.write_bytes(segment(exif) + b"\xff\xd9")
    whole = notes_in(path)
    assert whole is not None
    assert (whole.recipe, whole.parameters, whole.whole) == ("{}", "a", True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_cut_is_not_whole(suffix: str, tmp_path: Path) -> None:
    path = save_picture(tmp_path / f"a{suffix}", picture(), recipe())
    notes = notes_in(path)
    assert notes is not None
    assert notes.whole
    path.write_bytes(path.read_bytes()[:-3])
    notes = notes_in(path)
    assert notes is not None
    assert not notes.whole


def test_a_folder_that_is_a_link_to_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "dead").symlink_to(tmp_path / "gone" / "further")
    with pytest.raises(SdtuneError, match="no folder that pictures can lie in"):
        save_picture(tmp_path / "dead" / "some.png", picture(8, 8), recipe())
