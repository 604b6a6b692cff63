from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from sdtune.choices.captioners import Filename, Folder, Template
from sdtune.core.captioners import Picture, load
from sdtune.tables import Memory

CPU = Memory(device="cpu")


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("red_apple-2.png", "red apple"),
        ("a red apple (3).jpg", "a red apple"),
        ("cat01.webp", "cat"),
        ("red apple - Copy (2).png", "red apple"),
        ("sunset_1920x1080.jpg", "sunset"),
        ("IMG_1234_red_car.jpg", "red car"),
        ("roter Apfel.png", "roter Apfel"),
        ("красное яблоко_3.png", "красное яблоко"),
        ("a\u202egpj\x1b[31m.png", "agpj 31m"),
        ("mg.png", ""),
        ("a photo.png", "a photo"),
        ("cafe.png", "cafe"),
        ("decade.png", "decade"),
    ],
)
def test_file_name_in_words(name: str, caption: str) -> None:
    assert caption_of(Filename(), Path("pictures") / name) == caption


@pytest.mark.parametrize(
    "name",
    [
        "IMG_1234",
        "img_1234",
        "DSC_0001",
        "DSC00001",
        "DSCN0001",
        "_MG_4711",
        "P1010001",
        "PXL_20240101_123456789",
        "20240101_123456",
        "GOPR0012",
        "IMG-20240101-WA0001",
        "image001",
        "photo-12",
        "download_(1)",
        "00012",
        "d41d8cd98f00b204",
        "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        "Screenshot_2024-01-01_at_10.11.12",
        "Untitled",
        "1024x768",
        "DJI_0042",
        "vid_20240101",
    ],
)
def test_a_name_made_by_a_machine_is_no_caption(name: str) -> None:
    assert load(Filename(), CPU).describe([Picture(Path(f"{name}.jpg"))]) == [[]]


@pytest.mark.parametrize(
    ("folder", "caption"), [("10_sks cat", "sks cat"), ("red_apples", "red apples"), ("cats", "cats"), ("7_", "")]
)
def test_folder_in_words(folder: str, caption: str) -> None:
    assert caption_of(Folder(), Path("set") / folder / "IMG_1.jpg") == caption


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("a photo of {trigger} {folder}, {name}", "a photo of sks cat, red hat"),
        ("{width}x{height} {{art}}", "30x20 {art}"),
        ("{name}", "red hat"),
    ],
)
def test_template_filled(text: str, caption: str) -> None:
    picture = Picture(Path("3_cat/red_hat_1.png"), Image.new("RGB", (30, 20)))
    (told,) = load(Template(text=text), CPU, trigger="sks").describe([picture])
    assert [one.text for one in told] == [caption]


def test_template_leaves_out_what_is_empty() -> None:
    text = "a photo of {trigger} {folder}, {name}, on white, {name}"
    assert caption_of(Template(text=text), Path("3_cat/IMG_1.png")) == "a photo of cat, on white"
    assert load(Template(text="{trigger}"), CPU).describe([Picture(Path("a.png"))]) == [[]]


def test_only_a_template_with_a_size_needs_images() -> None:
    assert not any(load(one, CPU).needs_image for one in (Filename(), Folder(), Template()))
    assert load(Template(text="{width}"), CPU).needs_image


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a {nam}", "has no field {nam}; there are {name}, {folder}, {trigger}, {width}, {height}"),
        ("a {}", "has no field {};"),
        ("a {name.__class__}", "has no field {name.__class__};"),
        ("a {name", "a brace without its partner"),
        ("a {name!r}", "bare fields"),
        ("a {width:>9999999999}", "bare fields"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValidationError, match="text") as error:
        Template(text=text)
    assert told in str(error.value)


def caption_of(settings: Filename | Folder | Template, path: Path) -> str:
    (told,) = load(settings, CPU).describe([Picture(path)])
    return told[0].text if told else ""
