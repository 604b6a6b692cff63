"""The list of runs tells what each folder tells, whatever state it was left in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdtune.cli.app import main
from sdtune.config import Runs
from sdtune.core.lock import lock
from sdtune.core.reports import Listed, Listing, Measure, Step, Validated
from sdtune.core.runs import runs
from sdtune.errors import DataError, InputError


def listed(folder: Path) -> dict[str, Listed]:
    (report,) = runs(Runs(folder=folder))
    assert isinstance(report, Listing)
    return {one.path.name: one for one in report.runs}


def run_of(
    folder: Path, step: int = 0, of: int = 800, *, why: str = "", lora: str = "", age: float = 0.0, **told: Any
) -> Path:
    """A run as a training leaves it after so many steps; `why` where it has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"model": "mini", "steps": of, "optimizer": {"kind": "adamw", "lr": 1e-4}, "network": {"rank": 16}}
    (folder / "run.toml").write_text(tomli_w.dumps(tables | told))
    if step:
        rows = [asdict(Step(number, of, 0.1, 0.1, 1e-4, 3.0, 1.0)) for number in range(max(1, step - 5), step + 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if why:
        (folder / "ended.json").write_text(json.dumps({"steps": step, "why": why, "best": None}))
    if lora:
        (folder / lora).write_bytes(b"x")
    for path in [*folder.iterdir(), folder]:
        os.utime(path, (1e9 - age, 1e9 - age))
    return folder


def validated(folder: Path, curve: dict[int, float]) -> None:
    lines = []
    for step in curve:
        best = min((one for one in curve if one <= step), key=curve.__getitem__)
        measure = Measure(curve[step] / 10, 0.01, curve[step], 0.02, (0.1,) * 20, 8)
        lines.append(json.dumps(asdict(Validated(step, 800, measure, measure, best, 1.0))))
    (folder / "validation.jsonl").write_text("\n".join(lines) + "\n")


def test_states(tmp_path: Path) -> None:
    run_of(tmp_path / "finished", 800, why="steps", lora="cats.safetensors")
    run_of(tmp_path / "early", 400, why="early", lora="cats.safetensors")
    run_of(tmp_path / "older", 800, lora="cats.safetensors")  # of a version that wrote no ended.json
    run_of(tmp_path / "partly", 300, lora="cats-step-000300.safetensors")
    kept = run_of(tmp_path / "kept", 300)
    (kept / "checkpoints").mkdir()
    (kept / "checkpoints" / "latest").write_text("step-000300")
    run_of(tmp_path / "failed", 3)
    run_of(tmp_path / "empty")
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file").touch()
    found = listed(tmp_path)
    assert {name: one.state for name, one in found.items()} == {
        "finished": "finished",
        "early": "early stop",
        "older": "finished",
        "partly": "stopped",
        "kept": "stopped",
        "failed": "failed",
        "empty": "empty",
    }
    assert (found["early"].step, found["early"].of) == (400, 800)
    assert (found["empty"].step, found["empty"].of) == (0, 800)
    assert found["finished"].lora == tmp_path / "finished" / "cats.safetensors"


def test_a_run_that_is_trained_now_is_at_work_and_stays_so(tmp_path: Path) -> None:
    run = run_of(tmp_path / "cats-1", 300)
    with lock(run):
        assert listed(tmp_path)["cats-1"].state == "at work"
        with pytest.raises(InputError, match="another training"), lock(run):
            pass
    assert listed(tmp_path)["cats-1"].state == "failed"
    (run / ".lock").write_text("4194303999\n")  # of a process that was killed
    assert listed(tmp_path)["cats-1"].state == "failed"
    (run / ".lock").write_text(f"{os.getpid()}\n")  # whose number another program has got
    assert listed(tmp_path)["cats-1"].state == "failed"
    with lock(run):
        pass


def test_the_least_held_out_loss_is_told(tmp_path: Path) -> None:
    validated(run_of(tmp_path / "a", 800), {0: 1.0, 200: 0.9, 400: 0.86, 600: 0.95, 800: 0.97})
    run_of(tmp_path / "b", 800)
    found = listed(tmp_path)
    assert (found["a"].best, found["a"].held_out) == (400, 0.86)
    assert (found["b"].best, found["b"].held_out) == (None, None)
    (tmp_path / "a" / "cats.safetensors").touch()
    (tmp_path / "a" / "cats-step-000600.safetensors").touch()
    (tmp_path / "a" / "cats-best.safetensors").touch()
    assert listed(tmp_path)["a"].lora == tmp_path / "a" / "cats-best.safetensors"


def test_what_sets_a_run_apart(tmp_path: Path) -> None:
    for number in range(3):
        run_of(tmp_path / f"usual-{number}", age=9 - number)
    run_of(tmp_path / "rank", network={"rank": 32}, age=3)
    run_of(tmp_path / "kind", optimizer={"kind": "prodigy", "lr": 1.0, "growth": 1.02}, age=2)
    run_of(tmp_path / "more", passes=3, out="elsewhere", age=1)
    found = listed(tmp_path)
    assert list(found) == ["usual-0", "usual-1", "usual-2", "rank", "kind", "more"]
    assert {name: one.apart for name, one in found.items()} == {
        "usual-0": {},
        "usual-1": {},
        "usual-2": {},
        "rank": {"rank": "32"},
        "kind": {"optimizer": "prodigy", "lr": "1"},
        "more": {"passes": "3"},
    }


def test_of_two_runs_the_later_is_set_apart(tmp_path: Path) -> None:
    run_of(tmp_path / "b", age=2)
    run_of(tmp_path / "a", network={"rank": 4}, age=1)
    assert {name: one.apart for name, one in listed(tmp_path).items()} == {"b": {}, "a": {"rank": "4"}}


def test_one_run_can_be_given_and_what_is_no_folder_is_told(tmp_path: Path) -> None:
    run = run_of(tmp_path / "cats-1", 8, 8)
    assert list(listed(run)) == ["cats-1"]
    (tmp_path / "file").touch()
    for folder in (
        tmp_path / "nowhere",
        tmp_path / "file",
        tmp_path / "file" / "x",
        tmp_path / ("x" * 300),
        Path("a\0b"),
    ):
        with pytest.raises(DataError, match="folder"):
            list(runs(Runs(folder=folder)))


def breaks(run: Path, how: str) -> Iterator[Path]:
    for name in ("run.toml", "metrics.jsonl", "validation.jsonl", "ended.json", ".lock", "checkpoints"):
        path = run / name
        path.unlink(missing_ok=True)
        if how == "folder":
            path.mkdir()
        elif how == "pipe":
            os.mkfifo(path)
        elif how == "loop":
            path.symlink_to(path)
        elif how == "nowhere":
            path.symlink_to("/nowhere/at/all")
        elif how == "huge":
            with path.open("wb") as file:
                file.truncate(2**33)  # sparse
        yield path


@pytest.mark.parametrize("how", ["folder", "pipe", "loop", "nowhere", "huge"])
def test_broken_folders_have_a_line_each(tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path / "good", 800, why="steps")
    run = run_of(tmp_path / "bad", 800, why="steps")
    for _ in breaks(run, how):
        found = listed(tmp_path)
        assert found["good"].state == "finished"
    assert found["bad"].problem
    assert found["bad"].state == "broken"
    assert main(["runs", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


RUBBISH = st.one_of(
    st.binary(max_size=300),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["step", "steps", "number", "of", "best", "why", "held_out", "relative", "model"]),
                inner,
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("run.toml", "metrics.jsonl", "validation.jsonl", "ended.json", ".lock"), RUBBISH)
    )
)
def test_whatever_the_files_hold_there_is_a_line(
    tmp_path: Path, contents: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path / "bad", 3)
    for name, content in contents.items():
        (run / name).write_bytes(content)
    for words in ([], ["--json"]):
        assert main(["runs", str(tmp_path), *words]) == 0
        out, err = capsys.readouterr()
        assert (len(out.splitlines()), err) == (1 if words else 2, "")
        assert out.replace("\n", "").isprintable()
    (run / ".lock").unlink(missing_ok=True)


def test_hostile_names_and_values_are_shown_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[31m\u202e\nb"
    run_of(tmp_path / hostile, 3, model=hostile, data={"trigger": hostile}, age=1)
    run_of(tmp_path / "usual", 3, data={"trigger": "x"}, age=2)
    assert main(["runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 3
    assert out.replace("\n", "").isprintable()
    assert "trigger a?[31m" in out
    assert main(["runs", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["runs"][1]["apart"] == {"trigger": hostile}


def test_the_table_and_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("no runs in ")
    validated(run_of(tmp_path / "cats-1", 800, why="steps", lora="cats.safetensors", age=9), {0: 1.0, 400: 0.858})
    run_of(tmp_path / "cats-2", 12, network={"rank": 4})
    assert main(["runs", str(tmp_path)]) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == [
        "run",
        "state",
        "steps",
        "held",
        "out",
        "model",
        "last",
        "change",
        "differs",
        "by",
    ]
    assert first.split("  ")[1:3] == ["finished", "800/800"]
    assert "-14.2 % at 400" in first
    assert second.endswith("rank 4")
    assert first.index("mini") == second.index("mini") == heading.index("model")


def test_long_runs_are_read_at_their_ends_alone(tmp_path: Path) -> None:
    """A thousand runs of a thousand validations each would be gigabytes otherwise."""
    run = run_of(tmp_path / "long", 5)
    with (run / "metrics.jsonl").open("r+b") as file:
        row = file.read()
        file.truncate(2**34)  # sparse: reading it as a whole would take minutes and the memory
        file.seek(2**34)
        file.write(b"\n" + row)
    assert listed(tmp_path)["long"].step == 5


def test_many_runs_stand_in_the_order_of_their_time(tmp_path: Path) -> None:
    for number in range(1000):
        run_of(tmp_path / f"cats-{number}", 3, network={"rank": number % 3}, age=number)
    found = listed(tmp_path)
    assert len(found) == 1000
    assert list(found)[-1] == "cats-0"
