"""A dry run tells what the training then does, takes no step that stays, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors import safe_open

from sdtune.choices.spec import kinds_of
from sdtune.config import Caption, TrainLora, resolve
from sdtune.core.caption import caption
from sdtune.core.checkpoint import Checkpoints
from sdtune.core.dry_run import BEST, PROBED, probe
from sdtune.core.reports import (
    Planned,
    Probed,
    Problem,
    Progress,
    Pulse,
    Report,
    Skipped,
    Step,
    Telling,
    Trained,
    Validated,
)
from sdtune.core.train_lora import train_lora
from tests import pictures
from tests.core.trainings import Bench, losses, must_be_equal

OPTIMIZERS = sorted(kinds_of(TrainLora.model_fields["optimizer"]))
PICTURES = 16


def settings(model: Path, data: Path, out: Path, *more: dict[str, Any]) -> TrainLora:
    """A training of everything that can be trained, with images that are held out."""
    told = {"model": str(model), "out": out, "steps": 6, "batch_size": 2, "accumulate": 2}
    tables = {"data": {"folder": data}, "network": {"rank": 4}, "samples": {"steps": 1, "every": 3}}
    tables |= {"text": {"train": True, "lr": 2e-5}, "token": {"word": "zzz"}, "save": {"dtype": "fp32"}}
    return resolve(
        TrainLora, [told | tables, {"validation": {"timesteps": 2, "noises": 1, "every": 3, "images": 2}}, *more]
    )


def planned(config: TrainLora) -> tuple[list[Report], Planned]:
    reports = list(train_lora(config.model_copy(update={"dry_run": True})))
    assert isinstance(reports[-1], Planned)
    return reports, reports[-1]


def ended(work: Telling[Probed]) -> tuple[list[Report], Probed]:
    """What work tells on its way, and its result."""
    reports = []
    while True:
        try:
            reports.append(next(work))
        except StopIteration as end:
            return reports, end.value


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that lies in a folder, with the bytes of files."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def numbers_in(file: Path) -> dict[str, tuple[int, int]]:
    """{"unet" or "te": (layers, numbers)} of a LoRA file of any form."""
    found: dict[str, tuple[int, int]] = {}
    with safe_open(file, "np") as tensors:
        for key in tensors.keys():  # noqa: SIM118 (it is no dictionary)
            if not key.endswith(".alpha"):
                part = "te" if key.startswith(("lora_te", "text_encoder")) else "net"
                layers, numbers = found.get(part, (0, 0))
                size = int(numpy.prod(tensors.get_slice(key).get_shape()))
                found[part] = layers + (".lora_down." in key or ".lora_A." in key), numbers + size
    return found


def test_the_training_then_does_what_was_told(
    family_name: str, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = pictures.folder(tmp_path / "discs", PICTURES, ((64, 64), (96, 64), (48, 48)))
    config = settings(tiny_models[family_name], data, tmp_path / "run")
    before = tree(tmp_path)
    _, told = planned(config)
    assert tree(tmp_path) == before, "nothing is written"

    reports = list(train_lora(config))
    trained = reports[-1]
    assert isinstance(trained, Trained)
    assert tree(data) == {path: held for path, held in before.items() if path.startswith(f"{data}/")}
    in_file = numbers_in(trained.lora)
    net, *readers, word = told.groups
    assert (net.modules, net.numbers) == in_file["net"]
    assert (sum(one.modules for one in readers), sum(one.numbers for one in readers)) == in_file["te"]
    (embedding,) = (tmp_path / "run" / "embeddings").iterdir()
    with safe_open(embedding, "np") as vectors:
        sizes = [vectors.get_slice(key).get_shape() for key in vectors.keys()]  # noqa: SIM118
    assert (word.part, word.modules, word.numbers) == ("new word", len(sizes), sum(map(numpy.prod, sizes)))
    steps = [one for one in reports if isinstance(one, Step)]
    assert (len(steps), max(one.lr for one in steps)) == (told.steps, pytest.approx(net.lr, rel=0.02))
    assert [one.lr for one in readers] == [2e-5] * len(readers)
    assert word.lr == config.token.lr
    assert (told.images_a_step, told.passes) == (4, pytest.approx(6 / -(-told.trained // 4)))

    listed = json.loads((tmp_path / "run" / "data.json").read_text())
    images = listed["images"] if isinstance(listed, dict) else listed
    assert told.held_out == sum(bool(one["held_out"]) for one in images) > 0
    assert told.trained == len(images) - told.held_out == PICTURES - told.held_out
    validations = {one.step for one in reports if isinstance(one, Validated)}
    assert validations == {0, 3, 6}
    assert (told.validations, told.validation_every) == (2, 3)
    drawn = list((tmp_path / "run" / "samples").glob("*.png"))
    assert len(drawn) == told.drawings * told.prompts == 3 * 2

    assert told.disk.lora == pytest.approx(trained.lora.stat().st_size + embedding.stat().st_size, rel=0.2)
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    size = sum(file.stat().st_size for file in newest.iterdir())
    assert told.disk.checkpoint == pytest.approx(size, rel=0.05)
    assert told.disk.needed >= sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file()) / 2
    assert [path for what, path in told.files if not path.exists() and what != BEST] == []


def test_the_training_after_a_dry_run_is_as_if_there_had_been_none(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pictures.folder(tmp_path / "discs", PICTURES, ((64, 64), (96, 64)))
    files, states = [], []
    for name in ("plain", "probed"):
        monkeypatch.setenv("SDTUNE_CACHE", str(tmp_path / f"cache {name}"))
        config = settings(tiny_models["sd1"], data, tmp_path / name)
        if name == "probed":
            _, told = planned(config.model_copy(update={"probe": True}))
            assert told.probed
            assert len(told.probed.seconds) == PROBED
            assert told.probed.memory > 0
            assert told.seconds
            assert 0 < told.seconds[0] <= told.seconds[1]
            assert told.disk.cache > 0
            assert (tmp_path / f"cache {name}").is_dir(), "what is encoded is kept"
        trained = list(train_lora(config))[-1]
        assert isinstance(trained, Trained)
        files.append(trained.lora.read_bytes())
        states.append(Checkpoints(tmp_path / name / "checkpoints").newest()[0])
    assert files[0] == files[1]
    assert states[0]
    assert states[1]
    assert all(
        (value == states[1].tensors[file][key]).all()
        for file, tensors in states[0].tensors.items()
        for key, value in tensors.items()
    )


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_probing_leaves_no_trace(kind: str) -> None:
    tables = {"optimizer": {"kind": kind}, "schedule": "constant", "ema": {"decay": 0.5}, "accumulate": 3}
    bench = Bench(tables=tables | {"text": {"train": True}, "network": {"dropout": 0.2}})
    first, probed = bench.training(), bench.training()
    for training in (first, probed):
        assert len(losses(training.steps(1))) == 1
    before = probed.state()
    reports, told = ended(probe(probed, 5))
    assert [(one.number, one.of) for one in reports if isinstance(one, Progress)] == [(n, 4) for n in range(1, 5)]
    assert not any(isinstance(one, Step) for one in reports), "a step would look like one that stays"
    assert any(isinstance(one, Pulse) for one in reports), "it can be ended in the middle of a step"
    assert len(told.seconds) == PROBED
    must_be_equal(probed.state(), before)
    assert losses(probed.steps(5)) == losses(first.steps(5))
    must_be_equal(probed.state(), first.state())


def test_a_training_of_two_steps_is_probed_by_these() -> None:
    training = Bench().training()
    _, told = ended(probe(training, 2))
    assert len(told.seconds) == 1
    assert training.step == 0


def test_captions_are_linted_as_the_command_does_that_is_told(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "some discs", 6)
    (data / "0.txt").write_text("disc, red, disc")
    (data / "1.txt").write_text("DSC_0001.jpg")
    config = settings(tiny_models["sd1"], data, tmp_path / "run", {"token": {"word": None}})
    _, told = planned(config)
    asked = resolve(Caption, [{"folder": data, "lint": True, "model": config.model}])
    problems = [one for one in caption(asked) if isinstance(one, Problem)]
    assert told.problems == len(problems) >= 2
    assert told.look == f"sdtune caption '{data}' --lint --model {config.model}"

    more = {"data": {"trigger": "two words"}, "token": {"word": None}}
    _, told = planned(settings(tiny_models["sd1"], data, tmp_path / "run", more))
    assert told.problems == len(problems)
    assert told.look
    assert told.look.endswith("--trigger='two words'")

    task = {"task": "unconditional", "text": {"train": False}, "token": {"word": None}, "samples": {"off": True}}
    _, told = planned(settings(tiny_models["sd1"], data, tmp_path / "run", task))
    assert (told.problems, told.look) == (None, None)
    assert (told.drawings, told.prompts, told.disk.pictures) == (0, 0, 0)


def test_images_that_are_left_out_or_enlarged_are_counted(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs", 5, ((64, 64), (56, 56)))
    (data / "broken.png").write_bytes((data / "0.png").read_bytes()[:60])
    (data / "broken.txt").write_text("half a disc")
    for number in range(5):
        (data / f"{number}.txt").write_text(f"{'abcde'[number] * 4} picture {number}")
    more = {"data": {"skip_bad": True}, "token": {"word": None}}
    config = settings(tiny_models["sd1"], data, tmp_path / "run", more)
    reports, told = planned(config)
    assert [one.path.name for one in reports if isinstance(one, Skipped)] == ["broken.png"]
    assert (told.trained, told.held_out, told.left_out, told.priors) == (5, 0, 1, 0)
    assert told.enlarged == 2
    assert (told.validations, told.validation_every) == (0, None)
    assert (told.problems, told.look) == (0, None)


@pytest.mark.parametrize(
    ("every", "steps", "drawings"), [(None, 600, 11), (None, 201, 6), (None, 20, 2), (0, 600, 2), (4, 13, 5)]
)
def test_samples_are_counted(
    every: int | None, steps: int, drawings: int, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    data = pictures.folder(tmp_path / "discs", 3)
    more = {"samples": {"every": every}, "accumulate": 1, "steps": steps}
    _, told = planned(settings(tiny_models["sd1"], data, tmp_path / "run", more))
    assert told.drawings == drawings
