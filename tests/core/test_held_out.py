"""What is held out follows from the pictures alone, and nothing that is trained on is among it."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as how_often
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from sdtune.config import TrainLora, resolve
from sdtune.core.data.folder import Example, read_folders
from sdtune.core.folds import parts
from sdtune.core.held_out import alike, choose
from sdtune.core.reports import Note, Report, Skipped, Warned
from sdtune.errors import DataError
from sdtune.tables import Validation


def result(work: Any) -> tuple[Any, list[Report]]:
    """What a generator returns, and what it told."""
    told: list[Report] = []
    while True:
        try:
            told.append(next(work))
        except StopIteration as end:
            return end.value, told


def scene(seed: int) -> Image.Image:
    """A picture unlike those of other seeds."""
    drawn = random.Random(seed)
    picture = Image.new("RGB", (64, 64), tuple(drawn.randrange(256) for _ in range(3)))
    for _ in range(12):
        left, top = drawn.randrange(56), drawn.randrange(56)
        box = (left, top, left + drawn.randrange(8, 40), top + drawn.randrange(8, 40))
        ImageDraw.Draw(picture).rectangle(box, fill=tuple(drawn.randrange(256) for _ in range(3)))
    return picture


def put(folder: Path, name: str, seed: int, caption: str | None = "a scene") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    scene(seed).resize((96, 96)).save(folder / f"{name}.png")
    if caption is not None:
        (folder / f"{name}.txt").write_text(caption)
    return folder / f"{name}.png"


def split(folder: Path, *more: dict[str, Any]) -> tuple[list[str], list[str], list[Report]]:
    """Names of what is trained and of what is held out, and what was told."""
    config = resolve(TrainLora, [{"data": {"folder": folder}}, *more])
    examples, told = result(read_folders(config))
    (trained, held_out), more_told = result(choose(examples, config.validation))
    return [one.path.name for one in trained], [one.path.name for one in held_out], told + more_told


def texts(reports: Sequence[Report], kind: type[Note | Warned]) -> str:
    return "\n".join(report.text for report in reports if isinstance(report, kind))


def test_of_twelve_pictures_two_are_held_out_whatever_their_names(tmp_path: Path) -> None:
    for number in range(12):
        put(tmp_path / "a", f"{number}", number)
        put(tmp_path / "b", f"{'zyxwvutsrqpo'[number]}", number)
    trained, held_out, told = split(tmp_path / "a")
    assert (len(trained), len(held_out)) == (10, 2)
    assert not set(trained) & set(held_out)
    _, other, _ = split(tmp_path / "b")
    assert {"zyxwvutsrqpo"[int(name.removesuffix(".png"))] + ".png" for name in held_out} == set(other)
    assert "validation: none" not in texts(told, Note)
    assert split(tmp_path / "a", {"seed": 5})[1] == held_out
    assert split(tmp_path / "a", {"validation": {"off": True}})[1] == []


def test_of_eleven_none_is_and_it_is_said_what_helps(tmp_path: Path) -> None:
    for number in range(11):
        put(tmp_path, f"{number}", number)
    shutil.copy(tmp_path / "0.png", tmp_path / "copy.png")
    (tmp_path / "copy.txt").write_text("again")
    trained, held_out, told = split(tmp_path)
    assert (len(trained), held_out) == (12, [])
    assert "11 different images are too few" in texts(told, Note)
    assert "--validation.folds 4" in texts(told, Note)
    assert "too few" not in texts(split(tmp_path, {"validation": {"folds": 4}})[2], Note)
    assert "too few" not in texts(split(tmp_path, {"validation": {"off": True}})[2], Note)


def test_near_duplicates_lie_on_one_side(tmp_path: Path) -> None:
    for number in range(30):
        put(tmp_path, f"{number}", number)
        for quality in (60, 90):
            scene(number).save(tmp_path / f"{number}-{quality}.jpg", quality=quality)
            (tmp_path / f"{number}-{quality}.txt").write_text("again")
    trained, held_out, _ = split(tmp_path)
    assert len(held_out) in range(6, 31)
    sides = [{Path(name).stem.partition("-")[0] for name in side} for side in (trained, held_out)]
    assert not sides[0] & sides[1]
    assert len(held_out) == 3 * len(sides[1])


def test_a_folder_held_out_is_that_whatever_the_number(tmp_path: Path) -> None:
    for number in range(14):
        put(tmp_path, f"{number}", number)
    put(tmp_path / "held-out", "h", 99, "held")
    put(tmp_path / "reg", "r", 98)
    config = resolve(TrainLora, [{"data": {"folder": tmp_path, "trigger": "sks"}}])
    examples, told = result(read_folders(config))
    (trained, (held_out,)), _ = result(choose(examples, config.validation))
    assert (len(trained), held_out.path.name, held_out.caption) == (15, "h.png", "sks, held")
    assert "15 images with captions" in texts(told, Note)
    assert "1 more are held out" in texts(told, Note)
    assert split(tmp_path, {"validation": {"off": True}})[:2] == ([one.path.name for one in trained], [])


def test_what_is_held_out_and_trained_on_is_told_and_left_out(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    put(tmp_path, "b", 2)
    put(tmp_path / "held-out", "same", 1)
    put(tmp_path / "held-out", "other", 3)
    trained, held_out, told = split(tmp_path)
    assert (trained, held_out) == (["a.png", "b.png"], ["other.png"])
    assert f"{tmp_path}/held-out/same.png ({tmp_path}/a.png): held out, and trained on as well" in texts(told, Warned)


def test_a_damaged_picture_that_is_held_out_is_told_as_any(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    bad = put(tmp_path / "held-out", "bad", 3)
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(DataError, match=r"held-out/bad\.png"):
        split(tmp_path)
    trained, held_out, told = split(tmp_path, {"data": {"skip_bad": True}})
    assert (trained, held_out) == (["a.png"], [])
    assert [one.path.name for one in told if isinstance(one, Skipped)] == ["bad.png"]
    assert split(tmp_path, {"validation": {"off": True}})[0] == ["a.png"]


def test_what_is_held_out_of_classes_is_of_its_folders_class(tmp_path: Path) -> None:
    for number, name in enumerate(("red apple", "pear")):
        put(tmp_path / name, "a", number, None)
        put(tmp_path / "held-out" / name, "h", 10 + number, None)
    put(tmp_path / "held-out", "of none", 20, None)
    config = resolve(TrainLora, [{"data": {"folder": tmp_path}, "task": {"kind": "class"}}])
    examples, told = result(read_folders(config))
    (trained, held_out), _ = result(choose(examples, config.validation))
    assert sorted(one.caption for one in held_out) == sorted(one.caption for one in trained)
    assert {one.of_class for one in held_out} == {"red apple", "pear"}
    assert "2 images of 2 classes" in texts(told, Note)


def made(number: int, **more: Any) -> Example:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return Example(Path(f"{number}.png"), ("a",), 64, 64, sha256=digest, **more)


def held(numbers: Sequence[int], share: float) -> set[str]:
    (_, out), _ = result(choose([made(number) for number in numbers], Validation(held_out=share)))
    return {one.path.stem for one in out}


@how_often(deadline=None)
@given(st.sets(st.integers(0, 500), min_size=13, max_size=80), st.floats(0.01, 0.5), st.data())
def test_a_picture_more_or_less_moves_at_most_one_other(numbers: set[int], share: float, data: Any) -> None:
    one = data.draw(st.sampled_from(sorted(numbers)))
    ordered = data.draw(st.permutations(sorted(numbers)))
    all_of_them, without = held(ordered, share), held([*(numbers - {one})], share)
    assert len((all_of_them - {str(one)}) ^ without) <= 1
    assert 2 <= len(all_of_them) <= len(numbers) - 10
    below = {str(number) for number in numbers if int(made(number).sha256[:12], 16) < share * 16**12}
    assert len(all_of_them) <= max(2, round(1.5 * share * len(numbers))), "chance does not take a quarter of a few"
    if 2 <= len(below) <= min(len(numbers) - 10, round(1.5 * share * len(numbers))):
        assert all_of_them == below, "then it is each picture's own affair"


def test_of_many_the_share_is_held_out_and_none_is_moved_by_more() -> None:
    few, many = held(range(500), 0.1), held(range(3000), 0.1)
    assert 0.08 < len(many) / 3000 < 0.12
    assert {name for name in many if int(name) < 500} == few


def test_priors_and_what_counts_nothing_are_never_held_out() -> None:
    examples = [made(number, repeats=2) for number in range(12)]
    examples += [made(number, prior=True) for number in range(100, 150)]
    examples += [made(number, weight=0.0) for number in range(200, 250)]
    (trained, out), _ = result(choose(examples, Validation(held_out=0.5)))
    assert len(out) == 2
    assert len(trained) == 110
    assert not any(one.prior or not one.weight for one in out)


def test_repeats_are_as_small_as_they_can_be_once_some_are_held_out() -> None:
    examples = [made(number, repeats=2) for number in range(20)]
    (_, out), _ = result(choose(examples, Validation()))
    once = [replace(one, repeats=1) if one in out else one for one in examples]
    (trained, _), _ = result(choose(once, Validation()))
    assert {one.repeats for one in trained} == {1}


@how_often(deadline=None)
@given(st.sets(st.integers(0, 500), min_size=2, max_size=30), st.integers(0, 20))
def test_folds_hold_each_picture_out_once(numbers: set[int], count: int) -> None:
    examples = [made(number) for number in sorted(numbers)] + [made(1000, prior=True)]
    folds = parts(examples, count)
    assert len(folds) == min(max(count, 2), len(numbers))
    assert sorted(int(one.path.stem) for _, out in folds for one in out) == sorted(numbers)
    assert all(len(trained) + len(out) == len(examples) for trained, out in folds)
    assert max(len(out) for _, out in folds) - min(len(out) for _, out in folds) <= 1
    assert parts(examples[::-1], count)[0][1] == folds[0][1][::-1]


def test_copies_share_a_fold() -> None:
    assert [len(family) for family in alike([made(1), made(2), replace(made(1), path=Path("copy.png"))])] in (
        [1, 2],
        [2, 1],
    )
    with pytest.raises(DataError, match="two images that differ"):
        parts([made(1), replace(made(1), path=Path("copy.png"))], 2)
