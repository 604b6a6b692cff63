"""Where the GPU tests run: on CUDA, or for a dry run of the tests themselves on SDTUNE_TEST_DEVICE=cpu."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

DEVICE = os.environ.get("SDTUNE_TEST_DEVICE", "cuda")
PRECISIONS = ("bf16", "fp16") if DEVICE == "cuda" else ("fp32", "bf16")
"""those of half the size; the CPU does not train in fp16"""


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device under test."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        build = torch.version.cuda or "none, this PyTorch is a CPU build"
        pytest.skip(f"PyTorch finds no CUDA card (CUDA of this build: {build}); SDTUNE_TEST_DEVICE=cpu tries the tests")
    return torch.device(DEVICE)


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps one precision a process; each test has its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def peak(device: torch.device, record_property: Callable[[str, Any], None]) -> Iterator[Callable[[], int | None]]:
    """Bytes that PyTorch's tensors took at most since the test began, None on the CPU; recorded with the test."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def bytes_at_peak() -> int | None:
        return torch.cuda.max_memory_allocated() if device.type == "cuda" else None

    yield bytes_at_peak
    record_property("peak_bytes", bytes_at_peak())
