"""Trackers get the figures of a run and nothing of the machine; none of them stops a training."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from PIL import Image

from sdtune.config import TrainLora, resolve
from sdtune.core.reports import Measure, Note, Step, Validated, Warned
from sdtune.core.run_folder import RunFolder
from sdtune.core.tracking import Trackers, check_trackers, plain_settings, without_secrets
from sdtune.errors import ConfigError
from sdtune.tables import Track

CANARY = "canary0123456789abcdef0123456789abcdef01"  # as long as keys of wandb are
HOME = "/home/hidden-user"


@pytest.fixture(autouse=True)
def accelerator() -> None:
    """As a training has it; trackers ask it which process leads."""
    Accelerator(cpu=True)


def config_for(*names: str, **more: Any) -> TrainLora:
    return resolve(TrainLora, [{"data": {"folder": f"{HOME}/photos/cats"}, "track": {"to": list(names)}, **more}])


def step(number: int, loss: float | None = 0.25) -> Step:
    return Step(number, 40, loss, 0.5, 1e-4, 3.0, number / 3, 1.25)


def validated(number: int) -> Validated:
    held_out, trained = (Measure(0.1, 0.01, relative, 0.02, (0.1,), 8) for relative in (0.875, 0.75))
    return Validated(number, 40, held_out, trained, number, 1.0)


def figures(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{name: [(step, value), ...]} of all event files that tensorboard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {name: [(one.step, one.value) for one in read.Scalars(name)] for name in read.Tags()["scalars"]}


def followed(config: TrainLora, run: Path, steps: range, begin: int = 0) -> list[Note | Warned]:
    trackers = Trackers(config, run)
    told = list(trackers.start(begin))
    for number in steps:
        told += trackers.log(step(number))
        told += trackers.log(Note("of no interest"))
    told += trackers.log(validated(steps[-1]))
    return told + trackers.close()


def test_tensorboard_has_every_figure(tmp_path: Path) -> None:
    (told,) = followed(config_for("tensorboard"), tmp_path, range(1, 21))
    assert isinstance(told, Note)
    assert str(tmp_path / "tensorboard") in told.text
    read = figures(tmp_path / "tensorboard")
    assert read["train/loss"] == [(number, 0.25) for number in range(1, 21)]
    assert read["speed/memory_gb"][-1] == (20, 1.25)
    assert read["validation/held_out_relative"] == [(20, 0.875)]
    assert read["validation/gap"] == [(20, 0.125)]


def test_a_resumed_run_goes_on_in_tensorboard_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    config = config_for("tensorboard")
    followed(config, tmp_path, range(1, 26))  # killed after 25, with a checkpoint of 20
    followed(config, tmp_path, range(21, 41), begin=20)
    read = figures(tmp_path / "tensorboard")
    assert [number for number, _ in read["train/loss"]] == list(range(1, 41))


def test_a_step_that_was_not_taken_has_no_loss(tmp_path: Path) -> None:
    trackers = Trackers(config_for("tensorboard"), tmp_path)
    assert [type(one) for one in trackers.start(0)] == [Note]
    assert list(trackers.log(step(1, None))) == []
    assert trackers.close() == []
    assert "train/loss" not in figures(tmp_path / "tensorboard")


def test_samples_are_shown_in_tensorboard(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "cats")
    run.sample(20, 1).parent.mkdir()
    for number in (1, 2):
        Image.new("RGB", (16, 8), "red").save(run.sample(20, number))
    trackers = Trackers(config_for("tensorboard"), tmp_path)
    assert [type(one) for one in [*trackers.start(0), *trackers.show(run, 20), *trackers.show(run, 21)]] == [Note]
    trackers.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(one.step, one.width, one.height) for one in read.Images("samples")] == [(20, 32, 8)]


def test_nothing_is_written_unless_asked_for_and_by_the_leading_process_alone(tmp_path: Path) -> None:
    assert followed(config_for(), tmp_path, range(1, 3)) == []
    trackers = Trackers(config_for("tensorboard"), tmp_path, leads=False)
    assert [*trackers.start(0), *trackers.log(step(1)), *trackers.close()] == []
    assert list(tmp_path.iterdir()) == []


def test_no_file_tells_a_key_or_where_things_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", HOME)
    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, CANARY)
    config = config_for(
        "tensorboard",
        out=f"{HOME}/runs/1",
        model=f"{HOME}/models/base.safetensors",
        cache={"folder": f"{HOME}/cache"},
        samples={"prompts": [f"a cat {CANARY}", f"a dog in {HOME}/photos"]},
    ).model_copy(update={"resume": f"{HOME}/runs/1"})
    followed(config, tmp_path, range(1, 3))
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"optimizer.lr" in written or b"network.rank" in written
    assert b"base.safetensors" in written
    for secret in (CANARY, HOME, "hidden-user"):
        assert secret.encode() not in written
    assert "cats" in plain_settings(config).values()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """Puts a package of that name and source where it is imported from: wandb is not installed for tests."""

    def make(name: str, source: str) -> None:
        folder = tmp_path / "packages"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, name, raising=False)

    yield make
    for name in ("wandb", "trackio"):
        sys.modules.pop(name, None)


FAILING = """
import os
told = []
config = {}
def init(**asked):
    told.append(asked)
    print("a word of the library")
    if os.environ.get("FAILS") == "init":
        raise RuntimeError("no way there\\nwith " + os.environ["WANDB_API_KEY"])
    return Run()
class Run:
    def log(self, values, step):
        told.append((step, values))
        if os.environ.get("FAILS") == "log" and step == 3:
            raise OSError("gone with " + os.environ["WANDB_API_KEY"])
    def finish(self):
        told.append("finished")
        if os.environ.get("FAILS") == "finish":
            raise SystemExit(1)
"""


@pytest.mark.parametrize(("fails", "steps"), [("init", 0), ("log", 3), ("finish", 9), ("", 9)])
def test_a_tracker_that_fails_is_told_of_once_and_left_alone(
    module: Callable[[str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fails: str,
    steps: int,
) -> None:
    module("wandb", FAILING)
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    monkeypatch.setenv("FAILS", fails)
    run = tmp_path / "run"
    told = followed(config_for("wandb", "tensorboard"), run, range(1, 10))
    import wandb  # type: ignore[import-not-found,unused-ignore]

    problems = [one.text for one in told if isinstance(one, Warned)]
    assert len(problems) == bool(fails)
    assert all(one.startswith("wandb is left alone") and CANARY not in one and "\n" not in one for one in problems)
    assert [one[0] for one in wandb.told if isinstance(one, tuple)][:9] == list(range(1, steps + 1))
    assert ("finished" in wandb.told) == (fails in ("finish", ""))
    assert len(figures(run / "tensorboard")["train/loss"]) == 9
    assert capsys.readouterr().out == ""
    assert CANARY.encode() not in b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())


def test_a_resumed_run_is_the_same_one_to_wandb(
    module: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module("wandb", FAILING)
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    for name, begin in (("a", 0), ("a", 20), ("b", 0)):
        followed(config_for("wandb"), tmp_path / name, range(begin + 1, begin + 3), begin)
    import wandb

    asked = [one for one in wandb.told if isinstance(one, dict)]
    first, again, other = (one["id"] for one in asked)
    assert first == again != other
    assert {one["resume"] for one in asked} == {"allow"}
    assert all(one["settings"]["x_disable_meta"] and one["settings"]["x_disable_machine_info"] for one in asked)


def test_what_is_missing_is_told_before_any_work(
    module: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(ConfigError, match="--track: trackio is not installed; pip install trackio"):
        check_trackers(Track(to=("tensorboard", "trackio")))
    module("wandb", FAILING)
    with pytest.raises(ConfigError, match="set WANDB_API_KEY"):
        check_trackers(Track(to=("wandb",)))
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(Track(to=("wandb", "tensorboard")))
    check_trackers(Track())


def test_secrets_are_blotted_out_by_their_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "MY_PASSWORD"):
        monkeypatch.setenv(name, f"{CANARY}-{name.lower()}")
        assert without_secrets(f"refused: {os.environ[name]}!") == "refused: ***!"
    monkeypatch.setenv("SHORT_KEY", "a")
    assert without_secrets("a cat") == "a cat"
