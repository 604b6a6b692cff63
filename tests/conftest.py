"""What every test has at hand: one thread, and tiny models on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sdtune.core.families import families
from tests import tiny


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors, but for those of third parties that are listed here."""
    for line in (
        "error",
        r"ignore:`torch\.jit\..*` is deprecated:DeprecationWarning",  # torch, of itself
        r"ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",  # diffusers' schedulers
    ):
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """On a busy machine tiny models run twenty times slower with all threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests share a cache among themselves, and with nobody else; what they start inherits it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{family: its tiny model's folder in diffusers' layout}; read only."""
    root = tmp_path_factory.mktemp("tiny")
    return {name: tiny.saved(name, root / name) for name in families()}


@pytest.fixture(params=families())
def family_name(request: pytest.FixtureRequest) -> str:
    """Each family in turn: a new one is tested by being there."""
    return str(request.param)
