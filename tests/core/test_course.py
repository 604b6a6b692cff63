"""The course of a training: ended anywhere and gone on with, it leaves what one leaves that was never ended."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sdtune.config import TrainLora, resolve
from sdtune.core import validation
from sdtune.core.checkpoint import Checkpoints
from sdtune.core.data.images import open_image
from sdtune.core.header import read_header
from sdtune.core.reports import Note, Progress, Pulse, Report, Resumed, Step, Trained, Validated, Warned
from sdtune.core.thumbnail import thumbnail_of
from sdtune.core.train_lora import train_lora
from sdtune.errors import ConfigError, LoraError, Paused, SdtuneError, Stopped
from tests import pictures

TIMES = ("images_per_second", "seconds", "memory")


def settings(model: Path, data: Path, out: Path, **more: Any) -> TrainLora:
    told = {"model": str(model), "out": out, "steps": 8, "batch_size": 2}
    tables = {
        "data": {"folder": data},
        "network": {"rank": 2},
        "samples": {"steps": 1, "every": 3},
        "optimizer": {"lr": 0.01},
    }
    validation = {"every": 4, "timesteps": 2, "noises": 1, "images": 2}
    return resolve(
        TrainLora, [told | tables | {"validation": validation, "ema": {"decay": 0.9}, "save": {"keep": 1}}, more]
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return pictures.folder(tmp_path / "discs", 12, ((64, 64), (96, 64)))


def left(run: Path) -> dict[str, Any]:
    """All that a run leaves, but for times."""
    found: dict[str, Any] = {}
    for path in run.rglob("*"):
        name = str(path.relative_to(run))
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
        elif path.suffix in (".safetensors", ".toml") or "samples" in name:
            found[name] = path.read_bytes() if path.is_file() else None
    state, broken = Checkpoints(run / "checkpoints").newest()
    assert state
    assert not broken
    found["told"] = {name: value for name, value in state.told.items() if name != "course"}
    return found


def ended_at(config: TrainLora, when: Callable[[Report], bool]) -> list[Report]:
    """The reports up to the first one at which a signal ends it."""
    work, seen = train_lora(config), list[Report]()
    for report in work:
        seen.append(report)
        if when(report):
            with pytest.raises(Stopped, match=r"stopped after step \d") as stopped:
                seen.extend([work.throw(Stopped()), *work])
            assert stopped.value.resume == f"sdtune train-lora --resume {config.out}"
            break
    return seen


def nth(kind: type[Report], number: int, phase: str = "") -> Callable[[Report], bool]:
    numbers = count(1)
    return lambda report: (
        isinstance(report, kind) and getattr(report, "phase", "").startswith(phase) and next(numbers) == number
    )


@pytest.fixture(scope="module")
def unbroken(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A data set, and all that a run on it leaves."""
    root = tmp_path_factory.mktemp("unbroken")
    data = pictures.folder(root / "discs", 12, ((64, 64), (96, 64)))
    list(train_lora(settings(tiny_models["sd1"], data, root / "whole")))
    return data, left(root / "whole")


@pytest.mark.parametrize(
    "when",
    [
        nth(Pulse, 1),
        nth(Step, 3),
        nth(Step, 4),
        nth(Progress, 3, "validating"),
        nth(Step, 6),
        nth(Validated, 2),
        nth(Progress, 2, "samples after"),
        nth(Step, 8),
    ],
    ids=["before", "step", "before validation", "validating", "before drawing", "validated", "drawing", "last step"],
)
def test_a_run_that_is_ended_and_resumed_leaves_what_an_unbroken_one_leaves(
    when: Callable[[Report], bool],
    unbroken: tuple[Path, dict[str, Any]],
    tiny_models: dict[str, Path],
    tmp_path: Path,
) -> None:
    (data, whole), out = unbroken, tmp_path / "broken"
    reports = ended_at(settings(tiny_models["sd1"], data, out), when)
    assert not any(isinstance(report, Trained) for report in reports)
    assert not (out / "ended.json").exists()
    again = list(train_lora(resolve(TrainLora, [{"resume": str(out)}])))
    assert any(isinstance(report, Resumed) for report in again)
    assert isinstance(again[-1], Trained)
    assert left(out) == whole


def test_what_is_compared_has_thumbnails_of_its_last_sample(unbroken: tuple[Path, dict[str, Any]]) -> None:
    run = unbroken[0].parent / "whole"
    told = read_header(run / "discs.safetensors", LoraError).metadata
    assert told["modelspec.thumbnail"] == thumbnail_of(open_image(run / "samples" / "step-000008-1.png"))
    assert thumbnail_of(open_image(run / "samples" / "step-000006-1.png")) != told["modelspec.thumbnail"]


@pytest.fixture
def finished(data: Path, tiny_models: dict[str, Path], tmp_path: Path) -> TrainLora:
    """The settings of a run that has finished."""
    config = settings(tiny_models["sd1"], data, tmp_path / "run", samples={"off": True}, validation={"off": True})
    list(train_lora(config))
    return config


def resumed(config: TrainLora, **more: Any) -> list[Report]:
    return list(train_lora(resolve(TrainLora, [{"resume": str(config.out)} | more])))


def test_a_finished_run_says_so_and_is_left_as_it_is(finished: TrainLora) -> None:
    assert finished.out
    before = left(finished.out)
    (told,) = resumed(finished)
    assert isinstance(told, Note)
    assert re.search(r"run: has finished, after 8 steps: .*discs.safetensors; --steps 16 would go on", told.text)
    assert left(finished.out) == before


def test_a_finished_run_goes_on_where_more_steps_are_asked_for(finished: TrainLora) -> None:
    reports = resumed(finished, steps=10)
    assert [report.number for report in reports if isinstance(report, Step)] == [9, 10]
    told = next(report for report in reports if isinstance(report, Resumed))
    assert told.changed == ("steps: 8 in the run, now 10",)
    assert json.loads((finished.out / "ended.json").read_text())["steps"] == 10


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"optimizer": {"lr": 0.02}}, "optimizer.lr: 0.01 in the run, now 0.02"),
        ({"network": {"rank": 4}}, "network.rank: 2 in the run, now 4"),
        ({"batch_size": 3}, "batch_size: 2 in the run, now 3"),
        ({"steps": 4}, "steps: 4, but .* has taken 8"),
    ],
)
def test_what_would_not_end_as_it_began_is_refused(more: dict[str, Any], told: str, finished: TrainLora) -> None:
    before = left(finished.out)
    with pytest.raises(ConfigError, match=told):
        resumed(finished, **({"steps": 10} | more))
    assert left(finished.out) == before


def test_a_finished_run_of_other_settings_is_not_taken_for_what_is_asked(finished: TrainLora) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.01 in the run, now 0\.02"):
        resumed(finished, optimizer={"lr": 0.02})


def test_settings_that_were_edited_behind_its_back_are_noticed(finished: TrainLora) -> None:
    assert finished.out
    file = finished.out / "run.toml"
    file.write_text(file.read_text().replace("lr = 0.01", "lr = 0.03"))
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.01 in the run, now 0\.03"):
        resumed(finished, steps=10)


@pytest.mark.parametrize("lost", ["data.json", "checkpoints", "discs.safetensors"])
def test_what_a_finished_run_has_lost(lost: str, finished: TrainLora) -> None:
    assert finished.out
    path = finished.out / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if lost == "data.json":
        with pytest.raises(ConfigError, match="nobody knows what the run was trained on"):
            resumed(finished, steps=10)
    elif lost == "checkpoints":
        assert isinstance(resumed(finished)[0], Note)
        with pytest.raises(SdtuneError, match="checkpoint"):
            resumed(finished, steps=10)
    else:
        resumed(finished)
        assert path.is_file(), "it is written again"


def test_the_base_is_measured_without_what_was_learned(finished: TrainLora) -> None:
    validation = {"off": False, "every": 1, "timesteps": 2, "noises": 1, "images": 2}
    reports = resumed(finished, steps=9, validation=validation, allow_changes=True)
    later = [report for report in reports if isinstance(report, Validated)]
    assert later[0].step == 8
    assert later[0].held_out.relative < 0.995, "eight steps have made it better than the base"


def test_without_a_run_named_the_last_one_goes_on(
    finished: TrainLora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finished.out
    (tmp_path / "runs").mkdir()
    finished.out.rename(tmp_path / "runs/discs-1")
    monkeypatch.chdir(tmp_path)
    (told,) = list(train_lora(resolve(TrainLora, [{"resume": "newest"}])))
    assert isinstance(told, Note)
    assert told.text.startswith("runs/discs-1: has finished")


def test_other_weights_of_the_base_model_are_noticed(data: Path, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    model = shutil.copytree(tiny_models["sd1"], tmp_path / "model")
    config = settings(model, data, tmp_path / "run", samples={"off": True}, validation={"off": True})
    list(train_lora(config))
    file = model / "unet/diffusion_pytorch_model.safetensors"
    save_file({name: 1.01 * weight for name, weight in load_file(file).items()}, file)
    with pytest.raises(ConfigError, match=r"the weights of .*model are others than the run began with"):
        resumed(config, steps=9)
    assert isinstance(resumed(config, steps=9, allow_changes=True)[-1], Trained)


def test_a_validation_that_is_no_number_does_not_count(finished: TrainLora, monkeypatch: pytest.MonkeyPatch) -> None:
    real = validation.Validator._errors
    monkeypatch.setattr(validation.Validator, "_errors", lambda *given: real(*given) * math.nan)
    more = {"off": False, "every": 1, "timesteps": 2, "noises": 1, "images": 2}
    reports = resumed(finished, steps=9, validation=more, allow_changes=True)
    assert not any(isinstance(report, Validated) for report in reports)
    told = [report.text for report in reports if isinstance(report, Warned)]
    assert "step 9: the loss on held-out images is no number, and does not count" in told


def promised(reports: list[Report]) -> str:
    (told,) = (report.text for report in reports if isinstance(report, Note) and report.text.startswith("resume: "))
    return told


def test_a_step_may_be_split_otherwise_which_is_said(finished: TrainLora) -> None:
    assert promised(resumed(finished, steps=9)).startswith("resume: bit-identical")
    reports = resumed(finished, steps=10, batch_size=1, accumulate=2)
    assert isinstance(reports[-1], Trained)
    assert promised(reports).startswith("resume: order-identical")


def test_samples_of_other_prompts_get_a_sheet_of_their_own(
    data: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    config = settings(tiny_models["sd1"], data, tmp_path / "run", validation={"off": True}, steps=3)
    list(train_lora(config))
    list(train_lora(resolve(TrainLora, [{"resume": str(config.out), "steps": 4, "samples": {"prompts": ["a tree"]}}])))
    drawn = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").glob("samples*/*")}
    old = {f"samples-until-000003/step-{step:06d}-{number}.png" for step in (0, 3) for number in (1, 2)}
    assert drawn == old | {"samples/step-000003-1.png", "samples/step-000004-1.png"}


def test_a_dry_run_leaves_a_run_that_it_could_resume_alone(finished: TrainLora) -> None:
    before = left(finished.out)
    with pytest.raises(ConfigError, match="--dry-run tells of a run that begins"):
        resumed(finished, steps=9, dry_run=True)
    assert left(finished.out) == before


def test_a_run_has_a_checkpoint_before_it_has_a_lora(data: Path, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    config = settings(tiny_models["sd1"], data, tmp_path / "run", samples={"off": True})
    work = train_lora(config)
    for report in work:
        if any((tmp_path / "run").glob("*.safetensors")):
            assert Checkpoints(tmp_path / "run/checkpoints").newest()[0]
        if isinstance(report, Step) and report.number == 6:
            break
    assert Checkpoints(tmp_path / "run/checkpoints").newest()[0], "of its first validation"
    work.close()


def test_a_best_lora_of_steps_that_are_taken_otherwise_is_not_left(
    data: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    more = {"validation": {"every": 1, "timesteps": 2, "images": 2}, "save": {"every": 1, "keep": 9}}
    config = settings(tiny_models["sd1"], data, tmp_path / "run", samples={"off": True}, **more)
    ended_at(config, nth(Step, 5))
    for step in (4, 5):
        (tmp_path / f"run/checkpoints/step-{step:06d}/state.json").write_text("{}")
    reports = resumed(config, steps=8, optimizer={"lr": 5.0}, allow_changes=True)
    trained = reports[-1]
    assert isinstance(trained, Trained)
    ended = json.loads((tmp_path / "run/ended.json").read_text())
    if trained.best:
        assert read_header(trained.best, LoraError).metadata["ss_steps"] == str(ended["best"])
    for path in (tmp_path / "run").glob("discs-step-*.safetensors"):
        assert read_header(path, LoraError).metadata["ss_steps"] == str(int(path.stem[-6:]))


def test_settings_may_change_where_that_is_allowed(finished: TrainLora) -> None:
    reports = resumed(finished, steps=9, optimizer={"lr": 0.02}, allow_changes=True)
    assert isinstance(reports[-1], Trained)


def test_other_data_are_refused_unless_allowed(finished: TrainLora, data: Path) -> None:
    (data / "0.txt").write_text("a square")
    with pytest.raises(ConfigError, match=r"data: captions of 1 image changed: 0\.png"):
        resumed(finished, steps=9)
    assert isinstance(resumed(finished, steps=9, allow_changes=True)[-1], Trained)


def test_a_time_that_is_up_pauses_and_the_same_command_goes_on(
    data: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    more = {"samples": {"off": True}, "validation": {"off": True}, "stop": {"minutes": 1e-6}, "resume": "newest"}
    config = settings(tiny_models["sd1"], data, tmp_path / "run", **more)
    for step in range(1, 8):
        with pytest.raises(Paused, match=f"saved after step {step} of 8") as paused:
            list(train_lora(config))
        assert paused.value.exit_code == 75
    assert isinstance(list(train_lora(config))[-1], Trained)
    list(train_lora(settings(tiny_models["sd1"], data, tmp_path / "whole", **(more | {"stop": {}}))))
    one, other = (left(tmp_path / name) for name in ("run", "whole"))
    assert {name: one[name] for name in one if name != "run.toml"} == {
        name: other[name] for name in other if name != "run.toml"
    }


def test_broken_checkpoints_are_told_and_the_one_before_is_taken(finished: TrainLora) -> None:
    resumed(finished, steps=10, save={"keep": 3})
    newest = finished.out / "checkpoints/step-000010/adapter.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    reports = resumed(finished, steps=12)
    assert any("step-000010" in report.text for report in reports if isinstance(report, Warned))
    assert [report.number for report in reports if isinstance(report, Step)] == [9, 10, 11, 12]


def test_a_held_out_loss_that_rises_ends_the_training_early(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    validation = {"every": 4, "timesteps": 4, "images": 8, "held_out": 0.4}
    more = {"optimizer": {"lr": 0.1}, "steps": 40, "stop": {"patience": 1, "window": 1.0}, "samples": {"off": True}}
    data, out = pictures.folder(tmp_path / "discs", 20), tmp_path / "run"
    config = settings(tiny_models["sd1"], data, out, **more, validation=validation, ema={"decay": 0.0})
    trained = list(train_lora(config))[-1]
    assert isinstance(trained, Trained)
    ended = json.loads((out / "ended.json").read_text())
    assert (ended["why"], ended["best"], ended["steps"]) == ("early", 4, 8)
    assert trained.verdict
    assert trained.verdict.startswith("best at step 4 (-")
    assert trained.best == out / "discs-best.safetensors"
    assert sorted(path.name for path in out.glob("*.safetensors")) == ["discs-best.safetensors", "discs.safetensors"]
    assert trained.best.read_bytes() != trained.lora.read_bytes()
    (told,) = resumed(config)
    assert isinstance(told, Note)
    assert "has finished, early, after 8 steps" in told.text
    assert isinstance(resumed(config, stop={"early": False}, steps=12)[-1], Trained)
    assert json.loads((out / "ended.json").read_text())["steps"] == 12
