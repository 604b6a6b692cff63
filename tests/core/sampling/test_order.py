"""What is told of an order before anything is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sdtune.config import Sample, TrainLora, resolve
from sdtune.core import lora_file
from sdtune.core.lora import Lora, LoraModule
from sdtune.core.lora_metadata import STRENGTH
from sdtune.core.reports import Note
from sdtune.core.run_folder import RunFolder
from sdtune.core.sampling.order import order_of
from sdtune.layers import to_toml

QUERY = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
RECOMMENDED = "cats.safetensors: 0.8 is its recommended strength; "


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def saved(path: Path, strength: str | None) -> None:
    modules = {QUERY: LoraModule(torch.ones(1, 8), torch.ones(8, 1), 1.0)}
    lora_file.write(path, Lora(modules, "sd1", {} if strength is None else {STRENGTH: strength}))


def notes(**told: object) -> list[str]:
    config = resolve(Sample, [{"prompt": ["a cat"], "model": "mini", **told}])
    return [one.text for one in order_of(config) if isinstance(one, Note)]


def test_a_recommended_strength_that_is_not_used_is_told() -> None:
    saved(Path("cats.safetensors"), "0.8")
    assert notes(lora=["cats.safetensors"]) == [f"{RECOMMENDED}--lora cats.safetensors:0.8 uses it"]
    for given in ("cats.safetensors:1", "cats.safetensors:0.5", "cats.safetensors:mid_block=0.5"):
        assert notes(lora=[given]) == []


@pytest.mark.parametrize("strength", [None, "1", "1.0", "0", "much", "-1", "1e999", "nan", "300", "9" * 5000])
def test_where_there_is_none_or_none_that_makes_sense_nothing_is_told(strength: str | None) -> None:
    saved(Path("cats.safetensors"), strength)
    assert notes(lora=["cats.safetensors"]) == []


def test_that_of_a_run_is_told_by_the_runs_own_flag() -> None:
    run = RunFolder(Path("runs/cats-1"), "cats").create(
        to_toml(resolve(TrainLora, [{"model": "mini", "data": {"folder": "cats"}}])),
        json.dumps({"name": "cats", "images": []}),
    )
    saved(run.lora, "0.8")
    run.finish({"steps": 1, "why": "steps", "best": None})
    assert f"{RECOMMENDED}--run runs/cats-1:0.8 uses it" in notes(run="runs/cats-1")
    assert not any("recommended" in line for line in notes(run="runs/cats-1:0.5"))
