"""The pages of evaluations: one file, whatever names and prompts say is letters, and nothing runs or is fetched."""

from __future__ import annotations

import base64
import errno
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image

from sdtune.core.evaluation import contact, details, page_frame
from sdtune.core.evaluation.comparison_page import write_comparison_page
from sdtune.core.evaluation.intervals import Refused
from sdtune.core.evaluation.outcome import Copy, Outcome
from sdtune.core.evaluation.page import write_page
from tests.core.evaluation import outcomes

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "]]></title></style></svg><b onclick=x>",
    "\x1b[31m\u202egnp.exe \u2028 \ud800 \x00",
    "a\u0301" + "\u0301" * 3000,
    "w" * 20_000,
    "javascript:alert(1)//&lt;&#60;",
)
TAGS = """html head meta title style body header main section div p h1 h2 h3 figure img figcaption b em small span ol ul
    li details summary code br table thead tbody tr th td dl dt dd svg g text line path polyline polygon circle rect"""
ATTRIBUTES = """lang charset http-equiv content name class tabindex dir scope colspan src alt width height decoding id
    role aria-label aria-hidden viewbox x y x1 x2 y1 y2 cx cy r d points transform text-anchor"""
VOID = ("meta", "img", "br")
PAGE_BYTES = 8 * 2**20


class Reader(HTMLParser):
    """What a browser takes from the page; every element must end where it should."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def told(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def shown(found: Outcome, place: Path) -> Reader:
    write_page(found, place / "report.html")
    return read(place / "report.html")


def read(path: Path) -> Reader:
    """The page, after all that is so of every page."""
    assert path.stat().st_size < PAGE_BYTES
    page = Reader(path.read_text(encoding="utf-8"))
    assert {tag for tag, _ in page.tags} <= set(TAGS.split())
    assert {name for _, attributes in page.tags for name in attributes} <= set(ATTRIBUTES.split())
    for one in page.all("img"):
        assert re.fullmatch(r"data:image/webp;base64,[A-Za-z0-9+/]+=*", one["src"])
        assert one["alt"]
    told = "".join([*page.texts, *(value for _, attributes in page.tags for value in attributes.values())])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\ud800-\udfff]", told)
    assert not re.search(r"\bnan\b|\binf\b", told)
    assert "<script" not in path.read_text(encoding="utf-8").lower()
    policies = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page_frame.STYLE.encode()).digest()).decode()
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]
    assert f"<style>{page_frame.STYLE}</style>" in path.read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?:", page_frame.STYLE)
    return page


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """A folder of pictures, and the tags of pages about them."""
    place = tmp_path_factory.mktemp("plain")
    return place, [[tag for tag, _ in page.tags] for page in pages(place, "")]


def pages(place: Path, hostile: str) -> list[Reader]:
    some = outcomes.outcome(place, steps=(900,), strengths=(1.0,), hostile=hostile)
    more = outcomes.outcome(place, steps=(300, 900), strengths=(1.0,), subjects=2, hostile=hostile)
    write_comparison_page(outcomes.comparison(place, hostile=hostile), place / "compare.html")
    return [shown(some, place), shown(more, place), read(place / "compare.html")]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_whatever_names_and_prompts_say_is_letters(plain: tuple[Path, list[list[str]]], hostile: str) -> None:
    place, tags = plain
    assert [[tag for tag, _ in page.tags] for page in pages(place, hostile)] == tags
    assert (place / "report.html").stat().st_size < 2_000_000


def test_the_recommendation_stands_first_with_what_to_do_and_pictures_beside_it(tmp_path: Path) -> None:
    page = shown(outcomes.outcome(tmp_path), tmp_path)
    order = [
        "Use step 900 at strength 1",
        "Closest to the references",
        "What was learned shows in 85% of the drawings",
        "Use the file cats-0-900.safetensors",
        "sdtune sample --prompt 'a house' --lora run/cats-0-900.safetensors:1",
        "Closeness 0.80 0.77 to 0.83, higher is better better than the base model (0.60)",
        "Concept F1 0.84 0.73 to 0.95, higher is better base model: 0.40 by construction",
        "Near-copies 3 of 15 drawings, lower is better look at the pairs below recites 2 of 2 trained captions",
        "Pictures of step 900",
        "Near-copies of trained pictures",
        "Over checkpoints",
        "All figures",
        "How to read",
    ]
    places = [page.told.index(one) for one in order]
    assert places == sorted(places)
    alts = [one["alt"].split(":")[0] for one in page.all("img")]
    assert alts[:3] == ["base model", "step 900 at strength 1", "real picture"]
    assert alts[3:8] == [
        "base model",
        *(f"at strength {one}" for one in ("0.5", "0.8", "1")),
        "real picture or trained picture",
    ]
    assert page.told.count("49 trained.") == 1


def test_the_recommended_point_is_ringed_in_every_chart(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path)
    found = replace(found, ranking=(replace(found.ranking[0], cell=found.cells[4].cell),))  # not of the last line
    page = shown(found, tmp_path)
    rings = [one for one in page.all("circle") if one["class"] == "ring"]
    assert len(rings) == 1 + 9  # in the legend, and of each measure


def test_a_disk_that_takes_no_more_is_told_with_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = Mock(side_effect=OSError(errno.EFBIG, "File too large"))
    monkeypatch.setattr(page_frame, "write_atomically", limited)
    with pytest.raises(OSError, match=r"File too large: .*report\.html"):
        write_page(outcomes.outcome(tmp_path), tmp_path / "report.html")


def test_a_row_of_the_base_says_what_is_given_rather_than_found(tmp_path: Path) -> None:
    rows = shown(outcomes.outcome(tmp_path), tmp_path).told.split("drawing by drawing")[1]
    base = rows[rows.index("base model") : rows.index("step 300")]
    assert base.count("by construction") == 4  # copies, concept F1, drift, loss
    others = rows[rows.index("step 300") : rows.index("How to read")]
    assert others.count("better") > 5  # closeness and loss; never concept F1 or drift
    assert re.search(r"0\.0\d 0\.\d\d to", others)


def test_copies_stand_beside_what_they_copy(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path, strengths=(1.0,))
    page = shown(found, tmp_path)
    alts = [one["alt"] for one in page.all("img")]
    place = alts.index("trained picture img_03.png")
    assert alts[place + 1] == "step 900 at strength 1: a turtle, xyz style in-distribution"
    assert "likeness 0.973, usual up to 0.910" in page.told
    assert "3 of these are by step 900 at strength 1." in page.told
    assert "Recited captions: 2 by step 900 at strength 1, 0 by others" in page.told
    assert "Near-copies in other prompts: 1 by step 900 at strength 1, 0 by others" in page.told
    other = replace(found, ranking=(replace(found.ranking[0], cell=found.cells[1].cell, alarms=()),))
    told = shown(other, tmp_path).told
    assert "None of these is by step 300 at strength 1." in told
    assert "Recited captions: 0 by step 300 at strength 1, 2 by others" in told
    assert "0 of 15 drawings, lower is better no sign of copying recites 0 of 2 trained captions" in told


def test_a_copy_of_the_base_is_looked_up_among_the_pictures_of_all(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path, subjects=2, strengths=(0.5,))
    more = outcomes.reference(tmp_path / "trained" / "more.png", 77)
    subjects = found.case.subjects
    subjects = (subjects[0], replace(subjects[1], trained=(*subjects[1].trained, more)))
    base = replace(found.cells[0], copies=(Copy(0, 4, 0.99, 0.9, True),))
    page = shown(replace(found, case=replace(found.case, subjects=subjects), cells=(base, *found.cells[1:])), tmp_path)
    assert "trained picture more.png" in {one["alt"] for one in page.all("img")}


def test_the_picture_of_a_pair_is_beside_its_drawings(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path, strengths=(1.0,))
    mine = outcomes.picture(tmp_path / "mine.png", 5)
    pair = replace(found.case.prompts[-1], kind="pair", truth=mine)
    found = replace(found, case=replace(found.case, prompts=(*found.case.prompts[:-1], pair)))
    page = shown(found, tmp_path)
    assert "Prompts with a true picture 1" in page.told
    columns = [one["alt"].split(":")[0] for one in page.all("img") if one["alt"].endswith(pair.text)]
    assert columns[:3] == ["base model", "at strength 1", "real picture or trained picture or true picture"]


def test_details_are_told_in_words_and_once(tmp_path: Path) -> None:
    found = outcomes.found_beside()
    keys = {key for of in found.values() for key in of}
    assert keys == {*details.WORDS, *details.UNTOLD}
    page = shown(outcomes.outcome(tmp_path), tmp_path)
    told = page.told[page.told.index("More figures of step 900 at strength 1") :]
    assert told.count("drawings that should show what was learned, and do") == 1
    assert not [key for key in keys if "_" in key and key in told]


def test_thousands_of_copies_are_counted_rather_than_shown(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path, strengths=(1.0,))
    many = tuple(Copy(unit % 10, unit % 4, 0.99, 0.9, False) for unit in range(3000))
    page = shown(replace(found, cells=(*found.cells[:-1], replace(found.cells[-1], copies=many))), tmp_path)
    assert "2,992 more, by name" in page.told
    assert "and 2,792 more, in report.json" in page.told
    assert len([one for one in page.all("img") if one["alt"].startswith("trained picture")]) == 4


def test_the_same_outcome_is_the_same_page(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path)
    shown(found, tmp_path)
    once = (tmp_path / "report.html").read_bytes()
    shown(found, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == once


def test_one_lora_is_shown_over_its_strengths(tmp_path: Path) -> None:
    page = shown(outcomes.outcome(tmp_path, steps=(900,)), tmp_path)
    assert "Over strengths" in page.told
    columns = [one["alt"].split(":")[0] for one in page.all("img") if "a sunflower, xyz style in" in one["alt"]]
    assert columns[3:8] == [
        "base model",
        *(f"at strength {one}" for one in ("0.5", "0.8", "1")),
        "real picture or trained picture",
    ]
    assert shown(outcomes.outcome(tmp_path, steps=(900,), strengths=(0.8,)), tmp_path).all("svg")


def test_measures_that_are_refused_are_told_with_the_reason(tmp_path: Path) -> None:
    page = shown(outcomes.outcome(tmp_path, refused=True), tmp_path)
    assert (
        "Could not be measured FID : 12 references are too few: it takes 256; add pictures, or use --force" in page.told
    )
    assert page.told.count("it takes 256") == 1
    assert "Over checkpoints" not in page.told


def test_refusals_for_one_reason_stand_together(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path)
    names = ("concept_f1", "concept_recall")
    cells = [
        replace(one, values={**one.values, **{name: Refused(f"{place} of 100 references are seen") for name in names}})
        for place, one in enumerate(found.cells[:5])
    ]
    told = shown(replace(found, cells=(*cells, *found.cells[5:])), tmp_path).told
    assert "Concept F1, Concept recall : 4 of 100 references are seen (in 5 of 10 rows)" in told
    assert told.count("references are seen") == 1


def test_where_nothing_is_recommended_the_closest_is_shown(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path)
    ranking = (replace(found.ranking[0], cell=None, alarms=(), reasons=()),)
    none = replace(found, ranking=ranking, sentence="use none of them: nothing was learned", try_next="")
    page = shown(none, tmp_path)
    assert "Use none of them Nothing was learned" in page.told
    assert "Nothing is recommended. The figures of step 900 at strength 1: Closeness 0.80" in page.told
    alts = [one["alt"].split(":")[0] for one in page.all("img")[:3]]
    assert alts == ["base model", "step 900 at strength 1", "real picture"]
    assert not {"badge", "chosen"} & {one.get("class") for _, one in page.tags}
    assert "sdtune sample" not in page.told
    near = [
        replace(one, values={**one.values, "closeness": outcomes.value({0: 0.99, 5: 0.9}.get(place, 0.2), 0.1)})
        for place, one in enumerate(found.cells)
    ]
    assert "The figures of step 600 at strength 0.8:" in shown(replace(none, cells=tuple(near)), tmp_path).told
    only = shown(replace(none, cells=found.cells[:1], ranking=(), curves={}), tmp_path)
    assert "All figures" in only.told


def test_trainings_are_ranked_where_any_is_recommended(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path, subjects=2)
    told = shown(found, tmp_path).told
    assert "Ranking cats-2 , cats-2 step 900 at strength 1: closest" in told
    assert "cats-1 , none of its LoRAs: closest" in told
    none = tuple(replace(one, cell=None) for one in found.ranking)
    assert "Ranking" not in shown(replace(found, ranking=none), tmp_path).told


def test_many_checkpoints_of_several_runs_have_room(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path, steps=tuple(range(50, 1050, 50)))
    page = shown(found, tmp_path)
    rows = [one for one in page.all("th") if one.get("scope") == "row"]
    assert len(rows) > 2 * 61  # all LoRAs at all strengths in both tables
    heads = re.findall(r"step (\d+) at strength 1\b", page.told)
    assert {"50", "1000"} <= set(heads)


def test_a_page_takes_no_more_pictures_than_it_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = outcomes.outcome(tmp_path)
    whole = len(shown(found, tmp_path).all("img"))
    monkeypatch.setattr(contact, "PAGE_BYTES", 4000)
    page = shown(found, tmp_path)
    assert 0 < len(page.all("img")) < whole
    assert re.search(r"and \d+ more in pictures/", page.told)


def test_pictures_that_are_gone_or_broken_leave_a_box(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path)
    missing = replace(found.cells[0], pictures=(tmp_path / "gone.png", *found.cells[0].pictures[1:]))
    found = replace(found, cells=(missing, *found.cells[1:]))
    found.case.references[0].path.write_bytes(b"\x89PNG\r\n")
    assert shown(found, tmp_path).told.count("no picture") == 6  # at the top, and in both sheets


def test_large_pictures_become_small(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.effect_noise((1024, 512), 80).convert("RGB").save(path)
    album = contact.Album()
    small = Reader(album.picture(path, "noise")).all("img")[0]
    assert (small["width"], small["height"]) == ("160", "80")
    assert len(small["src"]) < 20_000


def test_the_better_of_two_is_told_measure_by_measure(tmp_path: Path) -> None:
    write_comparison_page(outcomes.comparison(tmp_path), tmp_path / "compare.html")
    page = read(tmp_path / "compare.html")
    assert page.told.index("A is better In 1 of 4 measures") < page.told.index("Measure by measure")
    assert "A is better in 1 of 3 measures" in page.told  # diversity has no better
    assert [one["alt"].split(":")[0] for one in page.all("img")[:4]] == ["base model", "A", "B", "real picture"]
    rows = page.told.split("verdict")[1]
    assert "+0.20 +0.10 to +0.30" in rows
    assert "no clear difference noise up to 0.10" in rows
    dots = [float(one["cx"]) for one in page.all("circle")]
    assert dots[0] > 80 > dots[3]  # what is lower is better in the last, and it speaks for B
