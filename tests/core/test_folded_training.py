"""Folds before a training: they are gone when it begins, but for what they have found."""

from __future__ import annotations

import json
import math
import re
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sdtune.config import CacheFolder, TrainLora, resolve
from sdtune.core import folding, making, validation
from sdtune.core.cache import cache
from sdtune.core.folding import as_long_as_it_helps
from sdtune.core.folds import Folded, Point
from sdtune.core.peers import Peers
from sdtune.core.reports import Cached, Note, Planned, Progress, Report, Step, Telling, Trained
from sdtune.core.train_lora import train_lora
from sdtune.errors import ConfigError, Stopped, TrainingError
from tests import pictures

FOLD = re.compile(r"fold \d of 3")


def settings(model: Path, ground: Path, out: str, **more: Any) -> TrainLora:
    told = {"model": str(model), "out": ground / out, "steps": 4, "batch_size": 2, "samples": {"off": True}}
    tables = {
        "data": {"folder": ground / "discs"},
        "network": {"rank": 2},
        "optimizer": {"lr": 0.01},
        "cache": {"folder": ground / "cache"},
    }
    validation = {"every": 2, "timesteps": 2, "noises": 1, "images": 2, "folds": 3}
    return resolve(TrainLora, [told | tables | {"validation": validation}, more])


@pytest.fixture
def model(tiny_models: dict[str, Path]) -> Path:
    return tiny_models["sd1"]


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with six pictures, where folders for what is temporary are seen, too."""
    pictures.folder(tmp_path / "discs", 6)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained_in_folds(reports: Sequence[Report]) -> dict[str, int]:
    """{fold: its steps}"""
    phases = [report.phase for report in reports if isinstance(report, Progress) and FOLD.fullmatch(report.phase)]
    return {phase: phases.count(phase) for phase in phases}


def notes(reports: Sequence[Report]) -> list[str]:
    return [report.text for report in reports if isinstance(report, Note)]


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*")}


def test_a_run_after_folds_is_what_it_is_without_and_finished_folds_are_not_trained_again(
    model: Path, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[tuple[set[str], set[str]]] = []

    def make(of: Any, *given: Any) -> Any:
        sides.append(tuple({one.sha256 for one in side} for side in (of.trained, of.held_out)))  # type: ignore[arg-type]
        return making.make(of, *given)

    monkeypatch.setattr(folding, "make", make)
    work, first = train_lora(settings(model, ground, "run")), list[Report]()
    for report in work:
        first.append(report)
        if report == Progress("fold 2 of 3", 3, 4):
            kept = "the folds before it are kept, and the same command goes on"
            with pytest.raises(Stopped, match=f"^stopped in fold 2 of 3; {kept}$") as stopped:
                work.throw(Stopped())
            assert stopped.value.resume is None
            break
    assert trained_in_folds(first) == {"fold 1 of 3": 4, "fold 2 of 3": 3}
    assert {path.name for path in ground.iterdir()} == {"discs", "temporary", "cache"}
    assert len(sides) == 2

    second = list(train_lora(settings(model, ground, "run")))
    assert trained_in_folds(second) == {"fold 2 of 3": 4, "fold 3 of 3": 4}
    assert "fold 1 of 3: finished before" in notes(second)
    assert not any((ground / "temporary").iterdir())
    assert [len(held_out) for _, held_out in sides] == [2] * 4
    assert all(len(trained) == 4 and not trained & held_out for trained, held_out in sides)
    assert set.union(*(held_out for _, held_out in sides)) == set.union(*(trained for trained, _ in sides))
    assert sides[1] == sides[2], "the second fold again"
    assert [report.number for report in second if isinstance(report, Step)] == [1, 2, 3, 4]
    ended = json.loads((ground / "run/ended.json").read_text())
    trained = second[-1]
    assert isinstance(trained, Trained)
    assert ended["verdict"] == trained.verdict == next(one for one in notes(second) if one.startswith("3 folds: "))

    plain = list(train_lora(settings(model, ground, "plain", validation={"folds": 0})))
    assert not trained_in_folds(plain)
    assert files(ground / "run") == files(ground / "plain")
    assert [
        (ground / name / "discs.safetensors").read_bytes() == (ground / "plain/discs.safetensors").read_bytes()
        for name in ("run", "plain")
    ] == [True, True]

    again = list(train_lora(settings(model, ground, "again")))
    assert not trained_in_folds(again)
    other = train_lora(settings(model, ground, "other", seed=1))
    assert next(one for one in other if isinstance(one, Progress) and FOLD.fullmatch(one.phase)).phase == "fold 1 of 3"
    other.close()


def test_what_folds_have_found_outlives_a_stop_and_is_not_asked_for_again(model: Path, ground: Path) -> None:
    work = train_lora(settings(model, ground, "run", validation={"folds": 2}))
    assert next(report for report in work if isinstance(report, Step) and report.number == 2)
    with pytest.raises(Stopped, match="stopped after step 2"):
        notes([work.throw(Stopped()), *work])
    resumed = list(train_lora(resolve(TrainLora, [{"resume": str(ground / "run")}])))
    assert not [one for one in notes(resumed) if one.startswith(("fold", "2 folds"))]
    assert json.loads((ground / "run/ended.json").read_text())["verdict"].startswith("2 folds: ")


def test_a_dry_run_tells_what_folds_cost_and_trains_none(model: Path, ground: Path) -> None:
    reports = list(train_lora(settings(model, ground, "run", dry_run=True)))
    assert isinstance(reports[-1], Planned)
    assert not trained_in_folds(reports)
    assert any(one.startswith("folds: 3 x 4 steps beforehand, 12 in all") for one in notes(reports))
    assert not (ground / "cache/folds").exists()


def test_a_time_in_which_no_fold_can_be_trained_is_no_pause(model: Path, ground: Path) -> None:
    with pytest.raises(ConfigError, match="fold 1 of 3 takes longer than --max-minutes; give more, or leave it out"):
        list(train_lora(settings(model, ground, "run", stop={"minutes": 1e-6})))
    assert not (ground / "run").exists()


def test_numbers_that_are_none_end_the_folds_in_a_line(
    model: Path, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = validation.Validator._errors
    monkeypatch.setattr(validation.Validator, "_errors", lambda *given: real(*given) * math.nan)
    with pytest.raises(TrainingError, match="step 0 of a fold: the loss on held-out images is no number; lower --lr"):
        list(train_lora(settings(model, ground, "run")))
    assert not (ground / "cache/folds").exists()


def test_they_go_with_one_process_and_with_validation(
    model: Path, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"^validation.folds: nothing is judged with --validation.off"):
        list(train_lora(settings(model, ground, "run", validation={"off": True})))
    monkeypatch.setattr(Peers, "here", lambda _: Peers(0, 2))
    with pytest.raises(ConfigError, match=r"^validation.folds: not done by several processes"):
        list(train_lora(settings(model, ground, "run")))


def test_steps_that_are_not_given_follow_from_the_folds(
    model: Path, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "usual_steps", lambda *_: 4)

    def config(out: str, *left: str) -> TrainLora:
        told = settings(model, ground, out, stop={"window": 1.0}, validation={"folds": 2})
        return resolve(TrainLora, [told.model_dump(exclude_unset=True, exclude={*left})])

    work = train_lora(config("first"))
    assert next(report for report in work if isinstance(report, Step)).of == 4
    work.close()
    (file,) = (ground / "cache/folds").iterdir()
    told = json.loads(file.read_text())
    folds = [json.loads(one) for one in told["folds"]]
    for fold in folds:
        fold[1]["held_out"]["relative"] = 0.5
    file.write_text(json.dumps(told | {"folds": [json.dumps(one) for one in folds]}))

    assert next(report for report in train_lora(config("given")) if isinstance(report, Step)).of == 4
    reports = list(train_lora(config("run", "steps")))
    assert not trained_in_folds(reports)
    assert "--steps not given: 2, 1 x the best of the folds" in notes(reports)
    assert [report.of for report in reports if isinstance(report, Step)] == [2, 2]
    assert tomllib.loads((ground / "run/run.toml").read_text())["steps"] == 2


@pytest.mark.parametrize(
    ("curve", "window", "given", "steps"),
    [
        ({100: 0.8, 200: 0.9, 600: 1.1}, 3.0, False, 300),
        ({100: 0.8, 200: 0.9, 600: 1.1}, 3.0, True, None),
        ({100: 0.9, 200: 0.8, 600: 1.1}, 3.0, False, None),  # the window is as long as the training
        ({100: 0.9, 200: 0.8, 600: 1.1}, 1.5, False, 300),
        ({100: 0.99, 200: 1.0, 600: 1.1}, 3.0, False, None),  # no verdict
    ],
)
def test_a_training_is_no_longer_than_its_window(
    curve: dict[int, float], window: float, given: bool, steps: int | None, tmp_path: Path
) -> None:
    config = resolve(TrainLora, [{"data": {"folder": tmp_path}, "stop": {"window": window}}])
    folded = Folded(4, tuple(Point(step, relative, 0.02) for step, relative in curve.items()))
    settled: list[TrainLora] = []

    def listen() -> Telling[None]:
        settled.append((yield from as_long_as_it_helps(config, folded, given)))

    told = list(listen())
    assert [one.steps for one in settled] == [steps]
    assert told == ([Note(f"--steps not given: {steps}, {window:g} x the best of the folds")] if steps else [])


def test_the_cache_knows_them(tmp_path: Path) -> None:
    folder = tmp_path / "folds"
    folder.mkdir()
    (folder / f"{'a' * 40}.json").write_text("{}")
    (folder / "notes.json").write_text("{}")
    (told,) = cache(resolve(CacheFolder, [{"folder": tmp_path, "prune": True, "days": 0}]))
    assert isinstance(told, Cached)
    assert told.removed == 1
    assert [path.name for path in folder.iterdir()] == ["notes.json"]
