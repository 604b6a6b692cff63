"""Models and pictures for encoders."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from PIL import Image

from tests.core.evaluation.encoders import tiny


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{model_type: a tiny random model's folder}; read only."""
    root = tmp_path_factory.mktemp("encoders")
    return {kind: tiny.saved(kind, root / kind) for kind in tiny.KINDS}


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Five of other sizes and contents."""
    random = numpy.random.default_rng(0)
    sizes = [(64, 64), (96, 40), (33, 90), (30, 30), (200, 210)]
    coarse = [random.integers(0, 256, (5, 5, 3), dtype=numpy.uint8) for _ in sizes]
    pairs = zip(coarse, sizes, strict=True)
    return [Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR) for pixels, size in pairs]
