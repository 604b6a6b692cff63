"""What a training is fed is the same on a card: kept there or read ahead, masked, from trained text encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sdtune.core.data.cache import Store, identity_of
from sdtune.core.reports import Step
from tests import tiny
from tests.gpu.conftest import DEVICE
from tests.gpu.test_training import data as data
from tests.gpu.test_training import settings, trained

pytestmark = pytest.mark.gpu


@pytest.fixture
def masked(data: Path) -> Path:
    """The pictures, of which one has a mask."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save(data / "0-masklabel.png")
    return data


@pytest.mark.parametrize(
    "more",
    [
        {"augment": {"crop": 0.2, "flip": True, "versions": 3, "tag": True}},
        {"captions": {"shuffle": True, "wordings": 3, "dropout": 0.5}},
        {"buckets": {"also": [96]}, "batch_size": 3, "accumulate": 2},
        {"keep_base": {"weight": 0.5}},
        {"keep_base": {"weight": 0.5}, "text": {"train": True}},
        {"text": {"train": True, "lr": 0.01}},
        {"token": {"word": "sks-disc", "init": "red"}},
        {"memory": {"device": DEVICE, "gradient_checkpointing": True}, "text": {"train": True}},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3"])
def test_every_way_of_feeding_trains(
    name: str, more: dict[str, Any], tiny_models: dict[str, Path], masked: Path, tmp_path: Path
) -> None:
    trained(settings(tiny_models[name], masked, tmp_path / "run", **more))


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_an_inpainting_model_trains(name: str, masked: Path, tmp_path: Path) -> None:
    model = tiny.saved_pipeline(tiny.inpainting_pipeline(name), tmp_path / "model")
    trained(settings(model, masked, tmp_path / "run"))


def test_what_is_kept_on_the_card_trains_as_what_is_read_ahead(
    tiny_models: dict[str, Path], masked: Path, tmp_path: Path
) -> None:
    losses = []
    for number, cache in enumerate(({"place": "memory"}, {"memory": 1e-6, "folder": tmp_path / "cache"})):
        told = settings(tiny_models["sd1"], masked, tmp_path / f"run-{number}", cache=cache)
        reports, _ = trained(told)
        losses.append([report.loss for report in reports if isinstance(report, Step)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_store_moves_to_the_card_and_a_part_has_the_same_identity_there(device: torch.device) -> None:
    store = Store(None, 0)
    store.put("a", {"mean": torch.ones(4, 8, 8)})
    assert store.to(device)
    assert store.get("a")["mean"].device.type == device.type
    vae = tiny.pipeline("sd1").vae
    before = identity_of(vae)
    assert identity_of(vae.to(device)) == before
