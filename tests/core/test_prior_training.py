"""Trainings with images of the class beside those to learn: how often they are seen, what they weigh, what they say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdtune.config import TrainLora, resolve
from sdtune.core import training
from sdtune.core.data.batches import Batch
from sdtune.core.reports import Note, Progress, Report
from sdtune.core.train_lora import train_lora
from tests import pictures
from tests.core.test_train_lora import run, settings, steps_of


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Every pass through the denoiser."""
    found: list[Batch] = []
    real = training.image_losses

    def remember(*given: Any) -> Any:
        found.append(given[4])
        return real(*given)

    monkeypatch.setattr(training, "image_losses", remember)
    return found


def with_reg(place: Path, own: int = 4, class_images: int = 3) -> Path:
    """Pictures to learn, and reg/ with others of the class."""
    pictures.folder(place, own)
    pictures.folder(place / "reg", class_images, ((64, 72),))
    for caption in (place / "reg").glob("*.txt"):
        caption.write_text("disc")
    return place


def is_prior(name: str) -> bool:
    return "reg" in Path(name).parts or "priors" in Path(name).parts


def names(batches: list[Batch]) -> list[str]:
    return [name for batch in batches for name in batch.names]


QUIET: dict[str, Any] = {"samples": {"off": True}}


def config(model: Path, data: Path, out: Path, /, **tables: Any) -> TrainLora:
    """As in other tests, with no pictures, and tables that go into [data], too."""
    return resolve(TrainLora, [settings(model, data, out, **QUIET).model_dump(exclude_unset=True), tables])


@pytest.mark.parametrize("where", ["reg", "folder", "drawn"])
def test_priors_are_half_of_each_step_say_the_class_and_are_shown_as_they_are(
    where: str, seen: list[Batch], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    data = with_reg(tmp_path / "discs")
    tables: dict[str, Any] = {}
    if where != "reg":
        shutil.move(data / "reg", tmp_path / "reg")
    if where == "folder":
        tables = {"data": {"folder": data, "folders": [{"path": tmp_path / "reg", "prior": True}]}}
    if where == "drawn":
        tables = {"prior": {"count": 3, "prompt": "disc"}, "cache": {"folder": tmp_path / "cache"}}
    tables["data"] = tables.get("data", {}) | {"trigger": "sks"}
    tables |= {"augment": {"crop": 0.1, "flip": True}, "captions": {"dropout": 0.5}, "steps": 24}
    reports, _ = run(config(tiny_models["sd1"], data, tmp_path / "run", **tables))
    steps = steps_of(reports)
    assert len(steps) == 24
    told = [(name, caption) for batch in seen for name, caption in zip(batch.names, batch.captions, strict=True)]
    prior, own = ([caption for name, caption in told if is_prior(name) == kind] for kind in (True, False))
    assert (len(prior), len(own)) == (24, 24), "one of each in every step of two"
    assert set(prior) == {"disc"}, "neither the trigger nor dropout"
    assert {caption[:5] for caption in own} == {"sks, ", ""}
    assert 4 <= own.count("") <= 20
    counts = [sum(name == one for name, _ in told) for one in {name for name, _ in told if is_prior(name)}]
    assert (len(counts), max(counts) - min(counts)) == (3, 0), "each of the class as often"
    if where != "drawn":
        return
    (note,) = (report.text for report in reports if isinstance(report, Note) and "are to be drawn" in report.text)
    assert note.startswith('prior images of "disc": 3 of 3 are to be drawn by sd1')
    models = [report for report in reports if isinstance(report, Note) and report.text.startswith("model: ")]
    assert len(models) == 1


@pytest.mark.parametrize("text", [False, True])
def test_priors_say_the_class_to_the_letter_and_the_others_their_trigger(
    text: bool, seen: list[Batch], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    data = with_reg(tmp_path / "discs", 2, 2)
    for caption in data.glob("*.txt"):
        caption.write_text("a disc, my sks, green")
    for caption in (data / "reg").glob("*.txt"):
        caption.write_text("a {big|small} disc, a, b")
    captions = {"dropout": 0, "tag_dropout": 1, "shuffle": True}
    tables = {"captions": captions, "data": {"trigger": "sks"}, "text": {"train": text}, "steps": 12}
    run(config(tiny_models["sd1"], data, tmp_path / "run", **tables))
    told = {(is_prior(name), text) for one in seen for name, text in zip(one.names, one.captions, strict=True)}
    assert told == {(True, "a {big|small} disc, a, b"), (False, "a disc, my sks")}


def test_priors_are_not_augmented(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = with_reg(tmp_path / "discs", 2, 2)
    cache = tmp_path / "cache"
    tables = {"cache": {"folder": cache}, "augment": {"crop": 0.2, "versions": 8}, "captions": {"dropout": 0}}
    reports, _ = run(config(tiny_models["sd1"], data, tmp_path / "run", **tables))
    encoded = [report.of for report in reports if isinstance(report, Progress) and report.phase == "encoding images"]
    assert set(encoded) == {2 * 8 + 2}


def test_a_weight_of_nothing_leaves_nothing_of_them(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Whatever the prior images show, the LoRA is the same; with a weight it is not."""
    made: dict[tuple[float, int], bytes] = {}
    for colour in (0, 200):
        data = with_reg(tmp_path / str(colour) / "discs", 1, 1)
        Image.new("RGB", (64, 64), (colour, 40, 90)).save(data / "reg/0.png")
        for weight in (0.0, 1.0):
            out = tmp_path / f"{colour}-{weight}"
            tables = {"prior": {"weight": weight}, "captions": {"dropout": 0}}
            _, trained = run(config(tiny_models["sd1"], data, out, **tables))
            made[weight, colour] = trained.lora.read_bytes()
    assert made[0.0, 0] == made[0.0, 200] != made[1.0, 0]
    assert made[1.0, 0] != made[1.0, 200]


def test_the_weight_is_that_of_the_loss(seen: list[Batch], tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = with_reg(tmp_path / "discs")
    extra = pictures.folder(tmp_path / "more", 2, ((72, 64),))
    folders = [{"path": extra, "prior": True, "weight": 0.5, "caption": "disc"}]
    tables = {"prior": {"weight": 0.25}, "data": {"folders": folders}, "steps": 12}
    run(config(tiny_models["sd1"], data, tmp_path / "run", **tables))
    found = {(Path(name).parent.name, float(w)) for one in seen for name, w in zip(one.names, one.weights, strict=True)}
    assert found == {("discs", 1.0), ("reg", 0.25), ("more", 0.125)}


def test_the_gradient_of_a_prior_image_is_its_weight(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    losses = {}
    data = with_reg(tmp_path / "discs", 2, 1)
    for weight in (0.0, 1.0, 3.0):
        tables = {"prior": {"weight": weight}, "steps": 1}
        reports, _ = run(config(tiny_models["sd1"], data, tmp_path / str(weight), **tables))
        losses[weight] = steps_of(reports)[0].loss
    assert losses[1.0] > losses[0.0]
    assert losses[3.0] - losses[0.0] == pytest.approx(3 * (losses[1.0] - losses[0.0]), rel=1e-4)


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 12), (2, 6), (4, 3)])
def test_passes_count_own_images_alone(
    batch_size: int, steps: int, seen: list[Batch], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """Three images with one of the class each, two passes: 12 images in all."""
    data = with_reg(tmp_path / "discs", 3, 7)
    told = config(tiny_models["sd1"], data, tmp_path / "run").model_dump(exclude_unset=True)
    told.pop("steps")
    _, _ = run(resolve(TrainLora, [told, {"passes": 2, "batch_size": batch_size}]))
    assert tomllib.loads((tmp_path / "run/run.toml").read_text())["steps"] == (steps if batch_size < 4 else 4)
    own = [name for name in names(seen) if not is_prior(name)]
    assert {own.count(name) for name in set(own)} == {2}
    assert len(set(own)) == 3


def test_drawn_images_are_drawn_once(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs", 2)
    model = shutil.copytree(tiny_models["sd1"], tmp_path / "model")
    cache = tmp_path / "cache"

    def drawn(number: int, **change: Any) -> tuple[int, bytes]:
        prior = {"count": 2, "prompt": "a dog"} | change.pop("prior", {})
        tables = {"prior": prior, "cache": {"folder": cache}, "steps": 2} | change
        reports, trained = run(config(model, data, tmp_path / f"run{number}", **tables))
        counted = [one.number for one in reports if isinstance(one, Progress) and one.phase == "drawing prior images"]
        return len(counted), trained.lora.read_bytes()

    first = drawn(0)
    assert (first[0], drawn(1)) == (2, (0, first[1])), "and the second training is the same"
    assert drawn(2, prior={"count": 3})[0] == 1
    assert drawn(3, prior={"prompt": "a cat"})[0] == 2
    assert drawn(4, data={"resolution": 128})[0] == 2
    scheduler = model / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"beta_start": ', '"beta_start": 0.0001, "before": '))
    assert drawn(5)[0] == 2, "another model"
    assert len(list((cache / "priors").iterdir())) == 4


def test_an_interrupted_drawing_goes_on_later(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    pictures.folder(tmp_path / "discs", 2)
    words = [sys.executable, "-m", "sdtune", "train-lora", "discs", "-m", str(tiny_models["sd1"]), "--json"]
    words += ["--prior", "500", "--class-prompt", "a dog", "--cache.folder", "cache", "--out", "run", "--steps", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("phase") == "drawing prior images" and json.loads(line)["number"] >= 3:
                process.send_signal(signal.SIGINT)
                break
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert ("Traceback" in said, (tmp_path / "run").exists()) == (False, False)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache/priors").rglob("*.png")}
    assert 3 <= len(kept) < 500
    told = config(
        tiny_models["sd1"], tmp_path / "discs", tmp_path / "again", **QUIET, cache={"folder": tmp_path / "cache"}
    )
    more = {"prior": {"count": len(kept) + 2, "prompt": "a dog"}}
    reports: list[Report] = list(train_lora(resolve(TrainLora, [told.model_dump(exclude_unset=True), more])))
    drawn = [one.number for one in reports if isinstance(one, Progress) and one.phase == "drawing prior images"]
    assert drawn == [len(kept) + 1, len(kept) + 2]
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
