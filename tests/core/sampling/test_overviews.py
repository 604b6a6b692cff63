"""Overviews: what is made of all pictures has its name, is made once, and replaces nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdtune.choices.samplers import DDIM
from sdtune.core.applied import Applied
from sdtune.core.blocks import Strength
from sdtune.core.lora import Lora
from sdtune.core.picture_file import save_picture
from sdtune.core.reports import Report, Saved, Warned
from sdtune.core.sampling.asked import Asked
from sdtune.core.sampling.overviews import Finished, overviews
from sdtune.core.sampling.shelf import Shelf
from sdtune.sample_config import Sample
from tests.core.sampling.recipes import recipe
from tests.core.sampling.test_sheets import axis

AXES = (axis("steps", "5", "10"),)


def made(out: Path, seeds: int = 1, colour: str = "red", **told: Any) -> list[Report]:
    """What a command tells of its overviews, whose pictures are drawn where they are not there."""
    config = Sample(prompt=("a",), out=out, **(told or {"grid": ("steps=5,10",)}))
    shelf = Shelf(config, 2 * seeds)
    pictures = []
    for seed in range(seeds):
        for place, steps in enumerate((5, 10)):
            one = recipe(seed=seed, steps=steps)
            path = shelf.there(one)
            if path is None:
                picture = Image.new("RGB", (64, 48), colour)
                path = save_picture(shelf.place(one, {}), picture, one, overwrite=config.overwrite)
            lora = Applied(Path("cats.safetensors"), Lora({}, {}), Strength(0.5))
            asked = Asked("a", "", seed, (64, 48), steps, 5.0, DDIM(), (lora,), cell=(place,))
            pictures.append(Finished(asked, one, path))
    return list(overviews(config, AXES, pictures, shelf, drawn=len(pictures)))


def saved(reports: list[Report], below: Path) -> list[tuple[str, str]]:
    return [(one.what, str(one.path.relative_to(below))) for one in reports if isinstance(one, Saved)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "told", "whats"),
    [
        ("a.png", {}, ["a.png", "a.html"]),
        ("a.webp", {}, ["a.webp", "a.html"]),
        ("a.JPG", {}, ["a.JPG", "a.html"]),
        ("a.webp", {"animate": "steps=5,10"}, ["a.webp"]),
        ("a.gif", {"animate": "steps=5,10"}, ["a.gif"]),
        ("a", {}, ["a/grid-00003.png", "a/grid-00004.html"]),
    ],
)
def test_the_same_command_goes_on(name: str, told: dict[str, Any], whats: list[str], tmp_path: Path) -> None:
    assert [path for _, path in saved(made(tmp_path / name, **told), tmp_path)] == whats
    before = files(tmp_path)
    again = made(tmp_path / name, **told)
    assert [path for _, path in saved(again, tmp_path)] == whats
    assert all("there already" in what for what, _ in saved(again, tmp_path))
    assert not [one for one in again if isinstance(one, Warned)]
    assert files(tmp_path) == before


def test_another_sheet_than_the_one_that_is_there_goes_into_the_folder(tmp_path: Path) -> None:
    made(tmp_path / "a.png")
    before = files(tmp_path)
    more = made(tmp_path / "a.png", seeds=2)
    assert [path for _, path in saved(more, tmp_path)] == ["a/grid-00005.png", "a/grid-00006.html"]
    warned = [one.text for one in more if isinstance(one, Warned)]
    assert [re.search(r"a\.(png|html): is there already, and another", line) is not None for line in warned] == [
        True
    ] * 2
    assert files(tmp_path).items() >= before.items()
    links = re.findall(r'<img src="\./([^"]*)"', (tmp_path / "a/grid-00006.html").read_text())
    assert len(links) == 4
    assert all((tmp_path / "a" / link).is_file() for link in links)
    assert saved(made(tmp_path / "a.png", seeds=2), tmp_path) == [
        ("sheet (there already)", "a/grid-00005.png"),
        ("page (there already)", "a/grid-00006.html"),
    ]
    assert not list(tmp_path.rglob(".*"))


def test_with_overwrite_it_is_replaced(tmp_path: Path) -> None:
    made(tmp_path / "a.png")
    before = files(tmp_path)
    told: dict[str, Any] = {"grid": ("steps=5,10",), "overwrite": True}
    assert saved(made(tmp_path / "a.png", 1, "blue", **told), tmp_path) == [("sheet", "a.png"), ("page", "a.html")]
    assert files(tmp_path).keys() == before.keys()
    assert files(tmp_path)["a.png"] != before["a.png"]


def test_a_page_names_the_lora(tmp_path: Path) -> None:
    made(tmp_path / "a.png")
    assert "LoRA cats 0.5, " in (tmp_path / "a.html").read_text()
