"""Pictures of a run are found by their content, and what was trained is no reference."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdtune.core.evaluation.candidates import opened
from sdtune.core.evaluation.references import Pictures, references_of
from sdtune.core.evaluation.subject import Subject
from sdtune.core.evaluation.trained_pictures import Known, subject_of
from sdtune.errors import DataError
from tests.core.evaluation.runs import heard, lora, picture, pictures, run

CAPTIONS = [f"a {thing}, soft style" for thing in ("cat", "dog", "cup", "tree", "car", "key", "hat", "egg")]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def subject(name: str = "runs/cats-1", trained: str | None = None) -> tuple[Subject, tuple[str, ...]]:
    origin = opened(name, None, every=True).origin
    known: Known = heard(subject_of(origin, Path(trained) if trained else None, follow_links=False))[0]
    return known.subject, known.told


def beside(*subjects: Subject, folder: str | None = None, run: str = "runs/cats-1") -> tuple[Pictures, list[str]]:
    origin = opened(run, None, every=True).origin
    found, told = heard(references_of(subjects, origin, Path(folder) if folder else None, follow_links=False))
    return found, told


def test_a_runs_pictures_are_those_of_its_list_with_their_captions() -> None:
    run(Path("runs/cats-1"), Path("cats"), CAPTIONS, held_out=(1, 3), priors=(7,))
    found, told = subject()
    assert [one.name for one in found.trained] == ["00.png", "02.png", "04.png", "05.png", "06.png"]
    assert [one.caption for one in found.held_out] == ["a dog, soft style", "a tree, soft style"]
    assert found.trained[0].path == Path("cats/00.png")
    assert not told


def test_captions_are_as_the_run_worded_them_whole() -> None:
    captions = ["{red|red} cat, (big:1.4), calm", "a dog"]
    run(Path("runs/cats-1"), Path("cats"), captions, captions={"weights": True, "shuffle": True, "tag_dropout": 0.9})
    assert [one.caption for one in subject()[0].trained] == ["red cat, big, calm", "a dog"]


def test_pictures_that_were_moved_or_renamed_are_found_and_those_that_are_gone_are_told_once() -> None:
    run(Path("work/runs/cats-1"), Path("cats"), CAPTIONS, held_out=(7,))
    Path("cats/below").mkdir()
    Path("cats/00.png").rename("cats/below/other.png")
    Path("cats/01.png").write_bytes(Path("cats/02.png").read_bytes())  # another's content under its name
    Path("cats/03.png").unlink()
    Path("cats/07.png").unlink()
    found, told = subject("work/runs/cats-1")
    assert found.trained[0].path == Path("cats/below/other.png")
    assert [one.name for one in found.trained] == ["00.png", "02.png", "04.png", "05.png", "06.png"]
    assert len(told) == 2
    assert told[0].startswith(
        "cats-1: 2 of 7 trained pictures are not where they were, or were changed (01.png, 03.png)"
    )
    assert told[1].startswith("cats-1: 1 of 1 held-out pictures is not where")


def test_data_is_found_from_the_folder_in_which_the_run_began(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("work").mkdir()
    monkeypatch.chdir("work")
    run(Path("runs/cats-1"), Path("cats"), CAPTIONS)
    monkeypatch.chdir("..")
    assert len(subject("work/runs/cats-1")[0].trained) == 8


def test_trained_says_where_pictures_are_now_and_what_they_were_where_no_run_does() -> None:
    run(Path("runs/cats-1"), Path("cats"), CAPTIONS, held_out=(0,))
    Path("cats").rename("elsewhere")
    assert subject()[0].trained == ()
    found, told = subject(trained="elsewhere")
    assert (len(found.trained), len(found.held_out), told) == (7, 1, ())
    lora(Path("alone.safetensors"))
    assert len(subject("alone.safetensors", trained="elsewhere")[0].trained) == 8
    with pytest.raises(DataError, match="--trained nowhere: no such folder"):
        subject("alone.safetensors", trained="nowhere")


def test_a_hostile_list_names_nothing_outside_its_folder_and_a_broken_one_is_told() -> None:
    made = run(Path("runs/cats-1"), Path("cats"), CAPTIONS[:3])
    secret = picture(Path("secret.png"), 30)
    told = json.loads(made.data.read_text())
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()
    for place, name in enumerate(("../secret.png", str(secret.absolute()), "a\0b")):
        told["images"][place] |= {"file": name, "sha256": digest, "captions": ["x\u202ey\x1b[0m\ud800" + "z" * 9000]}
    made.data.write_text(json.dumps(told))
    found, lines = subject()
    assert found.trained == ()
    assert len(lines) == 1
    assert len(lines[0]) < 400
    assert lines[0].isprintable()
    made.data.write_text("[")
    assert "data.json: cannot be read" in subject()[1][0]


def test_held_out_pictures_of_all_runs_are_references_but_for_what_another_trained() -> None:
    pictures(Path("cats"), CAPTIONS)
    run(Path("runs/cats-1"), Path("cats"), CAPTIONS, held_out=(0, 1, 2, 3, 4, 5))
    run(Path("runs/cats-2"), Path("cats"), CAPTIONS, held_out=(1, 2, 3, 4, 5, 6))
    first, second = subject()[0], subject("runs/cats-2")[0]
    found, _ = beside(first, second)
    assert [one.name for one in found.references] == ["01.png", "02.png", "03.png", "04.png", "05.png"]
    assert not found.are_trained
    assert found.told == (
        "2 of 7 held-out pictures are trained pictures: 00.png, 06.png; left out, since they would reward copying",
    )


@pytest.mark.parametrize(("held_out", "says"), [((), "no pictures are held out"), ((0,), "only 1 picture is held out")])
def test_too_few_held_out_let_trained_ones_stand_in_which_is_told(held_out: tuple[int, ...], says: str) -> None:
    run(Path("runs/cats-1"), Path("cats"), CAPTIONS, held_out=held_out)
    found, _ = beside(subject()[0])
    assert len(found.references) == 8
    assert found.are_trained
    assert says in found.told[0]
    assert "rewards copying" in found.told[0]


def test_given_references_that_were_trained_are_left_out_by_content_and_by_likeness() -> None:
    run(Path("runs/cats-1"), Path("cats"), CAPTIONS)
    folder = pictures(Path("new"), ["a bell", None, "a ball", "a cake", "a frog", "a fish"], first=20)
    os.link("cats/03.png", folder / "copy of 03.png")
    with Image.open("cats/04.png") as image:
        image.resize((96, 96)).save(folder / "scaled.jpg", quality=85)
    found, _ = beside(subject()[0], folder="new")
    assert [one.caption for one in found.references] == ["a bell", None, "a ball", "a cake", "a frog", "a fish"]
    assert found.told == (
        "2 of 8 references are trained pictures: copy of 03.png, scaled.jpg (nearly 04.png); left out, since they "
        "would reward copying",
    )


def test_references_that_cannot_be_read_are_told_and_left_out_and_one_is_too_few() -> None:
    run(Path("runs/cats-1"), Path("cats"), CAPTIONS)
    folder = pictures(Path("new"), ["a bell"], first=20)
    whole = (folder / "20.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "words.png").write_text("words")
    found, told = beside(subject()[0], folder="new")
    assert [one.name for one in found.references] == ["20.png"]
    assert [line.split(":")[0] for line in told] == ["new/half.png", "new/words.png"]
    assert found.told == (
        "there is only 1 reference, too few to measure sets of pictures by; give 5 or more with --reference FOLDER",
    )
    (folder / "20.png").unlink()
    with pytest.raises(DataError, match="none of its 2 pictures can be read"):
        beside(subject()[0], folder="new")


def test_captions_that_cannot_be_read_are_told() -> None:
    run(Path("runs/cats-1"), Path("cats"), CAPTIONS)
    folder = pictures(Path("new"), ["a bell", "a ball", "a cake"], first=20)
    (folder / "20.txt").write_bytes(b"caf\xe9\0")
    (folder / "21.txt").unlink()
    os.mkfifo(folder / "21.txt")
    found, _ = beside(subject()[0], folder="new")
    assert [one.caption for one in found.references] == [None, None, "a cake"]
    assert [line.split(":")[0] for line in found.told[:2]] == ["new/20.txt", "new/21.txt"]
    pictures(Path("old"), ["x"], first=40)
    lora(Path("alone.safetensors"))
    (Path("old") / "40.txt").write_bytes(b"\xff\xfe\0")
    assert "old/40.txt" in subject("alone.safetensors", trained="old")[1][0]


def test_nothing_to_lay_beside_is_an_error_that_says_what_helps() -> None:
    run(Path("runs/cats-1"), Path("cats"), CAPTIONS)
    lora(Path("alone.safetensors"))
    with pytest.raises(DataError, match="give some that were not trained with --reference FOLDER"):
        beside(subject("alone.safetensors")[0], run="alone.safetensors")
    with pytest.raises(DataError, match=r"--reference cats: all 8 are trained pictures"):
        beside(subject()[0], folder="cats")
    with pytest.raises(DataError, match="--reference nowhere: no such folder"):
        beside(subject()[0], folder="nowhere")


def test_references_of_classes_are_told_by_their_folders() -> None:
    task: dict[str, Any] = {"kind": "class", "template": "a photo of a {class}"}
    run(Path("runs/cats-1"), Path("cats"), ["a photo of a red apple", "a photo of a pear"], task=task)
    for number, name in enumerate(("10_red_apple", "pear")):
        pictures(Path("new") / name, ["words of its own"], first=20 + number)
    found, _ = beside(subject()[0], folder="new")
    assert [one.caption for one in found.references] == ["a photo of a red apple", "a photo of a pear"]
