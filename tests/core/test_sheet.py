"""A sheet shows every picture, enlarged where it is small, under its words."""

from pathlib import Path

import pytest
from PIL import Image

from sdtune.core.sheet import WIDEST, font_of, growing_sheet, sheet, wrapped


def test_every_picture_is_there() -> None:
    colours = [["#ff0000", "#00ff00", "#0000ff"], ["#ffff00", "#ff00ff", "#00ffff"]]
    rows = [[Image.new("RGB", (64, 32), colour) for colour in row] for row in colours]
    page = sheet(rows, ["a red apple, a very long caption that is wrapped " * 5, "", "x" * 200], ["before", "after"])
    counted = {colour: count for count, colour in page.getcolors(maxcolors=2**20) or []}
    for colour in [colour for row in colours for colour in row]:
        rgb = tuple(bytes.fromhex(colour[1:]))
        assert counted[rgb] == 192 * 96
    assert page.width < 3 * 192 + 5 * 8


def test_large_pictures_stay_as_they_are() -> None:
    page = sheet([[Image.new("RGB", (512, 512), "#ff0000")]], [""], [""])
    assert (512 * 512, (255, 0, 0)) in (page.getcolors(maxcolors=2**20) or [])


def drawn(folder: Path, steps: list[int], prompts: int = 2, side: int = 64) -> Path:
    """Samples as a run leaves them, each of a colour of its own."""
    folder.mkdir(exist_ok=True)
    for step in steps:
        for number in range(1, prompts + 1):
            Image.new("RGB", (side, side), (step % 256, number, 7)).save(folder / f"step-{step:06d}-{number}.png")
    return folder


def cells(path: Path) -> dict[tuple[int, int], int]:
    """{(step, number): pixels}"""
    with Image.open(path) as page:
        colours = page.convert("RGB").getcolors(maxcolors=2**24) or []
    return {
        colour[:2]: count for count, colour in colours if isinstance(colour, tuple) and colour[2] == 7 and count > 500
    }


def test_a_sheet_grows_by_a_column_each_time(tmp_path: Path) -> None:
    out = tmp_path / "samples.png"
    for steps in ([0], [0, 80], [0, 80, 160]):
        folder = drawn(tmp_path / "samples", steps[-1:])
        assert growing_sheet(folder, ["a cat", ""], out)
        assert cells(out) == {(step, number): 192 * 192 for step in steps for number in (1, 2)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples", "samples.png"]


@pytest.mark.parametrize(("columns", "side"), [(11, 128), (11, 1024), (19, 64), (100, 64)])
def test_many_columns_are_scaled_and_thinned(tmp_path: Path, columns: int, side: int) -> None:
    folder = drawn(tmp_path / "samples", list(range(columns)), 1, side)
    growing_sheet(folder, ["a cat"], tmp_path / "samples.png")
    with Image.open(tmp_path / "samples.png") as page:
        assert page.width <= WIDEST
    shown = cells(tmp_path / "samples.png")
    assert {(0, 1), (columns - 1, 1)} <= set(shown)
    assert len(shown) == min(columns, 19)
    assert len(set(shown.values())) == 1
    assert min(shown.values()) >= 192 * 192


def test_a_picture_that_is_missing_or_broken_leaves_its_cell_empty(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "samples", [0, 80, 160])
    (folder / "step-000080-1.png").unlink()
    (folder / "step-000160-2.png").write_bytes((folder / "step-000160-1.png").read_bytes()[:70])
    (folder / "step-000240-1.png").mkdir()
    for name in ("step-000320-9.png", "step-1-1.jpg", ".step-000400-1.png", "notes.txt"):
        (folder / name).write_text("x")
    assert growing_sheet(folder, ["a cat", "a dog"], tmp_path / "samples.png")
    assert set(cells(tmp_path / "samples.png")) == {(0, 1), (0, 2), (80, 2), (160, 1)}


def test_without_samples_there_is_no_sheet(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    assert not growing_sheet(tmp_path / "samples", ["a cat"], tmp_path / "samples.png")
    assert not (tmp_path / "samples.png").exists()


@pytest.mark.parametrize(
    "text", ["a red apple " * 40, "w" * 100_000, "word " * 20_000, "", "ab " + "c" * 90, "א" * 300]
)
def test_lines_are_of_their_width_and_nothing_is_lost_but_behind_dots(text: str) -> None:
    font = font_of(14)
    for width in (40, 200):
        lines = wrapped(text, font, width, 3)
        assert len(lines) <= 3
        assert all(font.getlength(line) <= width for line in lines)
        told = "".join(lines).replace(" ", "")
        if told.endswith("..."):
            assert text.replace(" ", "").startswith(told[:-3])
            assert len(told) > 3
        else:
            assert told == text.replace(" ", "")


def test_what_acts_without_being_seen_is_written_out() -> None:
    assert wrapped("\x1b[31m \u202e", font_of(14), 2000) == ["[U+001B][31m [U+202E]"]


def test_many_scripts_have_letters() -> None:
    """A letter that the font lacks is drawn as a box, the same for all."""
    font = font_of(20)
    box = bytes(font.getmask("\U0010fffd"))
    assert not [letter for letter in "aßçñжяαωאבعب" if bytes(font.getmask(letter)) == box]
