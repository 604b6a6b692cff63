"""A run on a card is stopped and goes on, to the bit with --deterministic; a card that is too small still trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdtune.config import TrainLora, resolve
from sdtune.core.checkpoint import Checkpoints
from sdtune.core.reports import Note, Report, Step, Trained, Warned
from sdtune.core.train_lora import train_lora
from sdtune.errors import Stopped
from tests import pictures
from tests.gpu.conftest import DEVICE, PRECISIONS
from tests.gpu.test_training import OPTIMIZERS, settings
from tests.gpu.test_training import data as data

pytestmark = pytest.mark.gpu


def stopped(config: TrainLora, after: int) -> None:
    work = train_lora(config)
    next(report for report in work if isinstance(report, Step) and report.number == after)
    with pytest.raises(Stopped):
        [work.throw(Stopped()), *work]


def gone_on(config: TrainLora) -> list[Report]:
    return list(train_lora(resolve(TrainLora, [{"resume": str(config.out)}])))


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("precision", sorted({"fp32", *PRECISIONS}))
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_is_the_same_to_the_bit(
    optimizer: str, precision: str, tiny_models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    told: dict[str, Any] = {"device": DEVICE, "precision": precision, "deterministic": True}
    more = {"memory": told, "optimizer": optimizer, "steps": 6, "save": {"dtype": "fp32"}, "ema": {"decay": 0.9}}
    whole, broken = (settings(tiny_models["sd1"], data, tmp_path / name, **more) for name in ("whole", "broken"))
    reports = list(train_lora(whole))
    assert any("resume: bit-identical" in report.text for report in reports if isinstance(report, Note))
    stopped(broken, 3)
    assert isinstance(gone_on(broken)[-1], Trained)
    one, other = (Checkpoints(tmp_path / name / "checkpoints").newest()[0] for name in ("whole", "broken"))
    assert one
    assert other
    assert one.told["optimizer"] == other.told["optimizer"]
    for part, tensors in one.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other.tensors[part][name]), f"{part}: {name}"


def test_a_card_that_is_too_small_takes_smaller_passes(
    tiny_models: dict[str, Path], tmp_path: Path, device: torch.device
) -> None:
    if device.type != "cuda":
        pytest.skip("the memory of a card is bounded")
    many = pictures.folder(tmp_path / "discs", 64, ((256, 256),))
    more = {"batch_size": 64, "steps": 2, "validation": {"off": True}, "data": {"folder": many, "resolution": 256}}
    config = settings(tiny_models["sdxl"], many, tmp_path / "run", **more)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + 2**29) / total, device)
        reports = list(train_lora(config))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert isinstance(reports[-1], Trained)
    told = [report.text for report in reports if isinstance(report, Warned)]
    assert any("at once from now on, which learns the same" in one for one in told), told
