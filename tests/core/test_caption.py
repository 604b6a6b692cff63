"""A data set is described and its captions are put right: where they belong, whole, and without a loss."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from sdtune.config import Caption, resolve
from sdtune.core import captioners
from sdtune.core.caption import caption
from sdtune.core.captioners.base import Describer, Picture, Told
from sdtune.core.reports import Captioned, Described, Note, Problem, Report, Skipped, Statistics, Warned
from sdtune.errors import ConfigError, DataError, OutputError
from tests.pictures import COLOURS


def run(folder: Path, **settings: Any) -> list[Report]:
    return list(caption(resolve(Caption, [{"folder": str(folder), "captioner": "filename", **settings}])))


def of(kind: type[Report], reports: Sequence[Report]) -> list[Any]:
    return [report for report in reports if isinstance(report, kind)]


def put(folder: Path, *names: str, text: str | bytes | None = None) -> None:
    """Pictures, each with this caption where one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (32, 24), COLOURS[number % len(COLOURS)]).save(folder / name)
        if text is not None:
            path = (folder / name).with_suffix(".txt")
            path.write_bytes(text if isinstance(text, bytes) else text.encode())


def texts(folder: Path) -> dict[str, str]:
    """What every caption file of a folder holds."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.txt"))}


class Teller(Describer):
    """A captioner of the tests: tells what it is given, and remembers what it was asked."""

    kind: ClassVar[str] = "blip"
    asked: ClassVar[list[list[str]]] = []
    tells: ClassVar[list[str]] = ["a disc", "a round thing", "a dot"]
    batch = 2

    def __init__(self, settings: Any, setting: Any) -> None: ...

    def describe(self, pictures: Sequence[Picture], variants: int = 1) -> list[list[Told]]:
        self.asked.append([picture.path.name for picture in pictures])
        assert all(picture.image is not None and picture.image.mode == "RGB" for picture in pictures)
        return [[Told(one) for one in self.tells[: len(self.tells) if self.tags else variants]] for _ in pictures]


@pytest.fixture
def teller(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Teller]]:
    """The captioner blip, which tells the same of every picture."""
    monkeypatch.setattr(Teller, "asked", [])
    monkeypatch.setattr(captioners, "load", lambda *_: Teller(None, None))
    return Teller


# ---- describing


def test_what_lacks_a_caption_is_described_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    put(tmp_path, "red_apple.png", "green pear.png")
    put(tmp_path / "10_sks cat", "asleep.png")
    put(tmp_path / "held-out", "old.png", text="kept as it is ")
    put(tmp_path, "blank.png", text=" \n")
    reports = run(tmp_path)
    assert texts(tmp_path) == {
        "10_sks cat/asleep.txt": "asleep\n",
        "blank.txt": "blank\n",
        "green pear.txt": "green pear\n",
        "held-out/old.txt": "kept as it is ",
        "red_apple.txt": "red apple\n",
    }
    assert [(one.path.name, one.captions, one.number, one.of) for one in of(Captioned, reports)] == [
        ("asleep.png", ("asleep",), 1, 4),
        ("blank.png", ("blank",), 2, 4),
        ("green pear.png", ("green pear",), 3, 4),
        ("red_apple.png", ("red apple",), 4, 4),
    ]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    note, end = run(tmp_path)
    assert isinstance(note, Note)
    assert "all 5 images have captions" in note.text
    assert (end.images, end.skipped) == (0, 0)  # type: ignore[union-attr]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_each_batch_is_on_disk_before_the_next_begins(teller: type[Teller], tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    work = caption(resolve(Caption, [{"folder": str(tmp_path), "captioner": "blip"}]))
    first = next(report for report in work if isinstance(report, Captioned))
    assert (first.number, first.of) == (1, 5)
    work.close()
    assert texts(tmp_path) == {"a.txt": "a disc\n", "b.txt": "a disc\n"}
    run(tmp_path, captioner="blip")
    assert teller.asked == [["a.png", "b.png"], ["c.png", "d.png"], ["e.png"]]
    assert len(texts(tmp_path)) == 5


@pytest.mark.usefixtures("teller")
def test_an_image_that_cannot_be_read_costs_itself_alone(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:60])
    os.mkfifo(tmp_path / "pipe.png")
    reports = run(tmp_path, captioner="blip")
    assert sorted(texts(tmp_path)) == ["a.txt", "c.txt"]
    assert [report.path.name for report in of(Skipped, reports)] == ["pipe.png", "b.png"]
    assert [(report.number, report.of) for report in of(Captioned, reports)] == [(2, 3), (3, 3)]
    assert (of(Described, reports)[0].images, of(Described, reports)[0].skipped) == (2, 2)
    with pytest.raises(DataError, match="2 images left out"):
        run(tmp_path, captioner="blip", mode="overwrite", strict=True)
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(DataError, match="none of 3 images could be described"):
        run(tmp_path, captioner="blip", mode="overwrite")


@pytest.mark.usefixtures("teller")
def test_several_captions_are_lines_of_one_file(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    run(tmp_path, captioner="blip", variants=3, wording={"trigger": "sks"})
    assert texts(tmp_path) == {"a.txt": "sks, a disc\nsks, a round thing\nsks, a dot\n"}


@pytest.mark.usefixtures("teller")
@pytest.mark.parametrize(
    ("mode", "variants", "text"),
    [
        ("missing", 1, "there\n"),
        ("overwrite", 1, "a disc\n"),
        ("append", 1, "there, a disc\n"),
        ("append", 2, "there\na disc\na round thing\n"),
    ],
)
def test_a_caption_that_is_there_is_changed_as_the_mode_says(
    mode: str, variants: int, text: str, tmp_path: Path
) -> None:
    put(tmp_path, "a.png", text="there\n")
    for _ in range(2):
        run(tmp_path, captioner="blip", mode=mode, variants=variants)
        assert texts(tmp_path) == {"a.txt": text}


def test_tags_become_one_caption(teller: type[Teller], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(teller, "tags", True)
    monkeypatch.setattr(teller, "tells", ["solo", "long_hair", "hat"])
    put(tmp_path, "a.png")
    put(tmp_path, "b.png", text="Hat, a dog\n")
    reports = run(tmp_path, captioner="blip", mode="append", variants=2)
    assert texts(tmp_path) == {"a.txt": "solo, long_hair, hat\n", "b.txt": "Hat, a dog, solo, long_hair\n"}
    assert any("one caption" in note.text for note in of(Note, reports))


def test_captions_of_models_are_cleaned(teller: type[Teller], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(teller, "tells", ["a\ndisc\x1b[31m \u202eon\x00 white", "  ", "é" * 9000])
    put(tmp_path, "a.png")
    run(tmp_path, captioner="blip", variants=2)
    assert texts(tmp_path) == {"a.txt": "a disc[31m on white\n"}
    monkeypatch.setattr(teller, "tells", [" é" * 9000])
    run(tmp_path, captioner="blip", mode="overwrite")
    assert 8000 < len((tmp_path / "a.txt").read_bytes()) <= 8192
    run(tmp_path, mode="edit", wording={"suffix": ", end"})
    assert (tmp_path / "a.txt").read_text().endswith("é, end\n")


def test_a_captioner_that_has_nothing_to_say_writes_nothing(tmp_path: Path) -> None:
    put(tmp_path, "IMG_1234.png", "a cat.png")
    (skipped,) = of(Skipped, run(tmp_path))
    assert skipped.path.name == "IMG_1234.png"
    assert texts(tmp_path) == {"a cat.txt": "a cat\n"}
    (tmp_path / "IMG_1234.txt").write_text("a dog")
    assert of(Skipped, run(tmp_path, mode="append")) == []
    assert (tmp_path / "IMG_1234.txt").read_text() == "a dog\n"


def test_images_that_would_share_a_caption_file_are_told(tmp_path: Path) -> None:
    put(tmp_path, "cat.jpg", "cat.png")
    (skipped,) = of(Skipped, run(tmp_path))
    assert (skipped.path.name, "shares cat.txt with cat.jpg" in skipped.reason) == ("cat.png", True)


def test_prior_images_get_no_trigger(tmp_path: Path) -> None:
    put(tmp_path, "a cat.png")
    put(tmp_path / "reg", "a dog.png")
    run(tmp_path, wording={"trigger": "sks"})
    assert texts(tmp_path) == {"a cat.txt": "sks, a cat\n", "reg/a dog.txt": "a dog\n"}


def test_a_dry_run_tells_captions_and_writes_nothing(tmp_path: Path) -> None:
    put(tmp_path, "a cat.png")
    (told,) = of(Captioned, run(tmp_path, dry_run=True))
    assert (told.captions, told.written) == (("a cat",), False)
    assert texts(tmp_path) == {}


# ---- where captions stand


def test_metadata_keeps_its_order_its_columns_and_what_it_does_not_know(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png", "c.png", "new one.png")
    lines = [
        '{"text": "told", "file_name": "a.png", "score": 0.5,  "note": "é"}',
        '{"file_name": "b.png", "prompt": "", "id": 7}\r',
        "",
        "{broken",
        '{"file_name":"gone.png","text":"of another place"}',
        '{"file_name": "c.png", "id": 8}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), newline="")
    reports = run(tmp_path, to="metadata")
    changed = (tmp_path / "metadata.jsonl").read_bytes().decode().split("\n")
    assert changed == [
        lines[0],
        '{"file_name": "b.png", "prompt": "b", "id": 7}\r',
        *lines[2:5],
        '{"file_name": "c.png", "id": 8, "text": "c"}',
        '{"file_name": "new one.png", "text": "new one"}',
        "",
    ]
    assert texts(tmp_path) == {}
    assert any("metadata.jsonl:4" in warned.text for warned in of(Warned, reports))
    run(tmp_path, mode="edit", wording={"trigger": "sks"})
    told = [json.loads(line)["text"] for line in changed[:1]]
    assert told == ["told"]
    assert (
        '"text": "sks, told", "file_name": "a.png", "score": 0.5, "note": "é"'
        in (tmp_path / "metadata.jsonl").read_text()
    )


@pytest.mark.usefixtures("teller")
def test_new_captions_go_where_they_are_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "10_cat", "a.png")
    put(tmp_path, "b.png", text="there")
    run(tmp_path, captioner="blip", to="metadata", variants=2)
    assert (tmp_path / "10_cat" / "metadata.jsonl").read_text() == (
        '{"file_name": "a.png", "text": ["a disc", "a round thing"]}\n'
    )
    assert texts(tmp_path) == {"b.txt": "there"}
    assert not (tmp_path / "metadata.jsonl").exists()
    assert "have captions" in of(Note, run(tmp_path))[0].text


def test_a_line_without_its_caption_is_filled_in(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    put(tmp_path, "c.png", text="beside")
    lines = [{"file_name": name, "text": ""} for name in ("a.png", "c.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    run(tmp_path, mode="missing")
    run(tmp_path, mode="edit", wording={"trigger": "sks"})
    told = [json.loads(line)["text"] for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert told == ["sks, a", ""]
    assert texts(tmp_path) == {"b.txt": "sks, b\n", "c.txt": "sks, beside\n"}


def test_a_caption_is_changed_where_it_stands(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "a.caption").write_text("in a")
    (tmp_path / "metadata.csv").write_text("file_name,text\nb.png,in b\n")
    (tmp_path / "c.json").write_text('{"caption": "in c"}')
    reports = run(tmp_path, mode="edit", wording={"trigger": "sks"})
    assert (tmp_path / "a.caption").read_text() == "sks, in a\n"
    assert texts(tmp_path) == {"c.txt": "sks, in c\n"}
    assert "metadata.csv" in of(Skipped, reports)[0].reason


# ---- wording what is there


def test_captions_are_worded_without_a_captioner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(captioners, "load", lambda *_: pytest.fail("no captioner is needed"))
    put(tmp_path, "a.png", text="1girl, solo\nhat,  bow\n")
    put(tmp_path, "b.png", text="sks, bow\n")
    put(tmp_path, "c.png")
    put(tmp_path, "d.png", text="solo")
    wording = {"trigger": "sks", "blacklist": ["solo"]}
    reports = run(tmp_path, mode="edit", wording=wording)
    assert texts(tmp_path) == {"a.txt": "sks, 1girl\nsks, hat, bow\n", "b.txt": "sks, bow\n", "d.txt": "solo"}
    assert [one.path.name for one in of(Captioned, reports)] == ["a.png"]
    assert [one.path.name for one in of(Skipped, reports)] == ["d.png"]
    assert of(Captioned, run(tmp_path, mode="edit", wording=wording)) == []


def test_tags_come_by_frequency(tmp_path: Path) -> None:
    for name, text in (("a.png", "rare, some, usual"), ("b.png", "some, usual"), ("c.png", "usual, sky")):
        put(tmp_path, name, text=text)
    run(tmp_path, mode="edit", wording={"order": "frequency"})
    assert texts(tmp_path) == {"a.txt": "usual, some, rare\n", "b.txt": "usual, some\n", "c.txt": "usual, sky"}
    with pytest.raises(ConfigError, match="--mode edit --order frequency"):
        run(tmp_path, wording={"order": "frequency"})


def test_an_edit_that_edits_nothing_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a.png", text="x")
    with pytest.raises(ConfigError, match="--trigger"):
        run(tmp_path, mode="edit")


def test_cuts_are_told(tmp_path: Path) -> None:
    put(tmp_path, "a.png", text="a cat on a mat " * 9)
    reports = run(tmp_path, mode="edit", wording={"max_tokens": 12})
    assert any("cut to about 12 tokens" in note.text for note in of(Note, reports))
    assert texts(tmp_path) == {"a.txt": "a cat on a mat a cat on a mat\n"}


# ---- looking


def test_problems_are_told_without_a_look_at_the_images(tmp_path: Path) -> None:
    put(tmp_path, "a.png", text="a cat on a mat")
    put(tmp_path, "b.png", text="café".encode("latin-1"))
    put(tmp_path, "c.png", text="")
    put(tmp_path / "5_sks", "d.png")
    put(tmp_path / "reg", "e.png")
    (tmp_path / "a.png").write_text("no image")
    before = texts(tmp_path / "5_sks")
    problems = {problem.kind: problem for problem in of(Problem, run(tmp_path, lint=True, wording={"trigger": "sks"}))}
    assert set(problems) == {"unreadable", "missing", "empty", "trigger", "short"}
    assert problems["unreadable"].names == (str(tmp_path / "b.png"),)
    assert "UTF-8" in problems["unreadable"].told
    assert problems["trigger"].names == ("a.png",)
    assert f"sdtune caption {tmp_path} --mode edit" in problems["trigger"].remedy
    assert problems["missing"].names == ("reg/e.png",)
    assert problems["empty"].names == ("c.png",)
    assert problems["short"].names == ("5_sks/d.png",)
    assert texts(tmp_path / "5_sks") == before
    with pytest.raises(DataError, match="5 problems"):
        run(tmp_path, lint=True, strict=True, wording={"trigger": "sks"})


def test_broken_lines_of_metadata_are_problems(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a cat on a mat"}\nnothing\n')
    (problem,) = of(Problem, run(tmp_path, lint=True))
    assert problem.kind == "unreadable"
    assert "metadata.jsonl:2" in problem.told


def test_statistics_count_tags_and_words_once_an_image(tmp_path: Path) -> None:
    put(tmp_path, "a.png", text="1girl, Long_Hair\nlong hair, hat")
    put(tmp_path, "b.png", text="a cat on the cat")
    put(tmp_path, "c.png")
    (told,) = of(Statistics, run(tmp_path, stats=True))
    assert (told.images, told.with_caption, told.captions) == (3, 2, 3)
    assert dict(told.tags) == {"long hair": 1, "1girl": 1, "hat": 1}
    assert dict(told.words) == {"cat": 1}
    assert (told.tokens_longest, told.over_limit, told.exact) == (8, 0, False)
    assert of(Statistics, run(tmp_path, stats=True, model="mini"))[0].exact


# ---- places that cannot be used


@pytest.mark.parametrize("outside", ["a.png", "a.txt"])
def test_links_out_of_the_folder_are_left_alone(outside: str, tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    put(data, "b.png")
    put(elsewhere, "a.png", text="a secret")
    if outside == "a.txt":
        put(data, "a.png")
    (data / outside).symlink_to(elsewhere / outside)
    reports = run(data, mode="overwrite")
    assert texts(elsewhere) == {"a.txt": "a secret"}
    assert (data / "b.txt").read_text() == "b\n"
    if outside == "a.txt":
        assert "leads out of the folder" in of(Skipped, reports)[0].reason
        run(data, mode="overwrite", follow_links=True)
        assert (data / "a.txt").read_text() == "a\n"
    assert texts(elsewhere) == {"a.txt": "a secret"}


def test_a_folder_that_is_read_only_is_told_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(captioners, "load", lambda *_: pytest.fail("too early"))
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    put(tmp_path, "a.png")
    with pytest.raises(OutputError, match="cannot be written there"):
        run(tmp_path)
    monkeypatch.undo()
    assert of(Captioned, run(tmp_path, dry_run=True))


def test_a_disk_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put(tmp_path, "a.png")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sdtune.core.data.caption_file.write_atomically", full)
    with pytest.raises(OutputError, match="No space left"):
        run(tmp_path)
