"""Tasks trained whole: inpainting, classes, no captions at all, style."""

from __future__ import annotations

import math
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sdtune.config import Sample, TrainLora, resolve
from sdtune.core.reports import Drawn, Note, Report
from sdtune.core.sample import sample
from sdtune.core.train_lora import train_lora
from sdtune.errors import ConfigError, DataError
from tests import pictures, tiny
from tests.core.test_train_lora import run, settings, steps_of


@pytest.fixture(scope="module")
def inpainting_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inpainting")
    return {name: tiny.saved_pipeline(tiny.inpainting_pipeline(name), root / name) for name in ("sd1", "sdxl")}


def notes(reports: list[Report]) -> str:
    return "\n".join(report.text for report in reports if isinstance(report, Note))


def drawn_by(try_next: str, out: Path) -> Path:
    """What the command draws that a training suggests."""
    words = shlex.split(try_next)
    assert words[:2] == ["sdtune", "sample"]
    told = dict(zip(words[2::2], words[3::2], strict=True))
    tables = {"prompt": [told["--prompt"]], "lora": [told["--lora"]], "out": out, "steps": 2}
    (one,) = (report for report in sample(resolve(Sample, [tables])) if isinstance(report, Drawn))
    return one.path


def must_repeat(first: Path, lora: Path, out: Path) -> None:
    """run.toml gives the same LoRA again."""
    told = tomllib.loads((first / "run.toml").read_text())
    _, again = run(resolve(TrainLora, [told, {"out": out}]))
    assert again.lora.read_bytes() == lora.read_bytes()


def moved(lora: Path) -> bool:
    return any(
        key.endswith("lora_up.weight") and bool(value.abs().max() > 1e-4) for key, value in load_file(lora).items()
    )


def classes(place: Path) -> Path:
    pictures.folder(place / "red_apple", 3)
    pictures.folder(place / "green pear", 2, ((64, 72),))
    for caption in place.rglob("*.txt"):
        caption.unlink()
    return place


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_model_with_9_channels_is_trained_for_inpainting_by_itself(
    name: str, inpainting_models: dict[str, Path], tmp_path: Path
) -> None:
    data = pictures.folder(tmp_path / "discs", 2)
    told = settings(inpainting_models[name], data, tmp_path / "run", optimizer={"lr": 0.1})
    reports, trained = run(told)
    assert "task: inpainting, which the model is made for" in notes(reports)
    assert [math.isfinite(step.loss) for step in steps_of(reports)] == [True] * 3
    assert moved(trained.lora)
    settled = tomllib.loads((tmp_path / "run/run.toml").read_text())
    assert settled["task"] == {"kind": "inpainting", "masks": 8, "full": 0.25}
    drawn = pictures.pixels(drawn_by(trained.try_next, tmp_path / "a.png"))
    before, after = (pictures.pixels(tmp_path / f"run/samples/step-{step:06d}-1.png") for step in (0, 3))
    assert abs(drawn - after).max() <= 1
    assert abs(drawn - before).max() > 5
    must_repeat(tmp_path / "run", trained.lora, tmp_path / "again")
    _, asked = run(
        settings(inpainting_models[name], data, tmp_path / "asked", task="inpainting", optimizer={"lr": 0.1})
    )
    assert asked.lora.read_bytes() == trained.lora.read_bytes()


def test_how_much_is_masked_changes_what_is_learned(inpainting_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs", 2)
    losses = []
    for number, full in enumerate((0.0, 1.0)):
        task = {"kind": "inpainting", "full": full}
        out = tmp_path / str(number)
        told = settings(inpainting_models["sd1"], data, out, task=task, samples={"off": True})
        losses.append([step.loss for step in steps_of(run(told)[0])])
    assert all(first != second for first, second in zip(*losses, strict=True))


def test_models_and_tasks_that_do_not_fit_are_refused(
    tiny_models: dict[str, Path], inpainting_models: dict[str, Path], tmp_path: Path
) -> None:
    data = pictures.folder(tmp_path / "discs", 2)
    for model, task, words in (
        (tiny_models["sd1"], "inpainting", "draws whole pictures; it needs a model with 9 channels in, as --model"),
        (inpainting_models["sd1"], "style", "is an inpainting model; train it with --task inpainting"),
    ):
        with pytest.raises(ConfigError, match=words) as told:
            list(train_lora(settings(model, data, tmp_path / "run", task=task)))
        assert len(told.value.problems) == 1
    assert not (tmp_path / "run").exists()


def test_classes(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = classes(tmp_path / "fruit")
    task = {"kind": "class", "template": "a photo of a {class}"}
    reports, trained = run(settings(tiny_models["sd1"], data, tmp_path / "run", task=task, optimizer={"lr": 0.1}))
    assert "5 images of 2 classes" in notes(reports)
    assert "2 green pear, 3 red apple" in notes(reports)
    assert shlex.split(trained.try_next)[3] == "a photo of a green pear"
    after = pictures.pixels(tmp_path / "run/samples/step-000003-1.png")
    assert abs(pictures.pixels(drawn_by(trained.try_next, tmp_path / "a.png")) - after).max() <= 1
    must_repeat(tmp_path / "run", trained.lora, tmp_path / "again")
    _, other = run(settings(tiny_models["sd1"], data, tmp_path / "other", task="class", optimizer={"lr": 0.1}))
    assert other.lora.read_bytes() != trained.lora.read_bytes(), "the template is what is learned"


@pytest.mark.parametrize("how", ["loose", "one"])
def test_what_is_of_no_class_is_refused(how: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    place = tmp_path / "fruit"
    pictures.folder(place / "apple" if how == "one" else classes(place), 2)
    words = "of one class alone" if how == "one" else "of no class"
    with pytest.raises(DataError, match=words):
        list(train_lora(settings(tiny_models["sd1"], place, tmp_path / "run", task="class")))
    assert not (tmp_path / "run").exists()


def test_without_captions(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs")
    for caption in data.glob("*.txt"):
        caption.write_bytes(b"\xff\xfe\0")  # which nobody reads
    told = {"task": "unconditional", "optimizer": {"lr": 0.1}, "save": {"thumbnail": False}}
    reports, trained = run(settings(tiny_models["sd1"], data, tmp_path / "run", **told))
    assert "4 images, whose captions are not read" in notes(reports)
    settled = tomllib.loads((tmp_path / "run/run.toml").read_text())
    assert settled["captions"]["dropout"] == 1.0
    samples = [pictures.pixels(tmp_path / f"run/samples/step-000003-{number}.png") for number in (1, 2)]
    assert abs(samples[0] - samples[1]).max() > 5, "two pictures of nothing, each of its own noise"
    assert shlex.split(trained.try_next)[3] == ""
    assert abs(pictures.pixels(drawn_by(trained.try_next, tmp_path / "a.png")) - samples[0]).max() <= 1
    must_repeat(tmp_path / "run", trained.lora, tmp_path / "again")
    told["samples"] = {"off": True}
    _, silent = run(settings(tiny_models["sd1"], data, tmp_path / "silent", **told))
    assert (silent.lora.read_bytes(), shlex.split(silent.try_next)[3]) == (trained.lora.read_bytes(), "")
    for image in data.glob("*.txt"):
        image.unlink()
    _, bare = run(settings(tiny_models["sd1"], data, tmp_path / "bare", **told))
    assert bare.lora.read_bytes() == trained.lora.read_bytes()


def test_a_sheet_says_where_there_is_no_prompt(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    sheets = []
    data = pictures.folder(tmp_path / "discs")
    for number, prompts in enumerate(((), ("", ""), ("(no prompt)", "(no prompt)"))):
        told: dict[str, Any] = {"samples": {"prompts": prompts}, "task": "unconditional", "steps": 1}
        run(settings(tiny_models["sd1"], data, tmp_path / str(number), **told))
        sheets.append(pictures.pixels(tmp_path / f"{number}/before-after.png")[:24])
    assert (sheets[0] == sheets[1]).all()
    assert (sheets[0][:20] == sheets[2][:20]).all(), "it is what is written over the pictures"


def test_style_is_learned_from_captions(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs")
    _, trained = run(settings(tiny_models["sd1"], data, tmp_path / "run", task="style", samples={"off": True}))
    _, plain = run(settings(tiny_models["sd1"], data, tmp_path / "plain", samples={"off": True}))
    ours, theirs = (load_file(one.lora) for one in (trained, plain))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert tomllib.loads((tmp_path / "run/run.toml").read_text())["task"] == {"kind": "style"}
    must_repeat(tmp_path / "run", trained.lora, tmp_path / "again")
