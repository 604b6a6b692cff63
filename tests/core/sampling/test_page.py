"""The page of a grid: whatever prompts say, it is letters; pictures are found; nothing runs."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from sdtune.core.sampling.layout import Shown
from sdtune.core.sampling.page import STYLE, address_of, write_page
from tests.core.sampling.test_sheets import HOSTILE, axis, crossed, picture

TAGS = """html head meta title style body header main section h1 h2 p div table thead tbody tr th td span figure a img
    figcaption details summary pre"""
ATTRIBUTES = (
    """lang charset http-equiv content name class tabindex dir scope href src alt width height loading decoding"""
)


class Reader(HTMLParser):
    """What a browser takes from the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(path: Path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("prompt", HOSTILE)
def test_whatever_a_prompt_says_is_letters(tmp_path: Path, prompt: str) -> None:
    axes = (axis("prompt", prompt, f'"><img src=x onerror=alert(1)>{prompt}'), axis("lora", prompt, "cats 0.8"))
    pictures = crossed(tmp_path, *axes, prompt=prompt)
    write_page(pictures, axes, tmp_path / "grid.html")
    page = read(tmp_path / "grid.html")
    assert {tag for tag, _ in page.tags} <= set(TAGS.split())
    assert {name for _, attributes in page.tags for name in attributes} <= set(ATTRIBUTES.split())
    told = "".join([*page.texts, *(one["alt"] for one in page.all("img"))])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\ud800-\udfff]", told)
    assert len(page.all("img")) == len(page.all("a")) == 4
    assert (tmp_path / "grid.html").stat().st_size < 100_000


@pytest.mark.parametrize(
    "name", ["a b.png", "javascript:alert(1).png", "100%#?.png", "'\"><b>.png", "猫.png", "//evil.png", "&amp;.png"]
)
def test_pictures_are_found_beside_the_page(tmp_path: Path, name: str) -> None:
    one = picture(tmp_path, 0)
    path = one.path.rename(tmp_path / name.lstrip("/"))
    write_page([Shown(path, "a cat", 1, 1, (), "")], (), tmp_path / "grid.html")
    (shown,) = read(tmp_path / "grid.html").all("img")
    assert re.fullmatch(r"\./[A-Za-z0-9%._~-]+", shown["src"])
    assert (tmp_path / unquote(shown["src"])).samefile(path)
    assert (shown["width"], shown["height"]) == ("64", "48")
    assert [link["href"] for link in read(tmp_path / "grid.html").all("a")] == [shown["src"]]


def test_names_that_are_no_utf8_are_found_too(tmp_path: Path) -> None:
    assert address_of(tmp_path / "bad\udcff.png", tmp_path) == "./bad%FF.png"
    assert address_of(tmp_path / "deep" / "a.png", tmp_path) == "./deep/a.png"


def test_nothing_is_loaded_but_pictures_and_nothing_runs(tmp_path: Path) -> None:
    axes = (axis("steps", "1", "2"),)
    write_page(crossed(tmp_path, *axes), axes, tmp_path / "grid.html")
    text = (tmp_path / "grid.html").read_text(encoding="utf-8")
    policy = next(one["content"] for one in read(tmp_path / "grid.html").all("meta") if "http-equiv" in one)
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; img-src 'self' file:;")
    assert "script" not in policy
    assert not re.search(r"https?://|url\(|@import|style=", text)


def test_each_picture_stands_under_its_headings(tmp_path: Path) -> None:
    axes = (axis("strength", "0", "1"), axis("seed", "7", "8", "9"))
    pictures = crossed(tmp_path, *axes, prompt="a red cat")
    write_page(pictures, axes, tmp_path / "grid.html")
    page = read(tmp_path / "grid.html")
    assert [unquote(one["src"])[2:] for one in page.all("img")] == [one.path.name for one in pictures]
    assert [one["alt"] for one in page.all("img")][:2] == [
        "strength 0 (base), seed 7, a red cat",
        "strength 0 (base), seed 8, a red cat",
    ]
    headings = [text for text in page.texts if text.startswith(("strength ", "seed "))]
    assert [text for text in headings if text.startswith("seed")][:3] == ["seed 7", "seed 8", "seed 9"]
    assert {"strength 0 (base)", "strength 1"} <= set(headings)
    assert "a red cat" in page.texts
    assert "Steps 5, Sampler Euler, Seed 1" in page.texts


def test_the_same_pictures_make_the_same_page(tmp_path: Path) -> None:
    axes = (axis("steps", "1", "2"),)
    pictures = crossed(tmp_path, *axes)
    for name in ("a.html", "b.html"):
        write_page(pictures, axes, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_picture_that_is_gone_leaves_its_words(tmp_path: Path) -> None:
    axes = (axis("steps", "1", "2"),)
    pictures = crossed(tmp_path, *axes)
    pictures[0].path.unlink()
    write_page(pictures, axes, tmp_path / "grid.html")
    assert ["width" in one for one in read(tmp_path / "grid.html").all("img")] == [False, True]


def test_a_page_counts_in_words_and_scrolls_as_a_whole(tmp_path: Path) -> None:
    for count, counted in ((1, "1 picture."), (2, "2 pictures.")):
        axes = (axis("steps", *map(str, range(count))),)
        write_page(crossed(tmp_path, *axes), axes, tmp_path / f"{count}.html")
        assert f"{counted} A click on one shows its file." in read(tmp_path / f"{count}.html").texts
    (table,) = re.findall(r"^\.table \{([^}]*)\}", STYLE, re.MULTILINE)
    assert "overflow" not in table, "headings stay in sight of the page alone"


def test_what_a_prompt_became_stands_under_its_picture(tmp_path: Path) -> None:
    axes = (axis("seed", "1", "2"),)
    pictures = [
        picture(tmp_path, seed, cell=(seed,), prompt=f"a {what} fox", seed=seed)
        for seed, what in enumerate(("red", "blue"))
    ]
    write_page(pictures, axes, tmp_path / "grid.html")
    told = [text.strip() for text in read(tmp_path / "grid.html").texts if text.strip()]
    assert {"a ... fox", "red", "blue"} <= set(told)
