"""A data set is described and its captions are put right: where they belong, whole, and without a loss."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from sdtune.config import Caption, resolve
from sdtune.core import captioners
from sdtune.core.caption import caption
from sdtune.core.captioners.base import Describer, Picture, Told
from sdtune.core.data.folder import arrange_folder
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


def captions_read(folder: Path) -> dict[str, tuple[str, ...]]:
    """{image: captions}, as training reads them."""
    return {item.entry.name: item.captions for item in arrange_folder(folder, follow_links=False).items}


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
def teller(monkeypatch: pytest.MonkeyPatch) -> type[Teller]:
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
        "10_sks cat/asleep.txt": "sks cat, asleep\n",
        "blank.txt": "blank\n",
        "green pear.txt": "green pear\n",
        "held-out/old.txt": "kept as it is ",
        "red_apple.txt": "red apple\n",
    }
    assert [(one.path.name, one.captions, one.number, one.of) for one in of(Captioned, reports)] == [
        ("asleep.png", ("sks cat, asleep",), 1, 4),
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
    with pytest.raises(DataError, match="none of 4 images could be described"):
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
    reports = run(tmp_path, captioner="blip", mode="overwrite")
    assert any("cut to 8 kB" in note.text for note in of(Note, reports))
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
        '{"file_name": "a.png", "text": ["cat, a disc", "cat, a round thing"]}\n'
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
    (skipped,) = of(Skipped, reports)
    assert (skipped.path.name, "--to metadata" in skipped.reason) == ("metadata.csv", True)
    run(tmp_path, mode="edit", wording={"trigger": "sks"}, to="metadata")
    assert (tmp_path / "metadata.csv").read_text() == "file_name,text\nb.png,in b\n"
    assert captions_read(tmp_path) == {"a.png": ("sks, in a",), "b.png": ("sks, in b",), "c.png": ("sks, in c",)}


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


def test_an_edit_without_wording_only_cleans(tmp_path: Path) -> None:
    put(tmp_path, "a.png", text="a\x07  bell, \u202ebig\n")
    put(tmp_path, "b.png", text="a cat , asleep")
    run(tmp_path, mode="edit")
    assert texts(tmp_path) == {"a.txt": "a bell, big\n", "b.txt": "a cat , asleep"}


def test_replacements_without_an_end_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "a.png", text="a cat")
    with pytest.raises(ConfigError, match="--replace"):
        run(tmp_path, mode="edit", wording={"replace": ["cat=hat", "hat=cat hat"]})


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
    put(tmp_path, "d.png", text="solo, ^_^, o_o, looking_up")
    (told,) = of(Statistics, run(tmp_path, stats=True))
    assert {"^_^", "o_o", "looking up"} <= dict(told.tags).keys()


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


def test_a_folder_that_cannot_be_locked_is_read_and_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sdtune.core.data.caption_file.FileLock.acquire", refused)
    put(tmp_path, "a.png")
    with pytest.raises(OutputError, match=f"^{tmp_path}: captions cannot be written there; change its permissions"):
        run(tmp_path)
    (tmp_path / "a.txt").write_text("there")
    assert "has a caption" in of(Note, run(tmp_path))[0].text


def test_a_disk_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put(tmp_path, "a.png")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        run(tmp_path)
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_a_folder_where_a_caption_would_stand_costs_that_image_alone(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "a.txt").mkdir()
    (tmp_path / "c.txt").mkdir()
    (tmp_path / "c.caption").write_text("there")
    (skipped,) = of(Skipped, run(tmp_path, mode="overwrite"))
    assert (skipped.path.name, "a.txt, where its caption would stand, is a folder" in skipped.reason) == ("a.png", True)
    assert (tmp_path / "b.txt").read_text() == "b\n"
    assert (tmp_path / "c.caption").read_text() == "c\n"
    assert next((one.kind, one.names) for one in of(Problem, run(tmp_path, lint=True))) == (
        "unreadable",
        (str(tmp_path / "a.png"),),
    )


def test_permissions_of_a_caption_file_stay(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("there")
    (tmp_path / "a.txt").chmod(0o640)
    run(tmp_path, mode="overwrite")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a.txt", "b.txt")] == [0o640, 0o666 & ~_umask()]


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    for name in (".sdtune-caption-abc.tmp", ".notes.tmp"):
        (tmp_path / name).write_text("half")
    run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.tmp", "a.png", "a.txt"]


@pytest.mark.parametrize("line", [
    '{"file_name": "a.png", "text": "one", "text": "two"}',
    '{"file_name": "a.png", "text": ["one", 2]}',
    '{"file_name": "a.png", "text": {"en": "one"}}',
    '{"file_name": "a.png", "id": 1, "id": 2}',
    '{"file_name": "a.png", "text": ""}\n{"file_name": "./a.png", "text": "one"}',
    json.dumps({"file_name": "./a.png", "text": "x" * 9000}),
])  # fmt: skip
@pytest.mark.parametrize("to", ["sidecar", "metadata"])
def test_a_line_that_cannot_be_read_is_not_overwritten(line: str, to: str, tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.jsonl").write_text(line + "\n")
    for mode in ("missing", "overwrite", "append"):
        reports = run(tmp_path, to=to, mode=mode)
        assert [(one.path.name, "metadata.jsonl:" in one.reason) for one in of(Skipped, reports)] == [("a.png", True)]
        assert (tmp_path / "metadata.jsonl").read_text().startswith(f"{line}\n")
    assert captions_read(tmp_path) == {"a.png": (), "b.png": ("b",)}
    kinds = [one.kind for one in of(Problem, run(tmp_path, lint=True))]
    assert kinds.count("unreadable") == 1


def test_captions_that_a_file_cannot_hold_are_left_as_they_are(tmp_path: Path) -> None:
    lines = "".join(f"{number} of many captions\n" for number in range(350))
    put(tmp_path, "a.png", text=lines)
    put(tmp_path, "b.png", text="one\n")
    (skipped,) = of(Skipped, run(tmp_path, mode="edit", wording={"trigger": "sks"}))
    assert (skipped.path.name, "over 8 kB" in skipped.reason) == ("a.png", True)
    assert texts(tmp_path) == {"a.txt": lines, "b.txt": "sks, one\n"}
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError, match="the 1 image could not be edited"):
        run(tmp_path, mode="edit", wording={"trigger": "sks"})


# ---- others at work


@pytest.mark.parametrize(("mode", "told"), [("missing", "has a caption meanwhile"), ("overwrite", "changed meanwhile")])
@pytest.mark.parametrize("where", ["sidecar", "metadata", "json"])
def test_a_caption_that_someone_writes_meanwhile_stays(
    mode: str, told: str, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(tmp_path, "a.png", "b.png", "c.png")

    class Meddler(Teller):
        def describe(self, pictures: Sequence[Picture], variants: int = 1) -> list[list[Told]]:
            if pictures[0].path.name == "a.png":
                if where == "metadata":
                    lines = [json.dumps({"file_name": name, "text": "by hand"}) for name in ("b.png", "c.png")]
                    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
                for name in ("b", "c"):
                    if where != "metadata":
                        text = '{"caption": "by hand"}' if where == "json" else "by hand"
                        (tmp_path / name).with_suffix(".json" if where == "json" else ".txt").write_text(text)
            return super().describe(pictures, variants)

    monkeypatch.setattr(captioners, "load", lambda *_: Meddler(None, None))
    reports = run(tmp_path, captioner="blip", mode=mode, to="metadata" if where == "metadata" else "sidecar")
    assert [(one.path.name, told in one.reason) for one in of(Skipped, reports)] == [("b.png", True), ("c.png", True)]
    assert captions_read(tmp_path) == {"a.png": ("a disc",), "b.png": ("by hand",), "c.png": ("by hand",)}


def test_a_data_set_is_captioned_by_one_run_at_a_time(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    first = caption(resolve(Caption, [{"folder": str(tmp_path), "captioner": "filename", "to": "metadata"}]))
    next(first)
    with pytest.raises(OutputError, match="another sdtune caption or prepare is at work there"):
        run(tmp_path)
    assert of(Captioned, run(tmp_path, dry_run=True))
    list(first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "metadata.jsonl"]
    run(tmp_path)


# ---- which line counts


@pytest.mark.parametrize("files", [
    {"metadata.jsonl": ['{"file_name": "sub/pear.png", "text": "outer"}'],
     "sub/metadata.jsonl": ['{"file_name": "pear.png", "text": "inner"}']},
    {"sub/metadata.jsonl": ['{"file_name": "./pear.png", "text": "one"}', '{"file_name": "pear.png", "text": "last"}']},
    {"sub/metadata.jsonl": ['{"file_name": "pear.png", "text": "one"}', '{"file_name": "./pear.png", "text": "last"}']},
    {"metadata.jsonl": ['{"file_name": "sub/../sub/pear.png", "text": "told"}']},
    {"sub/metadata.jsonl": ['{"file_name": "pear.png"}', '{"file_name": "pear.png", "text": "good"}']},
    {"metadata.jsonl": ['{"file_name": "sub/pear.png", "text": "outer"}'],
     "other/metadata.jsonl": ['{"file_name": "../sub/pear.png", "text": "beside"}']},
    {"sub/metadata.csv": ["file_name,text", "pear.png,in csv"],
     "sub/metadata.jsonl": ['{"file_name": "pear.png", "text": "told"}']},
])  # fmt: skip
def test_the_line_that_training_reads_is_the_one_that_is_written(files: dict[str, list[str]], tmp_path: Path) -> None:
    put(tmp_path / "sub", "pear.png")
    for name, lines in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    before = captions_read(tmp_path)["sub/pear.png"]
    run(tmp_path, mode="edit", wording={"trigger": "sks"})
    assert captions_read(tmp_path)["sub/pear.png"] == (f"sks, {before[0]}",)
    run(tmp_path, mode="overwrite")
    assert captions_read(tmp_path)["sub/pear.png"] == ("pear",)
    lines = [line for name in files for line in (tmp_path / name).read_text().splitlines()]
    assert len(lines) == sum(map(len, files.values()))


def test_a_list_of_captions_that_is_a_link_out_is_left_alone(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere.jsonl"
    put(data, "a.png", "b.png")
    elsewhere.write_text('{"file_name": "a.png", "text": "theirs"}\n')
    (data / "metadata.jsonl").symlink_to(elsewhere)
    with pytest.raises(DataError, match="none of 2 images could be described"):
        run(data, to="metadata")
    (skipped,) = of(Skipped, _until_it_fails(data, to="metadata"))
    assert (skipped.path, "2 images left out: a link that leads out" in skipped.reason) == (
        data / "metadata.jsonl",
        True,
    )
    assert (data / "metadata.jsonl").is_symlink()
    run(data, to="metadata", follow_links=True, mode="overwrite")
    assert captions_read(data) == {"a.png": ("a",), "b.png": ("b",)}
    assert elsewhere.read_text() == '{"file_name": "a.png", "text": "theirs"}\n'


@pytest.mark.parametrize("what", ["pipe", "latin", "folder"])
def test_a_list_that_cannot_be_read_is_told_before_anything_is_loaded(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(captioners, "load", lambda *_: pytest.fail("too early"))
    put(tmp_path, "a.png")
    if what == "pipe":
        os.mkfifo(tmp_path / "metadata.jsonl")
    elif what == "folder":
        (tmp_path / "metadata.jsonl").mkdir()
    else:
        (tmp_path / "metadata.jsonl").write_bytes('{"file_name": "a.png", "text": "café"}'.encode("latin-1"))
    (skipped,) = of(Skipped, _until_it_fails(tmp_path, to="metadata"))
    assert skipped.path.name == "metadata.jsonl"
    assert ("UTF-8" if what == "latin" else "is not a file") in skipped.reason


def test_names_and_columns_that_are_no_text_cost_themselves_alone(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    odd = os.fsdecode(b"caf\xe9.png")
    put(tmp_path, odd)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "note": "\\ud800"}\n')
    (skipped,) = of(Skipped, run(tmp_path, to="metadata"))
    assert (skipped.path.name, "not UTF-8" in skipped.reason) == (odd, True)
    assert (tmp_path / "metadata.jsonl").read_text().splitlines() == [
        '{"file_name": "a.png", "note": "\\ud800", "text": "a"}',
        '{"file_name": "b.png", "text": "b"}',
    ]


# ---- kohya's folders


@pytest.mark.usefixtures("teller")
def test_a_class_that_a_folder_names_stays(tmp_path: Path) -> None:
    put(tmp_path / "10_sks cat", "a.png", "b.png", "c.png")
    (tmp_path / "10_sks cat" / "b.txt").write_text("a tabby")
    put(tmp_path / "reg" / "1_cat", "d.png")
    before = of(Statistics, run(tmp_path, stats=True))[0]
    assert (before.images, before.with_caption) == (4, 4)
    reports = run(tmp_path, captioner="blip")
    assert texts(tmp_path) == dict.fromkeys(("10_sks cat/a.txt", "10_sks cat/c.txt"), "sks cat, a disc\n") | {
        "10_sks cat/b.txt": "a tabby"
    }
    assert any("1 image for regularisation takes its caption from its folder" in one.text for one in of(Note, reports))
    run(tmp_path, captioner="blip", mode="overwrite")
    assert texts(tmp_path) == {
        "10_sks cat/a.txt": "sks cat, a disc\n",
        "10_sks cat/b.txt": "a disc\n",
        "10_sks cat/c.txt": "sks cat, a disc\n",
        "reg/1_cat/d.txt": "cat, a disc\n",
    }
    (tmp_path / "10_sks cat" / "a.txt").write_text("")
    assert "empty" not in {one.kind for one in of(Problem, run(tmp_path, lint=True))}
    run(tmp_path, captioner="blip", wording={"trigger": "zwx"})
    assert texts(tmp_path)["10_sks cat/a.txt"] == "zwx, a disc\n"


def test_commands_are_printed_as_they_can_be_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    put(Path("-dash it"), "a.png")
    (problem,) = of(Problem, run(Path("-dash it"), lint=True))
    assert "sdtune caption './-dash it'," in problem.remedy
    assert of(Described, run(Path("-dash it")))[0].try_next == "sdtune caption './-dash it' --lint"
    assert "its image has a caption" in of(Note, run(Path("-dash it")))[0].text


def test_ended_while_it_writes_it_says_what_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the same command does the rest"):
        run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def _until_it_fails(folder: Path, **settings: Any) -> list[Report]:
    """What is told before the end with an error."""
    told: list[Report] = []
    with pytest.raises(DataError):
        told.extend(caption(resolve(Caption, [{"folder": str(folder), "captioner": "filename", **settings}])))
    return told


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
