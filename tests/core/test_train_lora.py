"""A whole training on every family: from a folder of pictures to a LoRA that draws the same when loaded again."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy
import pytest
from torch import Tensor

from sdtune.config import Sample, TrainLora, resolve
from sdtune.core import training
from sdtune.core.checkpoint import Checkpoints
from sdtune.core.data.images import open_image
from sdtune.core.header import read_header
from sdtune.core.lora_names import SETTINGS
from sdtune.core.lora_place import lora_in
from sdtune.core.lora_reader import read
from sdtune.core.making import usual_steps
from sdtune.core.reports import Drawn, Note, Progress, Report, Step, Trained, Warned
from sdtune.core.sample import sample
from sdtune.core.thumbnail import thumbnail_of
from sdtune.core.train_lora import train_lora
from sdtune.errors import ConfigError, LoraError, OutputError, TrainingError
from tests import pictures


def settings(model: Path, data: Path, out: Path, **more: Any) -> TrainLora:
    told = {"model": str(model), "out": out, "steps": 3, "batch_size": 2}
    tables = {"data": {"folder": data}, "network": {"rank": 2}, "samples": {"steps": 2}, "save": {"dtype": "fp32"}}
    return resolve(TrainLora, [told | tables, more])


def run(config: TrainLora) -> tuple[list[Report], Trained]:
    reports = list(train_lora(config))
    assert isinstance(reports[-1], Trained)
    return reports, reports[-1]


def steps_of(reports: Sequence[Report]) -> list[Step]:
    return [report for report in reports if isinstance(report, Step)]


def test_every_family_trains_saves_reloads_and_samples(
    family_name: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    data = pictures.folder(tmp_path / "discs", 4, ((64, 64), (96, 64)))
    config = settings(
        tiny_models[family_name], data, tmp_path / "run", samples={"prompts": ["a red apple"]}, optimizer={"lr": 0.3}
    )
    reports, _ = run(config)
    assert [step.number for step in steps_of(reports)] == [1, 2, 3]
    assert all(math.isfinite(step.loss) for step in steps_of(reports))

    again = list(
        sample(
            resolve(
                Sample,
                [{"prompt": ["a red apple"], "lora": [str(tmp_path / "run")], "out": tmp_path / "a.png", "steps": 2}],
            )
        )
    )
    assert any(isinstance(report, Drawn) for report in again)
    drawn, before, after = (
        pictures.pixels(tmp_path / name)
        for name in ("a.png", "run/samples/step-000000-1.png", "run/samples/step-000003-1.png")
    )
    assert numpy.abs(drawn - after).max() <= 1, "the file draws what the training drew"
    assert numpy.abs(drawn - before).max() > 5, "and not what the base model draws"


def test_run_folder_holds_settings_metrics_samples_sheet_and_lora(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs")
    reports, trained = run(settings(tiny_models["sd1"], data, tmp_path / "run"))
    found = sorted(str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file())
    samples = [f"samples/step-{step:06d}-{number}.png" for step in (0, 3) for number in (1, 2)]
    state = [
        f"checkpoints/step-000003/{name}"
        for name in ("adapter.safetensors", "manifest.json", "optimizer.safetensors", "state.json")
    ]
    names = ["before-after.png", "checkpoints/latest", *state, "data.json", "discs.safetensors", "ended.json"]
    more = ["inputs.png", "metrics.jsonl", "progress.png", "run.toml", "samples.png"]
    assert found == [*names, *more, *samples]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [step.loss for step in steps_of(reports)]
    told = tomllib.loads((tmp_path / "run/run.toml").read_text())
    assert told["steps"] == 3
    assert told["network"] == {"kind": "lora", "rank": 2, "alpha": 1.0, "layers": "attention+ff", "dropout": 0.0}
    assert told["optimizer"]["lr"] == pytest.approx(1e-4 * 2**0.5)
    assert "out" not in told
    assert trained.try_next.startswith("sdtune sample --prompt 'a ")


def test_run_toml_repeats_the_run_to_the_byte(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs")
    _, first = run(settings(tiny_models["sd1"], data, tmp_path / "first"))
    told = tomllib.loads((tmp_path / "first/run.toml").read_text())
    _, second = run(resolve(TrainLora, [told, {"out": tmp_path / "second"}]))
    assert first.lora.read_bytes() == second.lora.read_bytes()


@pytest.mark.parametrize("change", [{"seed": 1}, {"network": {"dropout": 0.5}}, {"timesteps": "uniform"}])
def test_seed_and_settings_decide_the_bytes(
    change: dict[str, Any], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    data = pictures.folder(tmp_path / "discs")
    plain, changed, same = (
        run(
            settings(tiny_models["sd1"], data, tmp_path / str(n), samples={"off": True}, optimizer={"lr": 0.01}, **more)
        )[1]
        for n, more in enumerate(({}, change, change))
    )
    assert changed.lora.read_bytes() == same.lora.read_bytes()
    assert plain.lora.read_bytes() != changed.lora.read_bytes()


def test_samples_change_nothing_in_the_lora_but_its_thumbnail(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs")
    told: dict[str, Any] = {"network": {"dropout": 0.3}, "save": {"thumbnail": False}}
    _, drawn = run(settings(tiny_models["sd1"], data, tmp_path / "drawn", **told))
    _, silent = run(settings(tiny_models["sd1"], data, tmp_path / "silent", **told, samples={"off": True}))
    assert drawn.lora.read_bytes() == silent.lora.read_bytes()


def test_the_lora_shows_its_last_sample_and_its_most_frequent_tags(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    data = pictures.folder(tmp_path / "discs")
    for caption in data.glob("*.txt"):
        caption.write_text("disc, red")
    _, trained = run(settings(tiny_models["sd1"], data, tmp_path / "run"))
    told = read_header(trained.lora, LoraError).metadata
    first, last = (thumbnail_of(open_image(tmp_path / f"run/samples/step-{n:06d}-1.png")) for n in (0, 3))
    assert told["modelspec.thumbnail"] == last != first
    assert json.loads(told["ss_tag_frequency"]) == {"discs": {"disc": 4, "red": 4}}
    assert str(tmp_path) not in trained.lora.read_bytes().decode("latin-1")


def test_both_forms_are_left_where_they_are_asked_for(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs")
    config = settings(tiny_models["sd1"], data, tmp_path / "run", save={"form": "both"}, samples={"off": True})
    _, trained = run(config)
    other = read(tmp_path / "run/discs-peft.safetensors")
    assert SETTINGS in other.metadata
    mine = read(trained.lora)
    assert SETTINGS not in mine.metadata
    assert mine.modules.keys() == other.modules.keys()
    assert all(value.delta().equal(other.modules[name].delta()) for name, value in mine.modules.items())
    assert lora_in(tmp_path / "run") == trained.lora


@pytest.mark.parametrize(
    "change", [{"optimizer": "adamw"}, {"memory": {"gradient_checkpointing": True}}, {"accumulate": 2}]
)
def test_it_learns(change: dict[str, Any], tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs", 2)
    config = settings(
        tiny_models["sd1"], data, tmp_path / "run", steps=60, network={"rank": 8}, samples={"off": True}, **change
    )
    config = resolve(TrainLora, [config.model_dump(exclude_unset=True), {"optimizer": {"lr": 0.02}}])
    losses = [step.loss for step in steps_of(run(config)[0])]
    assert numpy.mean(losses[-15:]) < 0.95 * numpy.mean(losses[:15])


def test_gradient_checkpointing_computes_the_same(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs")
    runs = [
        steps_of(run(settings(tiny_models["sd1"], data, tmp_path / str(on), memory={"gradient_checkpointing": on}))[0])
        for on in (False, True)
    ]
    assert [step.loss for step in runs[0]] == pytest.approx([step.loss for step in runs[1]], rel=1e-4)


def test_closing_the_iterator_leaves_the_lora_as_far_as_it_came(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs")
    work = train_lora(settings(tiny_models["sd1"], data, tmp_path / "run"))
    next(report for report in work if isinstance(report, Step) and report.number == 2)
    work.close()
    assert (tmp_path / "run/discs-step-000002.safetensors").is_file()
    assert not (tmp_path / "run/discs.safetensors").exists()


def test_what_contradicts_is_refused_before_anything_is_written(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs")
    config = settings(tiny_models["sd3"], data, tmp_path / "run", weighting="min-snr")
    with pytest.raises(ConfigError, match="min-snr has no meaning for Stable Diffusion 3, which predicts flow"):
        list(train_lora(config))
    assert not (tmp_path / "run").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(OutputError, match="already holds files"):
        list(train_lora(settings(tiny_models["sd1"], data, tmp_path / "full")))


SHOWN = r'\S+/\d\.png "(a \w+ disc)?" at timestep \d+'  # a caption that was dropped is empty


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda loss: loss * math.nan, rf"step 3: the loss is nan, so it is not taken; it saw {SHOWN}, {SHOWN}$"),
        (lambda loss: (loss * 1e30).sin(), "step 3: the gradient's norm is inf, so it is not taken"),
    ],
)
def test_a_step_with_bad_numbers_is_not_taken_and_told(
    fault: Callable[[Tensor], Tensor],
    told: str,
    tiny_models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = training.image_losses, count(1)
    monkeypatch.setattr(
        training, "image_losses", lambda *given: (fault if next(calls) == 3 else Tensor.clone)(real(*given))
    )
    data = pictures.folder(tmp_path / "discs")
    reports, _ = run(settings(tiny_models["sd1"], data, tmp_path / "run", steps=6, samples={"off": True}))
    assert any(re.match(told, report.text) for report in reports if isinstance(report, Warned))
    assert [step.loss is None for step in steps_of(reports)] == [False, False, True, False, False, False]


def test_numbers_that_stay_bad_end_the_training_with_what_was_good(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = training.image_losses, count(1)
    monkeypatch.setattr(training, "image_losses", lambda *given: real(*given) * (math.nan if next(calls) >= 5 else 1.0))
    data = pictures.folder(tmp_path / "discs")
    work = train_lora(settings(tiny_models["sd1"], data, tmp_path / "run", steps=40, samples={"off": True}))
    with pytest.raises(TrainingError, match=r"again after going back 3 times.*what was saved before is intact"):
        list(work)
    state, broken = Checkpoints(tmp_path / "run/checkpoints").newest()
    assert state
    assert not broken
    assert all(tensor.isfinite().all() for tensors in state.tensors.values() for tensor in tensors.values())


def test_small_images_are_told(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs", 2, ((64, 64), (40, 40)))
    reports, _ = run(settings(tiny_models["sd1"], data, tmp_path / "run", samples={"off": True}))
    assert [report.text for report in reports if isinstance(report, Warned)] == [
        "1 image is too small for 64 x 64 and in smaller buckets (1.png)",
        next(report.text for report in reports if isinstance(report, Warned) and "next to nothing" in report.text),
    ]
    assert any("attention: sdpa" in report.text for report in reports if isinstance(report, Note))


@pytest.mark.parametrize(
    ("steps_a_pass", "passes", "steps"),
    [(1, None, 600), (10, None, 1000), (7.5, None, 750), (1000, None, 2000), (10, 3, 30), (2.5, 3, 8), (0.1, 1, 1)],
)
def test_usual_steps(steps_a_pass: float, passes: int | None, steps: int) -> None:
    assert usual_steps(steps_a_pass, passes) == steps


def test_trainings_of_other_precision_follow_each_other(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs")
    for precision in ("fp32", "bf16", "fp32"):
        out = tmp_path / f"{precision}-{len(list(tmp_path.iterdir()))}"
        told = {"memory": {"precision": precision}, "samples": {"off": True}}
        reports, _ = run(settings(tiny_models["sd1"], data, out, **told))
        assert any(f", {precision} on cpu" in report.text for report in reports if isinstance(report, Note))


def test_a_batch_holds_no_more_than_there_are_images(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs", 3)
    reports, trained = run(
        settings(tiny_models["sd1"], data, tmp_path / "run", batch_size=64, steps=1, samples={"off": True})
    )
    told = [report.text for report in reports if isinstance(report, Warned)]
    assert told[0] == "--batch-size 64: there are 3 images to learn, so a step holds 3"
    settled = tomllib.loads((tmp_path / "run/run.toml").read_text())
    assert (settled["batch_size"], settled["optimizer"]["lr"]) == (3, pytest.approx(1e-4 * 3**0.5))
    assert read_header(trained.lora, LoraError).metadata["ss_total_batch_size"] == "3"


def test_closed_before_the_first_step_nothing_is_left(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = pictures.folder(tmp_path / "discs")
    told = settings(tiny_models["sd1"], data, tmp_path / "run").model_dump(exclude_unset=True) | {"out": None}
    work = train_lora(resolve(TrainLora, [told]))
    next(report for report in work if isinstance(report, Progress) and report.phase == "samples before training")
    assert (tmp_path / "runs/discs-1/run.toml").is_file()
    work.close()
    assert not (tmp_path / "runs").exists()


def test_sides_that_are_no_whole_patches_are_refused(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs")
    told = settings(tiny_models["sd3"], data, tmp_path / "run").model_dump(exclude_unset=True)
    with pytest.raises(ConfigError, match="72 is no multiple of 16 pixels"):
        list(train_lora(resolve(TrainLora, [told, {"data": {"resolution": 72}}])))
    assert not (tmp_path / "run").exists()


def test_passes_that_are_asked_for_are_not_outdone_by_the_models_own_steps(tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs", 2, ((128, 128),))
    tables = {"data": {"folder": data}, "out": tmp_path / "run", "samples": {"off": True}, "batch_size": 1}
    reports, _ = run(resolve(TrainLora, [tables | {"passes": 1}]))
    assert len(steps_of(reports)) == 2


@pytest.mark.parametrize(("own", "priors", "asked", "used"), [(2, 0, 5, 2), (2, 9, 5, 4), (2, 9, 4, 4), (3, 1, 8, 6)])
def test_priors_are_half_of_a_step_and_no_more(
    own: int, priors: int, asked: int, used: int, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    data = pictures.folder(tmp_path / "discs", own)
    if priors:
        pictures.folder(tmp_path / "discs/reg", priors, ((72, 64),))
    config = settings(tiny_models["sd1"], data, tmp_path / "run", batch_size=asked, samples={"off": True})
    list(train_lora(config))
    assert tomllib.loads((tmp_path / "run/run.toml").read_text())["batch_size"] == used


def test_the_step_of_buckets_can_be_typed() -> None:
    assert resolve(TrainLora, [{"data": {"folder": "x"}, "buckets": {"step": "32"}}]).buckets.step == 32
    with pytest.raises(ConfigError, match=r"buckets\.step: should be one of 32, 64; it was"):
        resolve(TrainLora, [{"data": {"folder": "x"}, "buckets": {"step": "48"}}])
