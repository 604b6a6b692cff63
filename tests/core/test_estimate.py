"""Estimates hold against what they are of: real optimizers, real files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn

from sdtune.choices.spec import kinds_of
from sdtune.config import TrainLora, resolve
from sdtune.core import lora_file
from sdtune.core.estimate import (
    check_disk,
    disk_for,
    file_bytes,
    forward_seconds,
    free_at,
    known_memory,
    lora_bytes,
    optimizer_tensors,
)
from sdtune.core.families import family_named
from sdtune.core.lora import from_peft
from sdtune.core.making import add_lora
from sdtune.errors import OutputError
from tests import tiny

OPTIMIZERS = sorted(kinds_of(TrainLora.model_fields["optimizer"]))


def settings(**more: Any) -> TrainLora:
    return resolve(TrainLora, [{"data": {"folder": "x"}, "network": {"rank": 2, "alpha": 1.0}}, more])


@pytest.fixture
def parameters() -> dict[str, nn.Parameter]:
    """Small and large ones, of which 8-bit optimizers keep the small ones whole."""
    shapes = {"unet.a.lora_A.default.weight": (4, 32), "unet.a.lora_B.default.weight": (320, 16), "token.b": (2, 32)}
    made = {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}
    return made | {"unet.b.lora_B.default.weight": nn.Parameter(torch.zeros(320, 16))}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_tells_what_it_will_keep(kind: str, parameters: dict[str, nn.Parameter]) -> None:
    config = settings(optimizer={"kind": kind, "lr": 1e-3})
    before = {name: one.detach().clone() for name, one in parameters.items()}
    random = torch.get_rng_state()
    told = optimizer_tensors(config, parameters)
    assert all(torch.equal(before[name], one) and one.grad is None for name, one in parameters.items())
    assert torch.equal(random, torch.get_rng_state())

    optimizer: Any = config.optimizer.build([{"params": list(parameters.values()), "lr": 1e-3}], 1e-3)
    for one in parameters.values():
        one.grad = torch.randn_like(one)
    optimizer.step()
    real = {
        f"{name}/{key}": value
        for name, one in parameters.items()
        for key, value in optimizer.state[one].items()
        if isinstance(value, torch.Tensor)
    }
    assert {name: (one.shape, one.dtype) for name, one in told.items()} == {
        name: (one.shape, one.dtype) for name, one in real.items()
    }
    assert len(real) > len(parameters)


def test_what_is_known_of_the_memory_is_what_the_tensors_take(parameters: dict[str, nn.Parameter]) -> None:
    numbers = sum(one.numel() for one in parameters.values())
    layer = nn.Linear(10, 10, dtype=torch.bfloat16)
    told = dict(known_memory(settings(optimizer="adamw"), parameters, {"unet": [layer], "text encoders": []}))
    steps = 4 * len(parameters)
    assert {what: round(size * 1e9) for what, size in told.items()} == {
        "weights of the unet": 2 * 110,
        "what is trained": 4 * numbers,
        "gradients": 4 * numbers,
        "optimizer": 8 * numbers + steps,
    }
    told = dict(known_memory(settings(optimizer="adamw", ema={"decay": 0.9}), parameters, {}))
    assert round(told["average of the weights"] * 1e9) == 4 * numbers


def test_a_file_is_as_large_as_safetensors_writes_it(parameters: dict[str, nn.Parameter]) -> None:
    assert file_bytes(parameters) == pytest.approx(len(save({n: p.detach() for n, p in parameters.items()})), abs=8)


def test_a_lora_file_of_every_family_is_as_large_as_told(family_name: str, tmp_path: Path) -> None:
    family = family_named(family_name)
    net = getattr(tiny.pipeline(family_name), family.denoiser).requires_grad_(False)
    add_lora(net, settings(network={"rank": 16, "alpha": 8.0}), family)
    named = {f"{family.denoiser}.{name}": one for name, one in net.named_parameters() if one.requires_grad}
    for dtype in ("fp16", "fp32"):
        lora_file.write(tmp_path / "lora.safetensors", from_peft(net, family), dtype=dtype)
        size = (tmp_path / "lora.safetensors").stat().st_size
        assert lora_bytes(named, dtype) == pytest.approx(size, rel=0.1), dtype


def test_a_disk_without_twice_the_room_is_refused(tmp_path: Path, parameters: dict[str, nn.Parameter]) -> None:
    disk = disk_for(settings(), parameters, tmp_path / "a" / "b", loras=5, drawings=3, prompts=2, cache=7)
    assert disk.free == pytest.approx(free_at(tmp_path), rel=0.01), "of the folder above, as it is not there yet"
    assert disk.needed == disk.lora * 5 + disk.checkpoint * 3 + disk.pictures
    check_disk(replace(disk, free=2 * disk.needed), tmp_path)
    check_disk(replace(disk, free=None), tmp_path)
    with pytest.raises(OutputError, match=r"run writes about .* free there.*--out"):
        check_disk(replace(disk, free=2 * disk.needed - 1), tmp_path)
    assert not (tmp_path / "a").exists()


def test_a_forward_is_less_of_a_step_the_more_a_step_does() -> None:
    plain = forward_seconds(settings(), 6.0, 2)
    assert plain == 1.0
    assert forward_seconds(settings(memory={"gradient_checkpointing": True}), 6.0, 2) == 0.75
    assert forward_seconds(settings(keep_base={"weight": 0.5}), 7.0, 1) == 1.0
