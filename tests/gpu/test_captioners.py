"""Captioners and the segmenter on the card, in half precision: tiny random models from image to words and masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from sdtune.choices.captioners import Captioner
from sdtune.choices.masks import MaskClipSeg
from sdtune.core.captioners import Picture, load
from sdtune.core.intake.segment import Segmenter
from sdtune.tables import Memory
from tests.core.captioners import tiny

pytestmark = pytest.mark.gpu


def pictures() -> list[Picture]:
    rng = numpy.random.default_rng(0)
    sizes = [(64, 64), (100, 40), (30, 70)]
    images = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=numpy.uint8)) for w, h in sizes]
    return [Picture(Path(f"{number}.png"), image) for number, image in enumerate(images)]


@pytest.mark.parametrize("kind", ["qwen3-vl", "florence2", "blip"])
def test_a_captioner_tells_of_every_picture(
    kind: str, device: torch.device, tmp_path: Path, peak: Callable[[], int | None], record_property: Any
) -> None:
    settings: Any = {"kind": kind, "model": str(tiny.saved(kind, tmp_path))}
    captioner = TypeAdapter(Captioner).validate_python(settings)
    describer = load(captioner, Memory(device=device.type), seed=0)
    told = describer.describe(pictures())
    assert [len(one) for one in told] == [1, 1, 1]
    assert told == describer.describe(pictures())
    record_property("words", [one[0].text for one in told])
    assert device.type == "cpu" or peak()


def test_masks_have_the_size_of_their_images(device: torch.device, tmp_path: Path) -> None:
    settings = MaskClipSeg(model=str(tiny.saved("clipseg", tmp_path)), threshold=0.5)
    images = [picture.image for picture in pictures() if picture.image]
    masks = Segmenter(settings, Memory(device=device.type)).mask(images)
    assert [mask.size for mask in masks] == [image.size for image in images]
