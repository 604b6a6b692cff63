"""The LoRA in a checkpoint is the one that the run saved after that step, and --last counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdtune.config import TrainLora, resolve
from sdtune.core import lora_file
from sdtune.core.applied import Applied
from sdtune.core.blocks import Strength
from sdtune.core.checkpoint_lora import lora_of_checkpoint
from sdtune.core.last_loras import averaged, last_of
from sdtune.core.lora_updates import Bases
from sdtune.core.reports import Note
from sdtune.core.train_lora import train_lora
from sdtune.errors import LoraError
from tests import pictures
from tests.core.some_loras import agree, updates

STEPS = 6


def trained(model: Path, folder: Path, **more: Any) -> Path:
    """A run of 6 steps whose checkpoints after 2, 4 and 6 are left, and the LoRA after the last alone."""
    told = {
        "model": str(model),
        "out": folder / "run",
        "steps": STEPS,
        "batch_size": 1,
        "data": {"folder": pictures.folder(folder / "discs", 4, ((64, 64),))},
        "network": {"rank": 2},
        "optimizer": {"lr": 0.01},
        "samples": {"off": True},
        "validation": {"off": True},
        "save": {"every": 2, "keep": 3, "dtype": "fp32"},
    }
    list(train_lora(resolve(TrainLora, [told, more])))
    return folder / "run"


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("sd1", {"ema": {"decay": 0.5}, "text": {"train": True}}),
        ("sdxl", {"network": {"rank": 2, "alpha": 3.0, "layers": "attention+ff+conv"}}),
        ("sd3", {}),
    ],
    ids=["averaged, with text", "alpha of its own", "sd3"],
)
def test_it_is_what_the_run_saved_after_that_step(
    model: str, more: dict[str, Any], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    run = trained(tiny_models[model], tmp_path, **more)
    saved = lora_file.read(run / "discs.safetensors")
    found = lora_of_checkpoint(run / "checkpoints" / f"step-{STEPS:06d}", saved.family)
    agree(updates(found), updates(saved))


@pytest.fixture
def run(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    return trained(tiny_models["sd1"], tmp_path)


def test_the_last_ones_are_files_and_checkpoints(run: Path) -> None:
    path = run / "discs.safetensors"
    assert list(last_of(path, 3)) == [6, 4, 2]
    assert last_of(path, 2) == {6: path, 4: run / "checkpoints" / "step-000004"}
    one = Applied(path, lora_file.read(path), Strength(1.0, {}))
    work, said = averaged([one], 2, Bases(None)), list[str]()
    while True:
        try:
            report = next(work)
        except StopIteration as end:
            (found,) = end.value
            break
        said += [report.text] if isinstance(report, Note) else []
    assert "after steps 4, 6" in said[0]
    earlier = updates(lora_of_checkpoint(run / "checkpoints" / "step-000004", "sd1"))
    for name, last in updates(path).items():
        left, values, right = torch.linalg.svd((earlier[name] + last) / 2)
        nearest = left[:, :2] @ values[:2].diag() @ right[:2]
        assert torch.allclose(found.lora.modules[name].delta(), nearest, atol=1e-5), "of rank 2, as each of them"


def test_too_few_are_named_with_what_keeps_more(run: Path) -> None:
    path = run / "discs.safetensors"
    with pytest.raises(LoraError) as problem:
        last_of(path, 5)
    assert str(problem.value) == (
        f"{run}: has 3 LoRAs of different steps (2, 4, 6; its checkpoints count, too), fewer than --last 5; "
        "give --last 3, or train with --save-every N --save.keep 5"
    )
    for step in (2, 4):
        (run / "checkpoints" / f"step-{step:06d}").rename(run / f"moved-{step}")
    with pytest.raises(LoraError, match=r"has 1 LoRA of .* \(6; .*; leave --last out, or train with --save-every N"):
        last_of(path, 2)


def test_every_run_is_looked_at_before_the_first_is_averaged(run: Path, tmp_path: Path) -> None:
    path = run / "discs.safetensors"
    loose = tmp_path / "loose.safetensors"
    loose.write_bytes(path.read_bytes())
    both = [Applied(one, lora_file.read(one), Strength(1.0, {})) for one in (path, loose)]
    with pytest.raises(LoraError, match=r"loose.safetensors: lies in no run folder"):
        next(averaged(both, 2, Bases(None)))


def test_a_broken_one_and_one_without_alpha_are_refused(run: Path) -> None:
    folder = run / "checkpoints" / "step-000004"
    (run / "run.toml").write_text((run / "run.toml").read_text().replace("alpha = ", "# "))
    with pytest.raises(LoraError, match=r"run.toml: tells no alpha, .*; give a lower --last"):
        lora_of_checkpoint(folder, "sd1")
    (run / "run.toml").write_text("[network]\nalpha = 2\n")
    (folder / "adapter.safetensors").write_bytes(b"nothing")
    with pytest.raises(LoraError, match=r"adapter.safetensors is not as it was written; move it away"):
        lora_of_checkpoint(folder, "sd1")
