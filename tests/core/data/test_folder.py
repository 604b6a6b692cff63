"""A folder of pictures and captions as people have them is read, or refused with all its problems at once."""

from __future__ import annotations

import json
import os
import re
import tomllib
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from sdtune.config import TrainLora, resolve
from sdtune.core.data.captions import clean
from sdtune.core.data.folder import Example, read_folders, with_trigger
from sdtune.core.reports import Note, Report, Skipped, Warned
from sdtune.errors import ConfigError, DataError
from sdtune.tables import Data, Limits
from tests import pictures


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of each test's own."""
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SDTUNE_CACHE", str(place))
    return place


def read(folder: Path, tables: dict[str, Any] | None = None, **settings: Any) -> tuple[list[Example], list[Report]]:
    """The examples, and what was told; `tables` beside that of the data."""
    return result(resolve(TrainLora, [{"data": {"folder": folder, **settings}}, tables or {}]))


def result(config: TrainLora) -> tuple[list[Example], list[Report]]:
    work, reports = read_folders(config), []
    while True:
        try:
            reports.append(next(work))
        except StopIteration as end:
            return end.value, reports


def problems(folder: Path, **settings: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(folder, **settings)
    lines = list(caught.value.problems)
    assert all("\n" not in line and str(folder) in line for line in lines)
    return lines


def captions(folder: Path, **settings: Any) -> dict[str, str]:
    return {example.path.name: example.caption for example in read(folder, **settings)[0]}


def put(
    folder: Path, name: str, caption: str | bytes | None = "a caption", suffix: str = ".txt", colour: str = "red"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    kind = "PNG" if path.suffix.lower() not in (".jpg", ".jpeg", ".webp") else None
    Image.new("RGB", (32, 24), colour).save(path, format=kind)
    if caption is not None:
        path.with_suffix(suffix).write_bytes(caption if isinstance(caption, bytes) else caption.encode())
    return path


def archived(folder: Path) -> None:
    folder.mkdir()
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr("a.txt", "a caption")


def listed(folder: Path, *lines: object) -> None:
    told = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "metadata.jsonl").write_text("\n".join(told), encoding="utf-8")


def test_images_come_by_name_with_their_captions_and_sizes(tmp_path: Path) -> None:
    put(tmp_path, "b.PNG", "second", ".caption")
    put(tmp_path, "a.jpg", "first")
    put(tmp_path, "ünï 猫.webp", "third")
    put(tmp_path, ".hidden.png", None)
    (tmp_path / "notes.md").write_text("no image")
    examples, _ = read(tmp_path)
    assert [(example.path.name, example.caption) for example in examples] == [
        ("a.jpg", "first"),
        ("b.PNG", "second"),
        ("ünï 猫.webp", "third"),
    ]
    assert {(example.width, example.height) for example in examples} == {(32, 24)}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, "no such folder"),
        (lambda folder: folder.write_text("x"), "is a file"),
        (lambda folder: folder.mkdir(), "no images"),
        (lambda folder: put(folder / "held-out", "a.png"), "only in held-out/"),
        (lambda folder: archived(folder), "sdtune prepare"),
        (lambda folder: folder.symlink_to("nowhere"), "no such folder"),
        (lambda folder: folder.symlink_to(folder), "a link that leads in a circle"),
    ],
)
def test_a_folder_without_images_is_refused(make: Any, words: str, tmp_path: Path) -> None:
    make(tmp_path / "data")
    (line,) = problems(tmp_path / "data")
    assert words in line


def test_missing_captions_are_told_together_with_the_remedy(tmp_path: Path) -> None:
    put(tmp_path, "good.png")
    for number in range(8):
        put(tmp_path, f"bare-{number}.png", None if number else " \n")
    (line,) = problems(tmp_path)
    assert "8 of 9 images" in line
    assert "bare-0.png" in line
    assert "3 more" in line
    assert "bare-0.txt" in line
    assert "--caption-from-filename" in line


def test_names_can_be_captions(tmp_path: Path) -> None:
    put(tmp_path, "red_apple-on white.png", None)
    put(tmp_path, "b.png", "told")
    assert captions(tmp_path, caption_from_filename=True) == {
        "b.png": "told",
        "red_apple-on white.png": "red apple on white",
    }


def test_every_bad_file_is_named_at_once_and_can_be_left_out(tmp_path: Path) -> None:
    put(tmp_path, "good.png")
    (tmp_path / "text.png").write_text("no image")
    whole = put(tmp_path, "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "gone.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    put(tmp_path, "latin.png", "café".encode("latin-1"))
    bad = ["cut.jpg", "gone.png", "latin.txt", "pipe.png", "text.png"]
    lines = problems(tmp_path)
    assert [Path(line.split(": ")[0]).name for line in lines] == bad
    assert lines[-1].endswith("leave them out with --skip-bad")

    examples, reports = read(tmp_path, skip_bad=True)
    assert [example.path.name for example in examples] == ["good.png"]
    skipped = [report for report in reports if isinstance(report, Skipped)]
    assert [report.path.stem for report in skipped] == [Path(name).stem for name in bad]


def test_folders_that_cannot_be_read_are_refused_or_told_as_left_out(tmp_path: Path) -> None:
    put(tmp_path / "data", "good.png")
    put(tmp_path / "elsewhere", "a.png")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (line,) = problems(tmp_path / "data")
    assert "link: a link that leads out of the folder" in line
    assert line.endswith("--skip-bad")
    examples, reports = read(tmp_path / "data", skip_bad=True)
    assert [example.path.name for example in examples] == ["good.png"]
    skipped = [(report.path.name, report.reason[:29]) for report in reports if isinstance(report, Skipped)]
    assert skipped == [("link", "a link that leads out of the ")]
    (tmp_path / "data" / "good.png").unlink()
    assert "--follow-links reads it" in problems(tmp_path / "data")[0]
    (tmp_path / "data" / "link").unlink()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "data" / "nowhere")
    assert "link: a link that leads nowhere" in problems(tmp_path / "data")[0]


def test_where_nothing_is_left_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    assert "none of its 1 images" in problems(tmp_path, skip_bad=True)[0]


@pytest.mark.parametrize("outside", ["a.png", "a.txt"])
def test_links_that_leave_the_folder_are_refused(outside: str, tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    put(data, "a.png")
    put(elsewhere, "a.png", "a secret")
    (data / outside).unlink()
    (data / outside).symlink_to(elsewhere / outside)
    (data / "a.jpg").write_bytes((elsewhere / "a.png").read_bytes())  # one caption file for both
    (line,) = problems(data)
    assert "leads out of the folder" in line
    (data / "a.jpg").unlink()
    examples, _ = read(data, follow_links=True)
    assert [example.path.name for example in examples] == ["a.png"]


def test_a_link_that_leaves_the_folder_is_not_opened(tmp_path: Path) -> None:
    put(tmp_path, "good.png")
    (tmp_path / "text.png").symlink_to("/etc/passwd")
    (line,) = problems(tmp_path)
    assert "leads out of the folder" in line


def test_metadata_may_not_be_a_link_that_leaves_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "data", "a.png", None)
    listed(tmp_path, {"file_name": "a.png", "text": "elsewhere"})
    (tmp_path / "data" / "metadata.jsonl").symlink_to(tmp_path / "metadata.jsonl")
    (line,) = problems(tmp_path / "data")
    assert "metadata.jsonl: a link that leads out of the folder" in line
    assert captions(tmp_path / "data", follow_links=True) == {"a.png": "elsewhere"}


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    put(tmp_path, "good.png")
    put(tmp_path, "b.png", None)
    for name in ("a.png", "b.txt"):
        (tmp_path / name).symlink_to(name)
    assert [line.split("; ")[0] for line in problems(tmp_path)] == [
        f"{tmp_path / name}: a link that leads in a circle" for name in ("a.png", "b.txt")
    ]


def test_of_many_problems_the_first_are_told(tmp_path: Path) -> None:
    put(tmp_path, "z.png")
    for number in range(15):
        (tmp_path / f"{number}.png").write_text("no image")
    *first, last = problems(tmp_path)
    assert len(first) == 10
    assert last == f"{tmp_path}: and 5 more such files; put them right, or leave them out with --skip-bad"
    listed(tmp_path, *["no line"] * 13)
    *first, last = problems(tmp_path)
    assert len(first) == 10
    assert last == f"{tmp_path}: and 3 more such lines"


def test_leaving_out_is_advised_only_where_something_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    assert problems(tmp_path)[0].endswith("; put it right")


def test_links_inside_and_to_the_folder_are_fine(tmp_path: Path) -> None:
    put(tmp_path / "data", "a.png", "one")
    (tmp_path / "data" / "b.png").symlink_to("a.png")
    (tmp_path / "data" / "b.txt").write_text("two")
    (tmp_path / "link").symlink_to("data")
    assert captions(tmp_path / "link") == {"a.png": "one", "b.png": "two"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    put(tmp_path, "a.png").chmod(0)
    assert "permissions" in problems(tmp_path)[0]


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        ("ein Käse\r\n".encode(), "ein Käse"),
        (b"\xef\xbb\xbfwith a mark", "with a mark"),
        ("wide ✓".encode("utf-16"), "wide ✓"),
        (b"\xfe\xff" + "big end".encode("utf-16-be"), "big end"),
        (b"\n tabs\tand  spaces \r\n\n", "tabs and spaces"),
        (b"\x1b[31mred\x1b[0m \x07bell", "[31mred[0m bell"),
        ("turned \u202egnp.exe\u2066".encode(), "turned gnp.exe"),
    ],
)
def test_captions_are_clean_text(data: bytes, caption: str, tmp_path: Path) -> None:
    put(tmp_path, "a.png", data)
    assert captions(tmp_path) == {"a.png": caption}


@pytest.mark.parametrize("data", ["wide".encode("utf-16-le"), "café".encode("latin-1"), b"\xff\xfe\x41", b"a\0b"])
def test_captions_in_other_encodings_are_refused(data: bytes, tmp_path: Path) -> None:
    put(tmp_path, "a.png", data)
    assert "save it as UTF-8" in problems(tmp_path)[0]


def test_long_captions_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "x" * 8192)
    assert len(captions(tmp_path)["a.png"]) == 8192
    put(tmp_path, "a.png", "x" * 8193)
    assert "over 8 kB" in problems(tmp_path)[0]


@given(st.text())
@example("\ud800 \u2028 \x85 \u202e\x00")
def test_clean_captions_are_one_line_that_is_safe_to_print(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.encode().decode() == cleaned
    assert "".join(cleaned.splitlines()) == cleaned
    assert cleaned == clean(cleaned)
    assert not any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 for letter in cleaned)


@given(st.text(alphabet="ab ", min_size=1), st.text(alphabet="ab ", min_size=1))
def test_the_trigger_is_in_every_caption_once(caption: str, trigger: str) -> None:
    triggered = with_trigger(caption, trigger)
    assert trigger in triggered
    assert with_trigger(triggered, trigger) == triggered
    assert with_trigger(caption, None) == caption


def test_the_trigger_is_found_as_a_word() -> None:
    assert with_trigger("risks of a cat", "sks") == "sks, risks of a cat"
    assert with_trigger("a photo of SKS.", "sks") == "a photo of SKS."


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_the_trigger_is_found_however_its_accents_are_written(forms: tuple[str, str]) -> None:
    trigger, caption = (unicodedata.normalize(form, "Café") for form in forms)
    assert with_trigger(f"a {caption} here", trigger) == f"a {caption} here"
    assert with_trigger(caption, "cafe") == f"cafe, {caption}"


def test_metadata_gives_captions_and_sidecars_fill_in(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        put(tmp_path, name, "beside" if name != "a.png" else None)
    odd = '{"file_name": "a.png", "text": "one\u2028two\x85 \\ud800 \\u001b[2J"}'
    listed(tmp_path, odd, "", {"file_name": "b.png", "text": "two"})
    assert captions(tmp_path) == {"a.png": "one two [2J", "b.png": "two", "c.png": "beside"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{broken", "not a line of the form"),
        ("[1, 2]", "not a line of the form"),
        ("[" * 100_000, "not a line of the form"),
        ({"file_name": "a.png"}, "not a line of the form"),
        ({"file_name": "a.png", "text": 3}, "must be texts"),
        ({"file_name": "../a.png", "text": "x"}, "not a file in this folder"),
        ({"file_name": "/etc/passwd", "text": "x"}, "not a file in this folder"),
        ({"file_name": "gone.png", "text": "x"}, "not a file in this folder"),
        ({"file_name": "a\0.png", "text": "x"}, "not a file in this folder"),
        ({"file_name": "x" * 5000, "text": "x"}, "not a file in this folder"),
        ({"file_name": "a.png", "text": "ä" * 4097}, "the caption of a.png is over 8 kB"),
        ('{"file_name": "a.png", "text": "x", "text": "y"}', "text is given twice"),
        ({"file_name": "first.png", "text": "again"}, "has a line already"),
        ({"file_name": "./first.png", "text": "again"}, "first.png has a line already"),
        ({"file_name": "sub/../first.png", "text": "again"}, "first.png has a line already"),
    ],
)
def test_wrong_lines_of_metadata_are_told_by_number(line: object, words: str, tmp_path: Path) -> None:
    put(tmp_path, "first.png")
    put(tmp_path, "a.png")
    listed(tmp_path, {"file_name": "first.png", "text": "x"}, line, "nor this")
    second, third = problems(tmp_path)
    assert second.startswith(f"{tmp_path / 'metadata.jsonl'}:2: ")
    assert words in second
    assert third.startswith(f"{tmp_path / 'metadata.jsonl'}:3: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,text\na.png,x", "2: not a row with a file_name and a text, caption or prompt"),
        ("file_name,text\na.png", "2: not a row with a file_name and a text, caption or prompt"),
        ("file_name,text\na.png,x\n./a.png,y", "3: a.png has a line already"),
        ("file_name,text\na.png," + "x" * 200_000, "2: not CSV (field larger than field limit (131072)); mend"),
    ],
)
def test_wrong_rows_of_csv_are_told_as_such(text: str, words: str, tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text(text)
    (line,) = problems(tmp_path)
    assert line.startswith(f"{tmp_path / 'metadata.csv'}:{words}")


def test_images_that_share_a_caption_file_are_told(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "shared")
    put(tmp_path, "a.jpg", None)
    examples, reports = read(tmp_path)
    assert [example.caption for example in examples] == ["shared", "shared"]
    assert any(isinstance(report, Warned) and "a.jpg, a.png" in report.text for report in reports)


def test_folders_below_are_read_too(tmp_path: Path) -> None:
    put(tmp_path, "top.png")
    put(tmp_path / "inner" / "deeper", "a.png", "inside")
    put(tmp_path / "runs" / "cat-1", "sample.png")
    (tmp_path / "runs" / "cat-1" / "run.toml").write_text("")
    put(tmp_path / ".cache", "hidden.png")
    put(tmp_path / "held-out", "kept.png")
    examples, reports = read(tmp_path)
    where = {example.path.relative_to(tmp_path).as_posix(): example.held_out for example in examples}
    assert where == {"inner/deeper/a.png": False, "top.png": False, "held-out/kept.png": True}
    assert any(isinstance(report, Note) and "1 more are held out" in report.text for report in reports)


def test_kohyas_folders_say_repeats_class_and_what_keeps_the_class(tmp_path: Path) -> None:
    put(tmp_path / "img" / "10_sks cat", "a.png", None)
    put(tmp_path / "img" / "10_sks cat", "b.png", "sks cat on a sofa")
    put(tmp_path / "img" / "4_toy", "c.png", None)
    put(tmp_path / "reg" / "1_cat", "d.png", None, colour="blue")
    put(tmp_path / "2024_holiday", "e.png", "a beach")
    (tmp_path / "2024_holiday").rename(tmp_path / "img" / "2024_holiday")
    examples, _ = read(tmp_path, {"prior": {"weight": 0.5}}, trigger="sks")
    told = {one.path.stem: (one.caption, one.repeats, one.weight, one.prior) for one in examples}
    assert told == {
        "a": ("sks cat", 10, 1.0, False),
        "b": ("sks cat on a sofa", 10, 1.0, False),
        "c": ("sks, toy", 4, 1.0, False),
        "d": ("cat", 1, 0.5, True),
        "e": ("sks, a beach", 1, 1.0, False),
    }


def test_repeats_weigh_folders_against_each_other(tmp_path: Path) -> None:
    put(tmp_path / "10_a", "a.png")
    put(tmp_path / "20_b", "b.png")
    examples, reports = read(tmp_path)
    assert [example.repeats for example in examples] == [1, 2]
    assert any(isinstance(report, Note) and "with repeats a pass sees 3" in report.text for report in reports)


def test_regularisation_alone_is_nothing_to_learn_from(tmp_path: Path) -> None:
    put(tmp_path / "reg" / "1_cat", "d.png")
    assert "regularisation images only" in problems(tmp_path)[0]


def test_one_line_is_one_caption(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a cat\n\n the same cat \n")
    (example,) = read(tmp_path, trigger="the")[0]
    assert example.captions == ("the, a cat", "the same cat")


def test_masks_are_no_images_and_belong_to_theirs(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    put(tmp_path, "b.png")
    put(tmp_path, "a-masklabel.png", None)
    masks = {example.path.name: example.mask for example in read(tmp_path)[0]}
    assert masks == {"a.png": tmp_path / "a-masklabel.png", "b.png": None}
    assert {example.mask for example in read(tmp_path, {"mask": {"use": "off"}})[0]} == {None}


@pytest.mark.parametrize("name", ["a-MASKLABEL.png", "a-MaskLabel.PNG", "a-masklabel.Png"])
def test_a_mask_is_one_in_any_case_of_letters(name: str, tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    put(tmp_path, name, None)
    assert [(one.path.name, one.mask) for one in read(tmp_path)[0]] == [("a.png", tmp_path / name)]


@pytest.mark.parametrize("name", ["1000_cat", "0_cat", "501_sks cat", "2024_holiday"])
def test_a_folder_whose_repeats_are_none_is_told_where_captions_lack(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / name, "a.png", None)
    monkeypatch.chdir(tmp_path / name)
    for line in (*problems(tmp_path), *problems(tmp_path / name), *problems(Path())):
        assert f"; {name} names no class, since the repeats that such a name begins with are 1 to 500: " in line
        assert line.endswith(", or write a.txt beside a.png")
    (tmp_path / name / "a.txt").write_text("a cat")
    assert captions(tmp_path) == {"a.png": "a cat"}
    put(tmp_path / "10_cat", "b.png", None, colour="blue")
    put(tmp_path / "2024", "c.png", None, colour="green")
    (line,) = problems(tmp_path)
    assert "1 of 3 images have no caption, or an empty one (c.png); write" in line


def test_hugging_faces_imagefolder_with_splits_lists_and_folders(tmp_path: Path) -> None:
    put(tmp_path / "train" / "cats", "a.png", None)
    put(tmp_path / "validation", "b.png", None)
    (tmp_path / "train" / "metadata.csv").write_text('file_name,text\ncats/a.png,"a cat, asleep"\n')
    assert captions(tmp_path) == {"a.png": "a cat, asleep"}
    _, reports = read(tmp_path)
    told = f"{tmp_path}: 1 held-out image has no caption, and no part in validation (b.png)"
    assert Warned(told) in reports


def test_each_image_has_limits(tmp_path: Path) -> None:
    put(tmp_path, "good.png")
    Image.new("RGB", (8000, 8000)).save(tmp_path / "large.png", compress_level=1)
    (tmp_path / "large.txt").write_text("black")
    work = read_folders(TrainLora(data=Data(folder=tmp_path), limits=Limits(megabytes=200, workers=1)))
    with pytest.raises(DataError, match=r"large\.png: needs more than 200 MB") as caught:
        list(work)
    assert len(caught.value.problems) == 1


def test_empty_and_huge_captions_are_told_by_name(tmp_path: Path) -> None:
    put(tmp_path, "a.png", b"")
    put(tmp_path, "b.png", "x" * 100_000)
    put(tmp_path, "c.png", "café".encode("latin-1"))
    huge, latin, empty = problems(tmp_path)
    assert huge == f"{tmp_path}/b.txt: over 8 kB, which is no caption; shorten it or rename the file"
    assert latin.startswith(f"{tmp_path}/c.txt: not text in UTF-8")
    assert "1 of 3 images have no caption, or an empty one (a.png)" in empty


def several(*folders: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"folders": folders}}


def test_folders_come_together_each_with_its_own_settings(tmp_path: Path) -> None:
    put(tmp_path / "one" / "10_sks cat", "a.png", None)
    put(tmp_path / "two", "a.png", None, colour="blue")
    put(tmp_path / "two", "b.png", "told", colour="green")
    put(tmp_path / "two" / "reg", "c.png", "a dog", colour="grey")
    put(tmp_path / "dogs", "d.png", None, colour="white")
    two = {"path": tmp_path / "two", "repeats": 5, "weight": 2.0, "trigger": "zwx", "caption": "a thing"}
    dogs = {"path": tmp_path / "dogs", "prior": True, "weight": 3.0, "caption": "a dog"}
    tables = several(two, dogs) | {"prior": {"weight": 0.5}}
    examples, reports = read(tmp_path / "one", tables, trigger="sks")
    told = [(str(one.path.relative_to(tmp_path)), one.caption, one.repeats, one.weight, one.prior) for one in examples]
    assert told == [
        ("one/10_sks cat/a.png", "sks cat", 10, 1.0, False),
        ("two/a.png", "zwx, a thing", 5, 2.0, False),
        ("two/b.png", "zwx, told", 5, 2.0, False),
        ("two/reg/c.png", "a dog", 5, 1.0, True),
        ("dogs/d.png", "a dog", 1, 1.5, True),
    ]
    assert any(
        isinstance(report, Note) and "5 images in all; with repeats a pass sees 26" in report.text for report in reports
    )


def test_a_run_may_have_further_folders_alone(tmp_path: Path) -> None:
    put(tmp_path / "one", "a.png")
    config = resolve(TrainLora, [several({"path": tmp_path / "one"})])
    assert [example.path for example in result(config)[0]] == [tmp_path / "one" / "a.png"]


def test_problems_of_all_folders_are_told_together(tmp_path: Path) -> None:
    put(tmp_path / "one", "a.png", None)
    put(tmp_path / "two", "b.png", None)
    (tmp_path / "two" / "c.png").write_text("no image")
    lines = problems_of(tmp_path / "one", several({"path": tmp_path / "two"}))
    assert [(str(tmp_path / name) in line) for name, line in zip(("one", "two", "two"), lines, strict=True)] == [
        True
    ] * 3
    lines = problems_of(tmp_path / "gone", several({"path": tmp_path / "none"}, {"path": tmp_path / "two"}))
    assert [line.split(": ")[1].split(";")[0] for line in lines] == ["no such folder"] * 2


def problems_of(folder: Path, tables: dict[str, Any], **settings: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(folder, tables, **settings)
    assert all("\n" not in line for line in caught.value.problems)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"path": "one"}, "is given already, as"),
        ({"path": "one/../one"}, "is given already, as"),
        ({"path": "link"}, "is given already, as"),
        ({"path": "one/inner"}, "which is read with all below it"),
        ({"path": "."}, "which is read with all below it"),
        ({"path": "one", "prior": True}, "is the data itself"),
    ],
)
def test_no_folder_is_read_twice(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    put(tmp_path / "one", "a.png")
    put(tmp_path / "one" / "inner", "b.png")
    (tmp_path / "link").symlink_to("one")
    (line,) = problems_of(tmp_path / "one", several(more | {"path": tmp_path / more["path"]}))
    assert words in line
    assert line.count(str(tmp_path)) >= 2


def test_folders_whose_names_begin_alike_are_apart(tmp_path: Path) -> None:
    put(tmp_path / "cat", "a.png")
    put(tmp_path / "cats", "a.png", colour="blue")
    examples, reports = read(tmp_path / "cat", several({"path": tmp_path / "cats"}))
    assert len(examples) == 2
    assert not [report for report in reports if isinstance(report, Warned)]


def test_the_same_image_in_two_folders_is_told(tmp_path: Path) -> None:
    put(tmp_path / "one", "a.png")
    put(tmp_path / "one", "b.png")
    put(tmp_path / "two", "again.png")
    put(tmp_path / "two", "other.png", colour="blue")
    _, reports = read(tmp_path / "one", several({"path": tmp_path / "two"}))
    (told,) = [report.text for report in reports if isinstance(report, Warned)]
    assert told == f"{tmp_path}/two/again.png: 1 image is in another folder, too, and counted in each"


def test_a_file_that_two_folders_reach_by_links_is_refused(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        put(tmp_path / "two", name)
    put(tmp_path / "one", "c.png", colour="blue")
    (tmp_path / "one" / "inner").symlink_to(tmp_path / "two")
    tables = several({"path": tmp_path / "two"})
    tables["data"] = {**tables["data"], "follow_links": True}
    (line,) = problems_of(tmp_path / "one", tables)
    assert line.startswith(
        f"{tmp_path}/two/a.png: is the very file that is read as {tmp_path}/one/inner/a.png, and 1 more alike; "
    )
    (tmp_path / "one" / "inner").unlink()
    assert len(read(tmp_path / "one", tables)[0]) == 3


@pytest.mark.parametrize("below", ["", "cache", "a/b/cache"])
def test_a_cache_among_the_images_is_refused(
    below: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "data", "a.png")
    put(tmp_path / "more", "b.png", colour="blue")
    (tmp_path / "link").symlink_to("more")
    tables = several({"path": tmp_path / "more"})
    for folder in ("data", "link"):
        (line,) = problems_of(tmp_path / "data", tables | {"cache": {"folder": tmp_path / folder / below}})
        assert "the cache would lie among the images of" in line
        monkeypatch.setenv("SDTUNE_CACHE", str(tmp_path / folder / below))
        assert len(problems_of(tmp_path / "data", tables)) == 1
        assert len(read(tmp_path / "data", tables | {"cache": {"place": "memory"}})[0]) == 2
        monkeypatch.setenv("SDTUNE_CACHE", str(cache))


@pytest.mark.parametrize("place", ["", "data-cache", "data/.cache/sdtune"])
def test_a_cache_beside_or_around_the_images_is_fine(place: str, tmp_path: Path) -> None:
    put(tmp_path / "data", "a.png")
    for _ in range(2):
        assert len(read(tmp_path / "data", {"cache": {"folder": tmp_path / place}})[0]) == 1


@pytest.mark.parametrize(
    "tables",
    [{"folder": None, "folders": [{"path": "data", "weight": 0}]}, {"folders": [{"path": "dogs", "prior": True}]}],
)
def test_where_all_weigh_nothing_there_is_nothing_to_learn(
    tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(Path("data"), "a.png", None)
    put(Path("dogs"), "b.png", colour="blue")
    listed = Path("data", "metadata.jsonl")
    row = {"file_name": "a.png", "text": "a cat"}
    listed.write_text(json.dumps(row if tables.get("folder", "") is None else row | {"weight": 0}))
    config = resolve(TrainLora, [{"data": {"folder": "data"} | tables}])
    with pytest.raises(DataError, match=r"^data.*: all images to learn have the weight 0, .* give some a higher one$"):
        result(config)
    listed.write_text(json.dumps(row | {"weight": 1e-300}))
    if "dogs" in str(tables):
        assert [one.weight for one in result(config)[0]] == [1e-300, 1]


def test_own_images_among_those_for_regularisation_are_told_or_refused(tmp_path: Path) -> None:
    put(tmp_path / "one", "a.png")
    put(tmp_path / "one" / "reg" / "1_dog", "same.png")
    (line,) = problems_of(tmp_path / "one", {})
    assert line.startswith(f"{tmp_path}/one/reg/1_dog: holds only images that are to be learned, too")
    put(tmp_path / "one" / "reg" / "1_dog", "dog.png", colour="blue")
    _, reports = read(tmp_path / "one")
    (told,) = [report.text for report in reports if isinstance(report, Warned)]
    assert told.startswith(f"{tmp_path}/one/reg/1_dog/same.png: 1 image is to be learned and for regularisation, too")
    put(tmp_path / "dogs", "again.png")
    lines = problems_of(tmp_path / "one", several({"path": tmp_path / "dogs", "prior": True}))
    assert [line.split(":")[0] for line in lines] == [f"{tmp_path}/dogs"]


def test_empty_folders_for_regularisation_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "one", "a.png")
    (tmp_path / "dogs").mkdir()
    (line,) = problems_of(tmp_path / "one", several({"path": tmp_path / "dogs", "prior": True}))
    assert line.startswith(f"{tmp_path}/dogs: no images in this folder")
    assert "--class-prompt" in line
    (tmp_path / "one" / "Reg").mkdir()
    (line,) = problems_of(tmp_path / "one", {})
    assert line.startswith(f"{tmp_path}/one/Reg: holds no images")


def test_regularisation_folders_alone_are_nothing_to_learn_from(tmp_path: Path) -> None:
    put(tmp_path / "dogs", "a.png")
    with pytest.raises(DataError, match="regularisation images only"):
        list(read_folders(resolve(TrainLora, [several({"path": tmp_path / "dogs", "prior": True})])))


def in_classes(folder: Path) -> None:
    put(folder / "10_red_apple", "a.png", "not read", colour="red")
    put(folder / "pear-tree", "b.png", "café".encode("latin-1"), colour="green")
    put(folder / "pear-tree" / "deeper", "c.png", None, colour="blue")


def test_folders_are_classes(tmp_path: Path) -> None:
    in_classes(tmp_path)
    put(tmp_path / "reg", "d.png", "a plum", colour="grey")
    (tmp_path / "metadata.jsonl").write_text("no line")
    task = {"task": {"kind": "class", "template": "a photo of a {class}"}}
    examples, reports = read(tmp_path, task, trigger="zwx")
    assert [(one.path.name, one.captions, one.of_class, one.repeats) for one in examples] == [
        ("a.png", ("zwx, a photo of a red apple",), "red apple", 10),
        ("b.png", ("zwx, a photo of a pear tree",), "pear tree", 1),
        ("c.png", ("zwx, a photo of a pear tree",), "pear tree", 1),
        ("d.png", ("a plum",), "", 1),
    ]
    notes = [report.text for report in reports if isinstance(report, Note)]
    assert "2 pear tree, 1 red apple" in notes[0]
    assert "captions on disk are not read" in notes[0]


def test_classes_beside_hugging_faces_splits(tmp_path: Path) -> None:
    in_classes(tmp_path / "train")
    put(tmp_path / "validation" / "pear-tree", "v.png", None)
    assert {one.of_class for one in read(tmp_path, {"task": "class"})[0]} == {"red apple", "pear tree"}


def test_classes_that_are_none_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "cat", "a.png")
    (line,) = problems_of(tmp_path, {"task": "class"})
    assert "images of one class alone (cat)" in line
    put(tmp_path, "b.png")
    (line,) = problems_of(tmp_path, {"task": "class"})
    assert line.startswith(f"{tmp_path}: b.png is of no class; put each image into a folder")
    for number in range(3):
        put(tmp_path, f"{number}.png")
    (line,) = problems_of(tmp_path, {"task": "class"})
    assert line.startswith(f"{tmp_path}: 0.png, 1.png, 2.png and 1 more are of no class; put")
    with pytest.raises(ConfigError, match=r"task\.template.*should hold \{class\}"):
        read(tmp_path, {"task": {"kind": "class", "template": "a cat"}})


def test_without_captions_none_are_needed_or_read(tmp_path: Path) -> None:
    put(tmp_path, "a.png", None)
    put(tmp_path, "b.png", "café".encode("latin-1"), colour="blue")
    put(tmp_path / "reg", "c.png", b"a\0b", colour="grey")
    examples, reports = read(tmp_path, {"task": "unconditional"}, trigger="sks")
    assert [one.captions for one in examples] == [("",)] * 3
    assert any(isinstance(report, Warned) and "--trigger sks: is not used" in report.text for report in reports)
    (tmp_path / "a.png").write_text("no image")
    (line,) = problems_of(tmp_path, {"task": "unconditional"})
    assert "a.png" in line


def test_a_style_has_captions_and_may_have_a_trigger(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a house")
    assert [one.caption for one in read(tmp_path, {"task": "style"}, trigger="inkwash")[0]] == ["inkwash, a house"]
    put(tmp_path, "b.png", None, colour="blue")
    assert "1 of 2 images have no caption" in problems_of(tmp_path, {"task": "style"})[0]


def test_a_mask_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "a-masklabel.png").write_text("no image")
    (line,) = problems(tmp_path)
    assert "a.png: its mask" in line
    assert read(tmp_path, {"mask": {"use": "off"}})[0][0].mask is None
    (tmp_path / "a-masklabel.png").unlink()
    (tmp_path / "a-masklabel.png").symlink_to("/etc/hostname")
    assert "a-masklabel.png: a link that leads out of the folder" in problems(tmp_path)[0]


def test_an_image_that_is_transparent_all_over_is_told_with_the_others(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    put(tmp_path, "b.png", colour="blue")
    Image.new("RGBA", (32, 24), (255, 0, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "c.png").write_text("no image")
    assert len(read(tmp_path, skip_bad=True)[0]) == 2
    tables = {"mask": {"use": "alpha"}}
    for _ in range(2):  # the second time from the cache
        first, second = problems_of(tmp_path, tables)
        assert first == f"{tmp_path}/a.png: wholly transparent: nothing of it would be learnt; give it a mask file"
        assert second.startswith(f"{tmp_path}/c.png: ")
        (found,), reports = read(tmp_path, tables, skip_bad=True)
        assert found.path.name == "b.png"
        assert [one.path.name for one in reports if isinstance(one, Skipped)] == ["a.png", "c.png"]
    put(tmp_path, "a-masklabel.png", None, colour="grey")
    (tmp_path / "c.png").unlink()
    assert len(read(tmp_path, tables)[0]) == 2


@pytest.mark.parametrize(
    ("caption", "remedy"),
    [
        ("a.png.txt", "rename a.png.txt to a.txt"),
        ("A.txt", "rename A.txt to a.txt"),
        ("a.tags", "rename a.tags to a.txt"),
        ("a.cap", "rename a.cap to a.txt"),
        ("a_caption.txt", "rename a_caption.txt to a.txt"),
        ("captions/a.txt", "put {folder}/captions/a.txt beside it, as a.txt"),
    ],
)
def test_captions_that_stand_elsewhere_are_found(caption: str, remedy: str, tmp_path: Path) -> None:
    put(tmp_path, "a.png", None)
    put(tmp_path, "b.png", "told", colour="blue")
    (tmp_path / caption).parent.mkdir(exist_ok=True)
    (tmp_path / caption).write_text("a caption")
    (line,) = problems(tmp_path)
    assert "1 of 2 images" in line
    assert remedy.format(folder=tmp_path) in line


def test_a_txt_of_any_case_is_a_caption(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "told", ".TXT")
    assert captions(tmp_path) == {"a.png": "told"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("captions.json", '{"a.png": {"caption": "a cat"}}', "captions.json names them: make a metadata.jsonl"),
        ("train.jsonl", '{"file_name": "a.png", "text": "a cat"}', "train.jsonl names them: make a metadata.jsonl"),
        ("labels.csv", "a.png,a cat", "labels.csv names them: make a metadata.jsonl"),
        ("a.json", '{"label": "a cat"}', 'a.json tells no "caption", "text" or "prompt"'),
        ("other.json", '{"label": "a cat"}', "sdtune caption"),
    ],
)
def test_lists_that_name_the_images_are_found(name: str, text: str, words: str, tmp_path: Path) -> None:
    put(tmp_path, "a.png", None)
    (tmp_path / name).write_text(text)
    assert words in problems(tmp_path)[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data-00000.parquet", "data-00000.parquet, a table: save its images as files"),
        ("data-00000-of-00001.arrow", "a table: save its images"),
        ("cat.mp4", "a video: save the pictures"),
        ("cat.txt", "cat.txt, but no image of that name"),
        ("cat-1/run.toml", "cat-1 is the folder of a training"),
    ],
)
def test_what_there_is_in_place_of_images_is_told(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("something")
    (line,) = problems(tmp_path)
    assert words in line


def test_the_example_in_the_docs_is_one() -> None:
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    config = resolve(TrainLora, [tomllib.loads(block)])
    assert [folder.weight for folder in config.data.all_folders] == [1.0, 0.5, 1.0]
    assert [folder.prior for folder in config.data.all_folders] == [False, False, True]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_list_can_weigh_each_image(tmp_path: Path, form: str) -> None:
    pictures.folder(tmp_path / "data", 3)
    for text in (tmp_path / "data").glob("*.txt"):
        text.unlink()
    if form == "csv":
        told = "file_name,text,weight\n0.png,a,0.5\n1.png,b,\n2.png,c,0\n"
    else:
        rows = [
            {"file_name": f"{n}.png", "text": "abc"[n]} | more
            for n, more in enumerate(({"weight": 0.5}, {}, {"weight": 0}))
        ]
        told = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "data" / f"metadata.{form}").write_text(told)
    examples, _ = read(tmp_path / "data")
    assert [example.weight for example in examples] == [0.5, 1.0, 0.0]


@pytest.mark.parametrize("weight", ["heavy", -1, 1e9, True, [1], "nan"])
def test_a_weight_that_is_none_is_told_by_its_line(tmp_path: Path, weight: Any) -> None:
    pictures.folder(tmp_path / "data", 1)
    row = {"file_name": "0.png", "text": "a", "weight": weight}
    (tmp_path / "data/metadata.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"metadata\.jsonl:1: weight must be a number from 0 to 1000; mend that line"):
        read(tmp_path / "data")
