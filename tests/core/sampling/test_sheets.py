"""Sheets: every picture in its place, and nothing written over it."""

from __future__ import annotations

import weakref
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from sdtune.core.sampling import sheets
from sdtune.core.sampling.axes import Axis
from sdtune.core.sampling.axis_settings import Value
from sdtune.core.sampling.layout import Shown, tables_of
from sdtune.core.sampling.sheets import GROUND, LEAST, TALLEST, plan_of, write_sheet
from sdtune.core.sheet import WIDEST, opened

HOSTILE = (
    "\x1b[31mred\x1b[0m",
    "<script>alert(1)</script>",
    "\u202egnp.exe \u2028 \ud800 \x00",
    "a\u0301" + "\u0301" * 5000,
    "חתול قطة 猫 кошка γάτα",
    "w" * 100_000,
    "word " * 20_000,
    "",
)


def axis(name: str, *labels: str) -> Axis:
    return Axis(name, tuple(Value(label, lambda one: one) for label in labels))


def picture(
    folder: Path, number: int, *, cell: tuple[int, ...] = (), size: tuple[int, int] = (64, 48), **more: object
) -> Shown:
    """One of a colour of its own, which `number` tells."""
    prompt, seed, line = str(more.get("prompt", "a cat")), int(str(more.get("seed", 1))), int(str(more.get("line", 1)))
    path = folder / f"{number:05d}.png"
    folder.mkdir(exist_ok=True)
    Image.new("RGB", size, colour(number)).save(path)
    return Shown(path, prompt, seed, line, cell, f"{prompt}\nSteps: 5, Sampler: Euler, Seed: {seed}")


def colour(number: int) -> tuple[int, int, int]:
    return (number % 200, 10 + number // 200, 200)


def crossed(folder: Path, *axes: Axis, **more: object) -> list[Shown]:
    return [
        picture(folder, number, cell=cell, **more)  # type: ignore[arg-type]
        for number, cell in enumerate(product(*(range(len(one.values)) for one in axes)))
    ]


def cells_of(sheet: Path) -> dict[tuple[int, int, int], tuple[int, int, int, int]]:
    """{colour: the box of its pixels}, of those of pictures; every box is full."""
    found = {}
    with Image.open(sheet) as page:
        rgb = page.convert("RGB")
    red, green, blue = rgb.split()
    for count, one in rgb.getcolors(2**14) or []:
        if isinstance(one, tuple) and one[2] == 200 and 10 <= one[1] < 20 and count > 100:
            masks = [
                band.point(lambda level, own=own: 255 * (level == own))
                for band, own in zip((red, green, blue), one, strict=True)
            ]
            both = Image.composite(masks[0], Image.new("L", rgb.size), masks[1])
            box = Image.composite(both, Image.new("L", rgb.size), masks[2]).getbbox()
            assert box
            assert count == (box[2] - box[0]) * (box[3] - box[1])
            found[one] = box
    return found


def test_the_first_axis_goes_down_and_the_second_across(tmp_path: Path) -> None:
    axes = (axis("strength", "0", "0.5", "1"), axis("seed", "1", "2", "3", "4"))
    pictures = crossed(tmp_path / "p", *axes)
    write_sheet(pictures, axes, tmp_path / "sheet.png")
    found = cells_of(tmp_path / "sheet.png")
    assert len(found) == 12
    lefts, tops = sorted({box[0] for box in found.values()}), sorted({box[1] for box in found.values()})
    for number, one in enumerate(pictures):
        box = found[colour(number)]
        assert (tops.index(box[1]), lefts.index(box[0])) == one.cell
        assert (box[2] - box[0], box[3] - box[1]) == (192, 144)


@pytest.mark.parametrize("prompt", HOSTILE)
def test_labels_lie_over_no_picture(tmp_path: Path, prompt: str) -> None:
    axes = (axis("prompt", prompt, prompt[::-1]), axis("lora", prompt, "cats 0.8"))
    pictures = crossed(tmp_path / "p", *axes, prompt=prompt)
    for some, along in ((pictures, axes), (crossed(tmp_path / "q", axes[1], prompt=prompt), axes[1:])):
        write_sheet(some, along, tmp_path / "sheet.png")
        assert len(cells_of(tmp_path / "sheet.png")) == len(some)  # each box is full
        with Image.open(tmp_path / "sheet.png") as page:
            assert page.width <= WIDEST
            assert page.height <= TALLEST
            edge = page.crop((page.width - 4, 0, page.width, page.height)).getcolors()
            assert edge == [(4 * page.height, tuple(bytes.fromhex(GROUND[1:])))]  # nothing runs out of the sheet


def test_captions_lie_over_no_picture(tmp_path: Path) -> None:
    for prompt in HOSTILE:
        pictures = [
            picture(tmp_path / "p", number, prompt=f"a {prompt[:3000]} {number}", seed=number) for number in range(3)
        ]
        write_sheet(pictures, (), tmp_path / "sheet.png")
        assert len(cells_of(tmp_path / "sheet.png")) == 3
        (table,) = tables_of(pictures, ())
        assert plan_of(table, TALLEST).under > 0


def test_a_sheet_is_of_the_format_that_its_name_tells(tmp_path: Path) -> None:
    axes = (axis("steps", "1", "2"),)
    for name, kind in (("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP")):
        write_sheet(crossed(tmp_path / "p", *axes), axes, tmp_path / name)
        with Image.open(tmp_path / name) as page:
            assert page.format == kind


def test_a_picture_that_is_missing_or_broken_leaves_its_cell_empty(tmp_path: Path) -> None:
    axes = (axis("steps", "1", "2", "3", "4"),)
    pictures = crossed(tmp_path / "p", *axes)
    pictures[0].path.unlink()
    pictures[1].path.write_bytes(pictures[2].path.read_bytes()[:60])
    pictures[3].path.write_text("no picture")
    write_sheet(pictures, axes, tmp_path / "sheet.png")
    assert set(cells_of(tmp_path / "sheet.png")) == {colour(2)}


def test_large_grids_are_scaled_down_to_what_can_be_looked_at(tmp_path: Path) -> None:
    path = picture(tmp_path, 0, size=(1024, 1024)).path
    for count, most in ((10, WIDEST), (100, 100 * (LEAST + 8) + 400)):
        some = tuple(axis("steps", *map(str, range(count))) for _ in range(2))
        cells = product(range(count), range(count))
        (table,) = tables_of([Shown(path, "p", 1, 1, cell, "") for cell in cells], some)
        width, height = plan_of(table, TALLEST).size
        assert width <= most
        assert height <= TALLEST


def test_one_picture_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = (axis("steps", "1", "2", "3"), axis("seed", "1", "2", "3"))
    held: list[weakref.ref[Image.Image]] = []

    def watched(path: Path) -> Image.Image | None:
        assert not any(one() for one in held)
        found = opened(path)
        assert found
        held.append(weakref.ref(found))
        return found

    monkeypatch.setattr(sheets, "opened", watched)
    write_sheet(crossed(tmp_path / "p", *axes), axes, tmp_path / "sheet.png")
    assert len(held) == 9


def test_the_same_pictures_make_the_same_bytes(tmp_path: Path) -> None:
    axes = (axis("steps", "1", "2"),)
    pictures = crossed(tmp_path / "p", *axes)
    for name in ("a.png", "b.png"):
        write_sheet(pictures, axes, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "p"]
