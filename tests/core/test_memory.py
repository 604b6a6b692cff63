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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA card")
def test_a_card_that_is_not_there_is_told() -> None:
    assert memory.device_for(Memory()) == CPU
    with pytest.raises(ConfigError, match="finds no CUDA card; use --device cpu"):
        memory.device_for(Memory(device="cuda"))


@pytest.mark.parametrize("asked", ["auto", "sdpa"])
def test_attention_is_sdpa_on_the_cpu(asked: str) -> None:
    assert memory.use_attention(tiny.pipeline("sd1").unet, asked, CPU, torch.float32).startswith("attention: sdpa (")


def test_xformers_asked_for_in_vain_is_told_with_its_reason() -> None:
    told = memory.use_attention(tiny.pipeline("sd1").unet, "xformers", CPU, torch.float32)
    assert told.startswith("attention: sdpa, since xformers ")
    assert "is not installed" in told or "has no working operator" in told
