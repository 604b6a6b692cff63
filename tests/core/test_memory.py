"""Where to work, in which numbers, and with which attention: asked, tried and told."""

from __future__ import annotations

import pytest
import torch

from sdtune.core import memory
from sdtune.errors import ConfigError
from sdtune.tables import Memory
from tests import tiny

CPU = torch.device("cpu")


def test_the_cpu_works_in_fp32_unless_told_otherwise() -> None:
    assert memory.dtype_for(Memory(), CPU) == torch.float32
    assert memory.dtype_for(Memory(precision="bf16"), CPU) == torch.bfloat16
    with pytest.raises(ConfigError, match="fp16 does not run on the CPU"):
        memory.dtype_for(Memory(precision="fp16"), CPU)


@pytest.fixture(params=[(), ("cuda",), ("mps",), ("cuda", "mps")])
def there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The devices beside the CPU that PyTorch finds."""
    found: tuple[str, ...] = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in found)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in found)
    return found


def test_without_being_told_work_is_on_the_best_device_that_it_is_made_for(there: tuple[str, ...]) -> None:
    assert memory.device_for(Memory(), mps=True).type == (*there, "cpu")[0]
    assert memory.device_for(Memory()).type == ("cuda" if "cuda" in there else "cpu")
    assert memory.device_for(Memory(device="cpu"), mps=True) == CPU


def test_a_device_that_is_not_there_is_told(there: tuple[str, ...]) -> None:
    for name, told in (("cuda", "finds no CUDA card; use --device cpu"), ("mps", r"finds no Apple GPU \(mps\); use")):
        asked = Memory(device=name)  # type: ignore[arg-type]
        if name in there:
            assert memory.device_for(asked, mps=True).type == name
        else:
            with pytest.raises(ConfigError, match=told):
                memory.device_for(asked, mps=True)


@pytest.mark.usefixtures("there")
def test_what_is_not_tested_on_mps_refuses_it() -> None:
    with pytest.raises(ConfigError, match="mps is for sample alone, all else is not tested on it; use cpu"):
        memory.device_for(Memory(device="mps"))


def test_mps_works_in_fp16_unless_told_otherwise() -> None:
    mps = torch.device("mps")
    assert memory.dtype_for(Memory(), mps) == torch.float16
    assert memory.dtype_for(Memory(precision="fp32"), mps) == torch.float32
    assert memory.use_attention(tiny.pipeline("sd1").unet, "auto", mps, torch.float16) == "attention: sdpa"


@pytest.mark.parametrize("asked", ["auto", "sdpa"])
def test_attention_is_sdpa_on_the_cpu(asked: str) -> None:
    assert memory.use_attention(tiny.pipeline("sd1").unet, asked, CPU, torch.float32).startswith("attention: sdpa (")


def test_xformers_asked_for_in_vain_is_told_with_its_reason() -> None:
    told = memory.use_attention(tiny.pipeline("sd1").unet, "xformers", CPU, torch.float32)
    assert told.startswith("attention: sdpa, since xformers ")
    assert "is not installed" in told or "has no working operator" in told
