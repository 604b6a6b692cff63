from __future__ import annotations

import base64
import re
import time
import tracemalloc
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdtune.core.data.buckets import Tally, bucket_for, bucket_sizes
from sdtune.core.data.views import views_of
from sdtune.core.intake import report
from sdtune.core.intake.report import Kept, ReportView, SetAside, Skipped, bucket_table, html
from sdtune.core.reports import Problem
from sdtune.tables import Augment

HARMLESS = """html head meta title style body header h1 h2 h3 p nav a div b span small main section ul li strong details
    summary table caption tr th td i figure figcaption em img wbr
    lang charset http-equiv content name id class dir href src alt"""
EMPTY = {"meta", "img", "wbr"}
HOSTILE = (
    "\x1b[31mred\x1b[0m.png",
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "evil\u202egnp.exe",
    "&amp;&#x202e;&lt;",
    "bad\udcff\x00\x7f\x9b31m\u200b\ufeff\U000e0041",
    "one\ntwo\rthree\tfour",
    "</style></title></table>",
)


class Reader(HTMLParser):
    """The page as a browser takes it: its tags, their attributes, and what is to be read."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.values += [(tag, name, value or "") for name, value in attrs]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def read(view: ReportView) -> Reader:
    reader = Reader()
    page = "".join(html(view))
    page.encode()
    reader.feed(page.removeprefix("<!doctype html>"))
    reader.close()
    assert not reader.open
    return reader


@pytest.fixture
def thumbnail(tmp_path: Path) -> Path:
    path = tmp_path / "thumb.jpg"
    Image.new("RGB", (8, 6), "red").save(path)
    return path


def a_view(text: str, thumbnail: Path | None) -> ReportView:
    """A page on which this text stands in every place that takes one."""
    return ReportView(
        title=text,
        settings=text,
        kept=[
            Kept(text, thumbnail, (4000, 3000), (1182, 886), text, 12, 10, True, (text,), (text,)),
            Kept(text, None, (512, 512), (512, 512)),
        ],
        set_aside=[SetAside(text, thumbnail, text, (96, 128), text, thumbnail), SetAside(text, None, text)],
        skipped=[Skipped(text, text)],
        problems=[Problem("missing", text, text, (text,)), Problem("everywhere", text, text, ())],
    )


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec=None, exclude_categories=()), min_size=1, max_size=50) | st.sampled_from(HOSTILE))
def test_no_text_becomes_markup_or_acts_unseen(text: str) -> None:
    page = read(a_view(text, None))
    plain = read(a_view("plain", None))
    assert [one for one in page.tags if one[0] != "wbr"] == plain.tags
    for letter in page.text + "".join(value for _, _, value in page.values):
        assert letter == "\n" or unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp"), ascii(letter)
        assert unicodedata.bidirectional(letter) not in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "[U+001B][31mred"),
        ("evil\u202egnp.exe", "evil[U+202E]gnp.exe"),
        ("bad\udcff\x9b", "bad[U+DCFF][U+009B]"),
        ("one\r\ntwo\tthree", "one  two three"),
        ("<script>&amp;'\"", "<script>&amp;'\""),
        ("日本語 שלום", "日本語 שלום"),
        ("a/b_c.png", "a/b_c.png"),
        ("e" + "\u0301" * 3, "e" + "\u0301" * 3),
        ("e" + "\u0301" * 50, "e" + "\u0301" * 3 + "[+47]"),
    ],
)
def test_all_texts_are_told(text: str, shown: str, thumbnail: Path) -> None:
    page = read(a_view(text, thumbnail))
    assert page.text.count(shown) == 20
    assert [value for tag, name, value in page.values if (tag, name) == ("img", "alt")] == [shown] * 3


def test_the_page_needs_nothing_else_and_runs_nothing(thumbnail: Path) -> None:
    page = read(a_view("cat.png", thumbnail))
    assert {word for tag, names in page.tags for word in (tag, *names)} <= set(HARMLESS.split())
    assert ("meta", "content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.values
    assert ("meta", "charset", "utf-8") in page.values
    targets = {value for _, name, value in page.values if name == "href"}
    assert targets
    assert targets <= {f"#{value}" for _, name, value in page.values if name == "id"}
    sources = [value for _, name, value in page.values if name == "src"]
    wanted = "data:image/jpeg;base64," + base64.b64encode(thumbnail.read_bytes()).decode()
    assert sources == [wanted] * 3
    assert not any(word in "".join(html(a_view("", None))) for word in ("http:", "https:", "url(", "@import", "//"))


def test_the_same_view_makes_the_same_page(thumbnail: Path) -> None:
    view = a_view("cat.png", thumbnail)
    assert "".join(html(view)) == "".join(html(view))


def test_an_empty_view_is_a_page() -> None:
    page = read(ReportView("dataset", "nothing"))
    assert not [value for _, name, value in page.values if name == "href"]  # which would lead nowhere
    assert "0 in the data set" in page.text


def test_what_is_said_of_images() -> None:
    page = read(a_view("cat.png", None)).text
    for words in ("4000\xa0×\xa03000 →\xa01182\xa0×\xa0886", "10 repeats", "held out", "no caption", "kept instead"):
        assert words in page, words
    assert "512\xa0×\xa0512 →" not in page
    assert "1 of them held out" in page
    assert "1 with a caption 1 without" in page
    long = read(replace(a_view("", None), kept=[Kept("a", None, (9, 9), (9, 9), "x" * 1000, 300)])).text
    assert "x" * report.LETTERS + f"... and {1000 - report.LETTERS} letters more" in long
    assert "x" * (report.LETTERS + 1) not in long


@pytest.mark.parametrize("content", [None, b"", b"<svg onload=alert(1)>", b"\x89PNG", b"\xff\xd8" + bytes(2**18)])
def test_what_is_no_thumbnail_is_left_out(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "thumb.jpg"
    if content is not None:
        path.write_bytes(content)
    page = read(a_view("cat.png", path))
    assert "img" not in dict(page.tags)
    assert page.text.count("no picture") == 5


def test_of_many_images_the_first_are_shown_and_all_are_named(thumbnail: Path) -> None:
    view = ReportView(
        "dataset",
        "",
        [Kept(f"kept-{n}.", thumbnail, (9, 9), (9, 9)) for n in range(12)],
        [SetAside(f"aside-{n}.", thumbnail, f"blurred-{n}.") for n in range(11)],
        [Skipped(f"skipped-{n}.", f"empty-{n}.") for n in range(11)],
        [Problem("missing", "12 images", "", tuple(f"problem-{n}." for n in range(12)))],
    )
    with patch.multiple(report, SHOWN=10, NAMED=5):
        page = read(view)
    words = Counter(word for text in page.texts for word in text.replace(":", " ").split())
    for prefix, count in (("kept", 12), ("aside", 11), ("blurred", 11), ("skipped", 11), ("empty", 11), ("problem", 5)):
        for number in range(count):
            assert words[f"{prefix}-{number}."] == 1, (prefix, number)
    assert not words["problem-5."]
    assert Counter(tag for tag, _ in page.tags)["img"] == 20
    assert "and 2 more, by name" in page.text
    assert "and 7 more" in page.text


def test_many_images_are_written_in_small_pieces(thumbnail: Path) -> None:
    kept = [Kept(f"{n}.png", thumbnail, (900 + n % 99, 800), (900 + n % 99, 800), "a cat", 2) for n in range(20_000)]
    start, total, largest = time.monotonic(), 0, 0
    tracemalloc.start()
    try:
        for piece in html(ReportView("dataset", "", kept)):
            total += len(piece)
            largest = max(largest, len(piece))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total > 10**6
    assert largest < 50_000
    assert peak < 10 * 2**20
    assert time.monotonic() - start < 100


def bars(view: ReportView, title: str) -> list[tuple[str, int]]:
    table = "".join(html(view)).split(f"<caption>{title}</caption>")[1].split("</table>")[0]
    rows = re.findall(r"<tr><th>(.*?)</th><td class=\"bar\">.*?</td><td>([\d,]+)</td></tr>", table)
    return [(label, int(count.replace(",", ""))) for label, count in rows]


def test_histograms_count_every_image_once() -> None:
    lengths = {1: 2, 10: 1, 11: 1, 77: 1, 78: 3}
    sides = {16: 1, 255: 1, 256: 2, 767: 1, 768: 1, 4096: 1, 9000: 1}
    kept = [Kept("a", None, (9999, 9999), (64, 64), "cat", n) for n, count in lengths.items() for _ in range(count)]
    kept += [Kept("a", None, (side, 9999), (64, 64), None, 0) for side, count in sides.items() for _ in range(count)]
    view = ReportView("dataset", "", kept)
    by_length = [row for row in bars(view, "Length of captions, tokens") if row[1]]
    assert by_length == [("no caption", 8), ("1-10", 3), ("11-20", 1), ("61-77", 1), ("over 77: cut off", 3)]
    by_side = [row for row in bars(view, "Shorter side of the originals, pixels") if row[1]]
    assert by_side == [("under 256", 2), ("256-383", 2), ("640-767", 1), ("768-1,023", 1), ("4,096 and more", 10)]


def test_a_histogram_begins_and_ends_with_what_there_is() -> None:
    kept = [Kept("a", None, (300, 300), (64, 64), "cat", 15), Kept("a", None, (600, 600), (64, 64), "cat", 35)]
    view = ReportView("dataset", "", kept)
    assert bars(view, "Length of captions, tokens") == [("11-20", 1), ("21-30", 0), ("31-40", 1)]
    assert bars(view, "Shorter side of the originals, pixels") == [("256-383", 1), ("384-511", 0), ("512-639", 1)]


Sizes = st.lists(st.tuples(st.integers(16, 3000), st.integers(16, 3000)), max_size=30)


@settings(deadline=None)
@given(Sizes, st.sampled_from([512, 768, 1024]))
def test_the_bucket_table_says_what_training_does(sizes: list[tuple[int, int]], resolution: int) -> None:
    rows = {row.size: row for row in bucket_table(sizes, resolution)}
    assert list(rows) == sorted(rows, key=lambda size: (size[0] / size[1], size))
    assert set(rows) == {bucket_for(*size, resolution) for size in sizes}
    for bucket, row in rows.items():
        inside = [size for size in sizes if bucket_for(*size, resolution) == bucket]
        assert row.images == len(inside)
        # as large as a resized image would be that covers the bucket
        covers = [max(Fraction(bucket[0], width), Fraction(bucket[1], height)) for width, height in inside]
        assert row.enlarged == sum(scale > Fraction(5, 4) for scale in covers)
        areas = [scale * scale * width * height for scale, (width, height) in zip(covers, inside, strict=True)]
        cropped = sum(1 - bucket[0] * bucket[1] / float(area) for area in areas) / len(inside)
        assert row.cropped == pytest.approx(cropped, abs=1e-9)
        assert row.cropped >= 0


@pytest.mark.parametrize("resolution", [512, 768, 1024])
def test_what_is_as_a_bucket_loses_nothing(resolution: int) -> None:
    sizes = bucket_sizes(resolution)
    rows = bucket_table(sizes, resolution)
    assert {row.size for row in rows} == {bucket_for(*size, resolution) for size in sizes}
    assert not any(row.enlarged for row in rows)
    assert all(row.cropped < 1e-12 for row in rows if row.images == 1)


def test_cropping_is_as_training_crops() -> None:
    (row,) = bucket_table([(2000, 500)], 512)
    left, top = views_of(2000, 500, "", row.size, Augment())[0].corner()
    seen = row.size[0] / (row.size[0] + 2 * left) * row.size[1] / (row.size[1] + 2 * top)
    assert row.cropped == pytest.approx(1 - seen, abs=0.003)
    assert bucket_table([(400, 400), (410, 410), (2000, 500)], 512)[0] == Tally((512, 512), 2, 0.0, 0.0, 1, 1.28)
    assert bucket_table([], 512) == ()


def test_an_image_may_be_enlarged_by_a_quarter() -> None:
    assert [row.enlarged for row in bucket_table([(512, 512)], 640)] == [0]
    assert [row.enlarged for row in bucket_table([(511, 511)], 640)] == [1]


def test_a_table_holds_every_image_once() -> None:
    sizes: Sequence[tuple[int, int]] = [(500 + n % 1000, 500 + n % 10) for n in range(100_000)]
    assert sum(row.images for row in bucket_table(sizes, 1024)) == 100_000
