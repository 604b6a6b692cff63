"""A second run looks at no image again whose bytes it knows, and at every one whose bytes it does not."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdtune.config import TrainLora, resolve
from sdtune.core.data import facts_memo
from sdtune.core.data.cache_folder import FACTS
from sdtune.core.data.encode import as_looked_at
from sdtune.core.data.facts_memo import memo_for
from sdtune.core.data.folder import Example, read_folders
from sdtune.core.data.looks import SIDE
from sdtune.core.intake.facts import Job, Measured
from sdtune.core.intake.workers import Workers
from sdtune.errors import DataError
from tests import pictures


def config_for(tmp_path: Path, **tables: Any) -> TrainLora:
    usual = {"data": {"folder": tmp_path / "data"}, "cache": {"folder": tmp_path / "cache"}}
    return resolve(TrainLora, [usual, tables])


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that were handed to workers, which do their work as ever."""
    names: list[str] = []
    each = Workers.each

    def told(self: Workers, work: Any) -> Any:
        jobs = list(work)
        names.extend(Path(job.name).name for _, job, _, _ in jobs)
        return each(self, iter(jobs))

    monkeypatch.setattr(Workers, "each", told)
    return names


def read(config: TrainLora) -> list[Example]:
    work = read_folders(config)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def memo_file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / FACTS


def test_a_second_run_decodes_nothing_and_finds_the_same(tmp_path: Path, looked: list[str]) -> None:
    pictures.folder(tmp_path / "data", 5, ((64, 64), (96, 48)))
    first = read(config_for(tmp_path))
    assert sorted(looked) == [f"{number}.png" for number in range(5)]
    looked.clear()
    assert read(config_for(tmp_path)) == first
    assert looked == []
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = read(config_for(tmp_path, data={"folder": tmp_path / "moved"}))
    assert [one.sha256 for one in moved] == [one.sha256 for one in first]
    assert looked == []


def test_an_edited_image_is_looked_at_anew_though_name_size_and_time_are_the_same(
    tmp_path: Path, looked: list[str]
) -> None:
    place = pictures.folder(tmp_path / "data", 3) / "1.bmp"
    Image.new("RGB", (64, 32), "red").save(place)
    place.with_suffix(".png").unlink()
    read(config_for(tmp_path))
    looked.clear()
    before = place.stat()
    Image.new("RGB", (32, 64), "red").save(place)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (place.stat().st_size, place.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    sizes = {example.path.name: (example.width, example.height) for example in read(config_for(tmp_path))}
    assert looked == ["1.bmp"]
    assert sizes["1.bmp"] == (32, 64)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: (data / "0.png").rename(data / "0.jpg"),  # whose name now does not fit its content
        lambda data: Image.new("L", (64, 64), 128).save(data / "0-masklabel.png"),
    ],
)
def test_what_else_facts_depend_on_is_looked_at_anew(change: Any, tmp_path: Path, looked: list[str]) -> None:
    data = pictures.folder(tmp_path / "data", 2)
    read(config_for(tmp_path))
    looked.clear()
    change(data)
    read(config_for(tmp_path))
    assert [Path(name).stem for name in looked] == ["0"]
    looked.clear()
    read(config_for(tmp_path))
    assert looked == []


def test_another_resolution_needs_no_other_look(tmp_path: Path, looked: list[str]) -> None:
    data = pictures.folder(tmp_path / "data", 1)
    read(config_for(tmp_path))
    read(config_for(tmp_path, data={"folder": data, "resolution": 512}))
    assert len(looked) == 1


def test_what_cannot_be_read_is_not_remembered(tmp_path: Path, looked: list[str]) -> None:
    data = pictures.folder(tmp_path / "data", 2)
    (data / "0.png").write_bytes(b"no image")
    for _ in range(2):
        looked.clear()
        with pytest.raises(DataError, match=r"0\.png"):
            read(config_for(tmp_path))
        assert "0.png" in looked


def test_in_memory_nothing_is_written_or_read(tmp_path: Path, looked: list[str]) -> None:
    data = pictures.folder(tmp_path / "data", 2)
    read(config_for(tmp_path))
    file = memo_file(tmp_path)
    before = file.read_bytes()
    looked.clear()
    read(config_for(tmp_path, cache={"folder": tmp_path / "cache", "place": "memory"}))
    assert (len(looked), file.read_bytes()) == (2, before)
    file.unlink()
    read(config_for(tmp_path, data={"folder": data}, cache={"folder": tmp_path / "cache", "place": "memory"}))
    assert not file.exists()


def a_pipe(file: Path) -> None:
    file.parent.mkdir()
    os.mkfifo(file)


def read_only(file: Path) -> None:
    file.parent.mkdir(mode=0o500)
    if os.geteuid() == 0:
        pytest.skip("root may write everything")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.parent.write_text("a file where the folder should be"),
        lambda file: file.mkdir(parents=True),
        lambda file: file.parent.symlink_to(file.parent / "circle"),
        a_pipe,
        read_only,
    ],
)
def test_a_place_that_cannot_be_used_changes_nothing_but_speed(spoil: Any, tmp_path: Path, looked: list[str]) -> None:
    pictures.folder(tmp_path / "data", 2)
    spoil(memo_file(tmp_path))
    first = read(config_for(tmp_path))
    assert read(config_for(tmp_path)) == first
    assert len(looked) == 4


def test_no_damage_brings_other_facts(tmp_path: Path) -> None:
    pictures.folder(tmp_path / "data", 3, ((64, 64), (96, 48)))
    first = read(config_for(tmp_path))
    file = memo_file(tmp_path)
    whole, chance = file.read_bytes(), random.Random(3)
    damaged = [whole[:-5], whole[: len(whole) // 2], b"", b"[" * 100_000, whole.replace(b"64", b"65")]
    for _ in range(20):
        data = bytearray(whole)
        for place in chance.sample(range(len(data)), 3):
            data[place] ^= 1 << chance.randrange(8)
        damaged.append(bytes(data))
    for data in damaged:
        file.write_bytes(data)
        jobs = [Job(str(one.path), str(one.path), None, resolution=SIDE) for one in first]
        with memo_for(config_for(tmp_path)) as memo:
            found = list(memo.known_of(jobs))
        sizes = [None if one is None else (one.width, one.height) for one in found]
        assert all(size in (None, (one.width, one.height)) for size, one in zip(sizes, first, strict=True))
    file.write_bytes(whole)
    with memo_for(config_for(tmp_path)) as memo:
        assert None not in list(memo.known_of(jobs))


def rewritten(file: Path, **values: Any) -> None:
    """Other facts in the file's only line, with the checksum that belongs to them."""
    told = json.loads(file.read_bytes())
    told["facts"] |= values
    told["check"] = facts_memo._check(told["key"], told["facts"])
    file.write_text(json.dumps(told) + "\n")


ODD: list[Any] = [
    None,
    "",
    "64",
    "é",
    "a\nb",
    True,
    0,
    -5,
    15,
    64.5,
    1e999,
    math.nan,
    10**30,
    10**400,
    [],
    [1],
    [None],
    {},
]


@pytest.mark.parametrize("name", [field.name for field in fields(Measured)])
def test_what_no_look_finds_is_not_believed_though_its_checksum_is_right(name: str, tmp_path: Path) -> None:
    pictures.folder(tmp_path / "data", 1)
    (first,) = read(config_for(tmp_path))
    file, job = memo_file(tmp_path), Job(str(first.path), str(first.path), None, resolution=SIDE)
    whole = file.read_bytes()
    right = json.loads(whole)["facts"][name]
    with memo_for(config_for(tmp_path)) as memo:
        assert memo.known(job) is not None
    fine: dict[str, Any] = {"border": [None], "mask": [None], "notices": [[]], "made": [""], "kind": ["64"]}
    fine |= {
        "bytes": [15],
        "written": [0, 15],
        "sharpness": [0, 15, 64.5, 10**30, 10**400],
        "contrast": [0, 15, 64.5, 10**30, 10**400],
    }
    for odd in ODD:
        file.write_bytes(whole)
        rewritten(file, **{name: odd})
        with memo_for(config_for(tmp_path)) as memo:
            found = memo.known(job)
        known = any(type(odd) is type(one) and odd == one for one in [right, *fine.get(name, [])])
        assert (found is not None) == known, odd
    file.write_bytes(whole)
    rewritten(file, sha256="0" * 64)
    assert read(config_for(tmp_path)) == [first]


def test_a_line_that_was_cut_short_costs_itself_alone(tmp_path: Path, looked: list[str]) -> None:
    data = pictures.folder(tmp_path / "data", 2)
    read(config_for(tmp_path))
    file = memo_file(tmp_path)
    file.write_bytes(file.read_bytes()[:-40])
    looked.clear()
    Image.new("RGB", (64, 64), "black").save(data / "2.png")
    (data / "2.txt").write_text("black")
    read(config_for(tmp_path))
    assert len(looked) == 2
    looked.clear()
    read(config_for(tmp_path))
    assert looked == []


LOOK: dict[str, Any] = dict.fromkeys(("border", "mask")) | {
    "sha256": "",
    "bytes": 1,
    "kind": "PNG",
    "width": 16,
    "height": 16,
}
LOOK |= {"prepared": (1, 1), "sharpness": 0.0, "contrast": 0.0, "fingerprint": "0" * 16, "tints": "f" * 384}


def facts(content: str) -> Measured:
    return Measured(**(LOOK | {"sha256": sha256(content.encode()).hexdigest()}))


WRITER = """
import sys
from tests.core.data.test_facts_memo import Job, Path, config_for, facts, memo_for
with memo_for(config_for(Path(sys.argv[1]))) as memo:
    for number in range(500):
        memo.add(Job("a.png", "a.png", None), facts(f"{sys.argv[2]}-{number}"))
"""


def test_processes_that_add_at_once_break_no_line(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    commands = [[sys.executable, "-c", WRITER, str(tmp_path), str(number)] for number in range(3)]
    running = [subprocess.Popen(command) for command in commands]
    assert [one.wait(120) for one in running] == [0, 0, 0]
    lines = facts_memo._read(memo_file(tmp_path))
    assert len(lines) == 1500
    assert all(facts_memo._facts(key, line) for key, line in lines.items())


def test_the_file_is_bounded_and_tidied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    file, job = memo_file(tmp_path), Job("a.png", "a.png", None)
    monkeypatch.setattr(facts_memo, "MOST", 100_000)
    for run in range(20):
        with memo_for(config_for(tmp_path)) as memo:
            for number in range(20):
                memo.add(job, facts(f"{run}-{number}"))
        assert 0 < file.stat().st_size <= 100_000
    file.write_bytes(b"x" * 200_000)
    with memo_for(config_for(tmp_path)) as memo:
        assert memo.is_empty
    assert file.stat().st_size == 0
    for _ in range(30):
        with memo_for(config_for(tmp_path)) as memo:
            memo.add(job, facts("the same"))
    assert 1 <= file.read_bytes().count(facts("the same").sha256.encode()) <= 3


def test_a_remembered_size_that_is_wrong_is_found_when_the_image_is_decoded(tmp_path: Path) -> None:
    pictures.folder(tmp_path / "data", 1)
    read(config_for(tmp_path))
    rewritten(memo_file(tmp_path), width=96)
    (wrong,) = read(config_for(tmp_path))
    assert wrong.width == 96
    with pytest.raises(DataError, match=r"0\.png: is 64 x 64, and was remembered as 96 x 64; remove facts\.jsonl"):
        as_looked_at(wrong)
    memo_file(tmp_path).unlink()
    (right,) = read(config_for(tmp_path))
    assert as_looked_at(right).width == 64
