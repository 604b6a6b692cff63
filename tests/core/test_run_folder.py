"""A run's folder has a name that any system takes, belongs to one run alone, and is never half written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sdtune.core.reports import Step
from sdtune.core.run_folder import (
    NAME_BYTES,
    RESERVED,
    RunFolder,
    must_be_writable,
    newest,
    safe_name,
    write_atomically,
)
from sdtune.errors import OutputError, Paused


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@given(st.text())
@example("CON")
@example("nul.txt")
@example("猫の写真")
@example("é" * 300)
@example("../../etc")
@example("a\ud800b")
@example("trailing. ")
def test_names_suit_any_system(text: str) -> None:
    name = safe_name(text)
    assert 1 <= len(name.encode()) <= NAME_BYTES + len("lora-")
    assert not RESERVED.fullmatch(name)
    assert not set(name) & set('/\\:*?"<>| \0\n')
    assert name == name.strip(". ")
    assert safe_name(name) == name


def test_names_keep_what_can_be_kept() -> None:
    told = {"fluent-3d": "fluent-3d", "my cats!": "my-cats", "猫": "猫", "con": "lora-con", "Aux.old": "lora-Aux.old"}
    assert {text: safe_name(text) for text in told} == told
    assert safe_name("") == safe_name("...") == "lora"
    assert safe_name("e\u0301") == "\u00e9"


def test_the_next_number_is_taken_and_nothing_is_made_before() -> None:
    data = Path("cats")
    data.mkdir()
    assert RunFolder.planned(data, None).path == Path("runs/cats-1")
    assert not Path("runs").exists()
    for name in ("cats-1", "cats-12", "cats-x", "cats-and-dogs-99"):
        (Path("runs") / name).mkdir(parents=True)
    run = RunFolder.planned(data, None).create("steps = 3\n")
    assert run.path == Path("runs/cats-13")
    assert run.settings.read_text() == "steps = 3\n"
    assert run.lora.name == "cats.safetensors"


def test_runs_that_begin_together_get_folders_of_their_own() -> None:
    plans = [RunFolder.planned(Path("cats"), None) for _ in range(16)]
    assert len({plan.path for plan in plans}) == 1
    with ThreadPoolExecutor(16) as pool:
        runs = list(pool.map(lambda plan: plan.create(""), plans))
    assert sorted(run.path.name for run in runs) == sorted(f"cats-{number}" for number in range(1, 17))
    assert all(run.settings.is_file() for run in runs)


def test_one_named_folder_is_for_one_run() -> None:
    plans = [RunFolder.planned(Path("cats"), Path("out")) for _ in range(2)]
    plans[0].create("first")
    with pytest.raises(OutputError, match="another run"):
        plans[1].create("second")
    assert Path("out/run.toml").read_text() == "first"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda out: out.write_text("x"), "is a file"),
        (lambda out: (out.mkdir(), (out / "x").touch()), "already holds files"),
        (lambda out: out.symlink_to("nowhere"), "leads nowhere"),
        (lambda out: os.mkfifo(out), "is a file"),
    ],
)
def test_a_place_that_is_taken_is_refused(make: Callable[[Path], object], words: str) -> None:
    out = Path("out")
    make(out)
    with pytest.raises(OutputError, match=words):
        RunFolder.planned(Path("cats"), out)


@pytest.mark.parametrize("out", ["file/run", "x" * 300, "/proc/nothing/run", "a/" * 3000])
def test_a_place_that_cannot_be_written_is_refused(out: str) -> None:
    Path("file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        RunFolder.planned(Path("cats"), Path(out)).create("")
    assert sorted(os.listdir()) == ["file"]


def test_an_empty_folder_will_do() -> None:
    Path("out").mkdir()
    assert RunFolder.planned(Path("cats"), Path("out")).create("x").settings.is_file()


def test_a_full_disk_leaves_nothing_half_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        RunFolder.planned(Path("cats"), None).create("x")
    assert list(Path("runs").iterdir()) == []


def test_files_are_written_whole_or_not_at_all() -> None:
    path = Path("deep/folder/a.txt")
    write_atomically(path, lambda place: place.write_text("old"))

    def failing(place: Path) -> None:
        place.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, failing)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~(os.umask(mask := os.umask(0)) or mask)


def test_long_names_can_be_written() -> None:
    path = Path("x" * 240 + ".safetensors")
    write_atomically(path, lambda place: place.write_text("x"))
    assert path.is_file()


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"name": 3}', '{"name": "../../etc"}', "\udcff"])
def test_the_name_of_a_run_is_found_without_its_list(text: str) -> None:
    run = RunFolder(Path("runs/cats-3"), "cats").create('data = 3\nmodel = "mini"\n')
    run.data.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert RunFolder.at(run.path).name == "cats"
    run.settings.write_text('[data]\nfolder = "some/dogs/"\n')
    assert RunFolder.at(run.path).name == "dogs"
    run.settings.write_text("= broken")
    assert RunFolder.at(run.path).name == "cats"


def test_what_was_learned_is_never_taken_away() -> None:
    run = RunFolder(Path("runs/cats-1"), "cats").create("")
    (run.checkpoints / "step-000010").mkdir(parents=True)
    run.discard()
    run.clear()
    assert run.settings.is_file()
    assert run.has_learned
    (run.checkpoints / "step-000010").rmdir()
    (run.checkpoints / "step-000010.tmp-123").mkdir()
    assert not run.has_learned
    run.partial(3).touch()
    run.discard()
    run.clear()
    assert run.settings.is_file()
    run.partial(3).unlink()
    run.discard()
    assert not Path("runs").exists()


def step_of(number: int, loss: float | None = 0.5) -> Step:
    return Step(number, 99, loss, float("nan"), 1e-4, 1.0, 1.0)


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["number"] for line in path.read_text().splitlines()]


def test_every_line_is_json_that_any_program_reads() -> None:
    run = RunFolder(Path("run"), "cats").create("")
    run.record(step_of(1, float("inf")))
    run.record(step_of(2, None))

    def refused(word: str) -> None:
        raise AssertionError(word)

    for line in run.metrics.read_text().splitlines():
        assert json.loads(line, parse_constant=refused)["loss"] is None


@given(steps=st.integers(0, 6), to=st.integers(0, 8), torn=st.integers(0, 500))
def test_records_go_back_to_a_step_however_the_last_line_was_torn(
    steps: int, to: int, torn: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = RunFolder(tmp_path_factory.mktemp("rewound") / "run", "cats").create("")
    for number in range(1, steps + 1):
        run.record(step_of(number))
    whole = run.metrics.read_bytes() if steps else b""
    run.metrics.write_bytes(whole[: max(len(whole) - torn, 0)])
    left = run.metrics.read_bytes().count(b"\n")
    run.validations.write_text('{"step": 2}\n{"step": 5}\n')
    run.rewind(to)
    once = run.metrics.read_bytes()
    assert numbers(run.metrics) == list(range(1, min(left, to) + 1))
    assert run.validations.read_text().count("step") == (to >= 2) + (to >= 5)
    run.rewind(to)
    assert run.metrics.read_bytes() == once
    run.record(step_of(to + 1))
    assert numbers(run.metrics)[-1] == to + 1
    assert not list(run.path.glob(".*"))


def test_lines_that_no_training_has_written_are_dropped() -> None:
    run = RunFolder(Path("run"), "cats").create("")
    run.metrics.write_bytes(b'\xff\n3\n[]\n{"number": "1"}\n{"number": 1}\n' + b"[" * 100000 + b"\n")
    run.rewind(5)
    assert run.metrics.read_text() == '{"number": 1}\n'


def test_a_full_disk_is_told_where_steps_are_recorded() -> None:
    run = RunFolder(Path("run"), "cats").create("")
    run.metrics.symlink_to("/dev/full")
    with pytest.raises(Paused, match="the disk is full"):
        run.record(step_of(1))


def test_the_newest_run_is_that_with_the_highest_number_that_has_begun() -> None:
    assert newest("cats") is None
    for number in (2, 10, 9):
        RunFolder(Path(f"runs/cats-{number}"), "cats").create("")
    Path("runs/cats-11").mkdir()
    Path("runs/cats-x").mkdir()
    assert newest("cats") == Path("runs/cats-10")
    assert newest("cat") is None


def test_whether_a_folder_can_be_written_is_tried_and_leaves_nothing(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "new" / "folder"):
        must_be_writable(place)
    assert list(tmp_path.iterdir()) == []
    for no_place in ("/proc/sdtune", "/proc/self/sdtune/x"):  # to root the system says that it may write there
        with pytest.raises(OutputError, match=r"^/proc/.* cannot be written"):
            must_be_writable(Path(no_place))
