"""The shelf: what is there, what it is called, and that nothing is replaced."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdtune.core.picture_file import save_picture
from sdtune.core.sampling.recipe import Recipe
from sdtune.core.sampling.shelf import Shelf
from sdtune.errors import ConfigError, OutputError
from sdtune.sample_config import Sample
from tests.core.sampling.recipes import recipe

PICTURE = Image.new("RGB", (64, 48), "red")


def shelf(out: Path, pictures: int = 1, **told: Any) -> Shelf:
    return Shelf(Sample(prompt=("a",), out=out, **told), pictures)


def put(on: Shelf, one: Recipe, **words: object) -> Path:
    return save_picture(on.place(one, words), PICTURE, one, overwrite=on.config.overwrite)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_picture_is_found_again_by_its_recipe_whatever_it_is_called(tmp_path: Path) -> None:
    path = put(shelf(tmp_path), recipe())
    path.rename(tmp_path / "mine.png")
    again = shelf(tmp_path)
    assert again.there(recipe()) == tmp_path / "mine.png"
    assert again.there(recipe(seed=8)) is None
    assert shelf(tmp_path, overwrite=True).there(recipe()) is None
    assert shelf(tmp_path, format="webp").there(recipe()) is None
    assert shelf(tmp_path, again=path).there(recipe()) is None


@pytest.mark.parametrize(("kind", "suffix"), [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp")])
def test_each_format_is_found_and_a_file_that_is_cut_is_not(kind: str, suffix: str, tmp_path: Path) -> None:
    path = put(shelf(tmp_path, format=kind), recipe())
    assert path.name == f"00001-7-a-red-apple{suffix}"
    assert shelf(tmp_path, format=kind).there(recipe()) == path
    path.write_bytes(path.read_bytes()[:-3])
    assert shelf(tmp_path, format=kind).there(recipe()) is None
    assert shelf(tmp_path, format=kind, overwrite=True).place(recipe(), {}) == path


def test_a_picture_whose_pixels_are_damaged_is_drawn_anew_beside_it(tmp_path: Path) -> None:
    path = put(shelf(tmp_path), recipe())
    data = path.read_bytes()
    begin = data.index(b"IDAT") + 4
    path.write_bytes(data[:begin] + bytes(20) + data[begin + 20 :])
    assert len(path.read_bytes()) == len(data)
    anew = shelf(tmp_path)
    assert anew.there(recipe()) is None
    assert put(anew, recipe()).name == "00002-7-a-red-apple.png"
    assert shelf(tmp_path).there(recipe()) == tmp_path / "00002-7-a-red-apple.png"
    assert put(shelf(tmp_path, overwrite=True), recipe()) == path
    assert path.read_bytes() == data
    path.write_bytes(data[:begin])
    with pytest.raises(OutputError, match="exists already"):
        shelf(path).there(recipe())


def test_broken_files_are_passed_over(tmp_path: Path) -> None:
    path = put(shelf(tmp_path), recipe())
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    (tmp_path / "b.png").mkdir()
    (tmp_path / "c.png").symlink_to("nowhere")
    (tmp_path / ".00009-x.png").write_bytes(path.read_bytes())
    (tmp_path / "d.png").write_bytes(path.read_bytes().replace(b'"seed":7', b'"seed":x'))
    path.unlink()
    assert shelf(tmp_path).there(recipe()) is None


def test_names_count_on_after_the_highest_number(tmp_path: Path) -> None:
    first = shelf(tmp_path, 2)
    assert [put(first, recipe(seed=seed)).name for seed in (7, 8)] == [
        "00001-7-a-red-apple.png",
        "00002-8-a-red-apple.png",
    ]
    assert first.further("grid", ".png").name == "grid-00003.png"
    assert first.further("grid", ".html").name == "grid-00004.html"
    (tmp_path / "grid-00012.png").touch()
    assert shelf(tmp_path).place(recipe(), {}).name == "00013-7-a-red-apple.png"
    (tmp_path / "100000-x.webp").touch()
    assert shelf(tmp_path).place(recipe(), {}).name == "100001-7-a-red-apple.png"
    for name in ("999999999-0-x.png", "00123456-x.png", "cat-1234567890.png"):
        (tmp_path / name).touch()
    assert shelf(tmp_path).place(recipe(), {}).name == "100001-7-a-red-apple.png"
    assert shelf(tmp_path, name="cat-{number}").place(recipe(), {}).name == "cat-100001.png"


def test_names_that_came_there_meanwhile_are_not_given(tmp_path: Path) -> None:
    one, other = shelf(tmp_path), shelf(tmp_path)
    assert put(one, recipe()).name == "00001-7-a-red-apple.png"
    assert other.place(recipe(), {}).name == "00002-7-a-red-apple.png"
    (tmp_path / "grid-00003.png").touch()
    assert other.further("grid", ".png").name == "grid-00004.png"


def test_one_name_for_two_pictures_is_told(tmp_path: Path) -> None:
    place = shelf(tmp_path, 2, name="{prompt}")
    assert put(place, recipe()).name == "a-red-apple.png"
    with pytest.raises(OutputError, match=r"gives a-red-apple\.png to two pictures; put \{number\}"):
        place.place(recipe(seed=8), {})
    with pytest.raises(OutputError, match=r"a-red-apple\.png: exists already"):
        shelf(tmp_path, name="{prompt}").place(recipe(seed=8), {})
    anew = shelf(tmp_path, name="{prompt}", overwrite=True)
    assert put(anew, recipe(seed=8)).name == "a-red-apple.png"
    assert names(tmp_path) == ["a-red-apple.png"]


def test_with_overwrite_a_picture_is_drawn_into_its_own_file(tmp_path: Path) -> None:
    first = [put(shelf(tmp_path), recipe(seed=seed)) for seed in (7, 8)]
    anew = shelf(tmp_path, 3, overwrite=True)
    assert [put(anew, recipe(seed=seed)) for seed in (8, 7)] == first[::-1]
    assert put(anew, recipe(seed=9)).name == "00003-9-a-red-apple.png"
    assert put(anew, recipe(seed=9)).name == "00004-9-a-red-apple.png"


def test_a_picture_of_the_same_run_is_never_written_over(tmp_path: Path) -> None:
    put(shelf(tmp_path), recipe())
    anew = shelf(tmp_path, 2, overwrite=True)
    assert len({anew.place(recipe(), {}), anew.place(recipe(), {})}) == 2


def test_one_file(tmp_path: Path) -> None:
    out = tmp_path / "new/a.JPEG"
    assert put(shelf(out), recipe()) == out
    assert shelf(out).there(recipe()) == out
    with pytest.raises(OutputError, match=r"a\.JPEG: exists already; give another name with --out"):
        shelf(out).there(recipe(seed=8))
    with pytest.raises(OutputError, match="exists already"):
        shelf(out, again=tmp_path / "other.jpg")
    assert put(shelf(out, overwrite=True), recipe(seed=8)) == out
    with pytest.raises(ConfigError, match="names one picture, but 2 are asked for; give a folder"):
        shelf(out, 2)
    with pytest.raises(ConfigError, match=r"ends in \.jpeg, but --format is webp; give one of them"):
        shelf(out, format="webp")
    (tmp_path / "mine.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        shelf(tmp_path / "mine.png")
    assert names(tmp_path) == ["mine.png", "new/a.JPEG"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("told", [{}, {"compare": True}])
def test_what_is_no_file_is_not_replaced(told: dict[str, Any], overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(
        put(shelf(tmp_path / "folder.png" / "a.png"), recipe()) if overwrite else "nowhere"
    )
    os.mkfifo(tmp_path / "pipe.png")
    for name, what in (("folder", "a folder"), ("link", "a link"), ("pipe", "no file")):
        with pytest.raises(OutputError, match=rf"{name}\.png: is {what}; give another name with --out$"):
            shelf(tmp_path / f"{name}.png", overwrite=overwrite, **told)


@pytest.mark.parametrize(
    ("told", "right", "wrong", "kinds"),
    [
        ({}, "png jpg JPEG webp", "gif mp4 pdf html txt", r"pictures are \.png, \.jpg or \.webp files"),
        ({"compare": True}, "png jpg JPEG webp", "gif mp4 pdf html", r"sheets are \.png, \.jpg or \.webp files"),
        ({"grid": ("seed=1,2",)}, "png jpg webp", "gif MP4", r"sheets are \.png, \.jpg or \.webp files"),
        ({"animate": "strength"}, "webp gif GIF", "png jpg mp4 webm", r"animations are \.webp or \.gif files"),
    ],
)
def test_endings_are_those_of_what_is_made(
    told: dict[str, Any], right: str, wrong: str, kinds: str, tmp_path: Path
) -> None:
    for ending in right.split():
        shelf(tmp_path / f"a.{ending}", **told)
    for name in [*(f"a.{ending}" for ending in wrong.split()), f".{wrong.split()[0]}", ".png"]:
        with pytest.raises(ConfigError, match=rf"{name}: {kinds}; give a name that ends so, or a folder"):
            shelf(tmp_path / name, **told)
    for name in ("a.b", "v1.5", "1.0"):
        assert shelf(tmp_path / name, **told).folder == tmp_path / name
    (tmp_path / "a.mp4").mkdir()
    assert shelf(tmp_path / "a.mp4", 2, **told).folder == tmp_path / "a.mp4"


@pytest.mark.parametrize("flag", ["init", "mask", "again"])
def test_what_the_work_begins_with_is_never_replaced(flag: str, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    PICTURE.save(photo)
    (tmp_path / "link.png").symlink_to(photo)
    told: dict[str, Any] = {"init": photo, flag: photo, "overwrite": True}
    kept = rf"is the picture of --{'init' if flag == 'init' else 'init|--mask|--again'}, which stays"
    for out, more in ((photo, {}), (tmp_path / "link.png", {}), (photo, {"compare": True})):
        with pytest.raises(OutputError, match=kept):
            shelf(out, **told, **more)
    by_name = shelf(tmp_path, name="photo", **(told | {"init": tmp_path / "link.png"}))
    with pytest.raises(OutputError, match="which stays; give another name with --name"):
        by_name.place(recipe(), {})
    assert put(shelf(tmp_path, name="other", **told), recipe()) == tmp_path / "other.png"


def test_a_picture_that_another_process_drew_meanwhile_is_this_one(tmp_path: Path) -> None:
    first, second, third = (shelf(tmp_path, name="{seed}-{prompt}") for _ in range(3))
    path = put(first, recipe())
    assert second.there(recipe()) == path
    assert third.place(recipe(), {}) == path
    before = path.read_bytes()
    assert save_picture(path, PICTURE.transpose(Image.Transpose.ROTATE_180), recipe()) == path
    assert path.read_bytes() == before
    assert save_picture(path, PICTURE, recipe(), again=True) == path.with_stem(f"{path.stem}-2")
    assert save_picture(path, PICTURE, recipe(steps=9)) == path.with_stem(f"{path.stem}-3")
    with pytest.raises(OutputError, match="exists already"):
        shelf(tmp_path, name="{seed}-{prompt}", again=path).place(recipe(), {})


def test_home_is_spelt_out_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert shelf(Path("~/a.png")).single == tmp_path / "a.png"
    with pytest.raises(OutputError, match=r"^~nosuch/x: there is no ~nosuch on this machine; give a whole path"):
        shelf(Path("~nosuch/x"))
    Path("~nosuch").mkdir()
    assert shelf(Path("~nosuch/x")).folder == Path("~nosuch/x")


def test_what_is_made_of_all_has_the_name_that_is_given(tmp_path: Path) -> None:
    film = shelf(tmp_path / "turn.gif", 5, animate="strength")
    assert put(film, recipe()) == tmp_path / "turn/00001-7-a-red-apple.png"
    assert [film.named(".gif"), film.named(".gif")] == [tmp_path / "turn.gif", None]
    assert film.further("animation", ".gif") == tmp_path / "turn/animation-00002.gif"
    sheet = shelf(tmp_path / "all.webp", 5, compare=True)
    assert [sheet.named(one) for one in (".webp", ".html", ".webp", ".html")] == [
        tmp_path / "all.webp",
        tmp_path / "all.html",
        None,
        None,
    ]
    assert shelf(tmp_path / "all", 5, compare=True).named(".png") is None


@pytest.mark.parametrize("there", ["a.png", "a.html"])
def test_a_sheet_that_is_there_lets_its_own_command_go_on(there: str, tmp_path: Path) -> None:
    (tmp_path / there).touch()
    with pytest.raises(OutputError, match=rf"{there}: exists already"):
        shelf(tmp_path / "a.png", 2, compare=True)
    shelf(tmp_path / "a.png", 2, compare=True, overwrite=True)
    PICTURE.save(tmp_path / "mine.png")
    (tmp_path / "a").mkdir()
    PICTURE.save(tmp_path / "a/mine.png")
    with pytest.raises(OutputError, match=rf"{there}: exists already"):
        shelf(tmp_path / "a.png", 2, compare=True)
    put(shelf(tmp_path / "a"), recipe())
    shelf(tmp_path / "a.png", 2, compare=True)


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for out, told in (
        ("file", "is a file; give a folder"),
        ("link", "a link that leads nowhere"),
        ("file/x", "cannot be written"),
        ("x" * 300, "cannot be written"),
    ):
        with pytest.raises(OutputError, match=told):
            shelf(tmp_path / out)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(("kind", "suffix"), [("grid", ".png"), ("grid", ".html"), ("animation", ".webp")])
def test_what_an_earlier_run_made_the_same_is_not_there_twice(kind: str, suffix: str, tmp_path: Path) -> None:
    place = shelf(tmp_path, 2)

    def made(text: str) -> str:
        path = place.further(kind, suffix)
        path.write_text(text)
        return place.settled(path).name

    (tmp_path / f"{kind}-mine{suffix}").write_text("one")
    (tmp_path / "00001-one.png").write_text("one")
    assert [made(text) for text in ("one", "two", "one", "TWO", "two")] == [
        f"{kind}-{number:05d}{suffix}" for number in (1, 2, 1, 3, 2)
    ]
    assert made("three") == f"{kind}-00004{suffix}"
    assert len(names(tmp_path)) == 6


def test_a_sheet_beside_its_folder_can_be_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(os, "access", lambda place, _: Path(place) != tmp_path)
    shelf(tmp_path / "a", 2, compare=True)
    with pytest.raises(OutputError, match="does not allow it"):
        shelf(tmp_path / "a.png", 2, compare=True)


def test_a_picture_that_is_asked_for_twice_is_there_twice(tmp_path: Path) -> None:
    place = shelf(tmp_path, 2)
    both = [put(place, recipe()), put(place, recipe())]
    again = shelf(tmp_path, 3)
    assert [again.there(recipe()) for _ in range(3)] == [*both, None]
    for _ in range(2):
        over = shelf(tmp_path, 2, overwrite=True)
        assert [over.place(recipe(), {}) for _ in range(2)] == both
