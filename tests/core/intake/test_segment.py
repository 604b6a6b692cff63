"""CLIPSeg's masks, of a tiny random model in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdtune.choices.masks import MaskClipSeg
from sdtune.core.intake.segment import Segmenter
from sdtune.errors import ModelError
from sdtune.tables import Memory
from tests.core.captioners import tiny

CPU = Memory(device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved("clipseg", tmp_path_factory.mktemp("clipseg"))


def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in [(64, 64), (100, 40), (30, 70)]
    ]


def test_masks_are_black_or_white_and_of_their_images_size(folder: Path) -> None:
    segmenter = Segmenter(MaskClipSeg(model=str(folder), prompt="red apple", threshold=0.5), CPU)
    masks = segmenter.mask(images())
    assert [mask.size for mask in masks] == [image.size for image in images()]
    assert {mask.mode for mask in masks} == {"L"}
    assert {int(level) for mask in masks for level in np.unique(np.asarray(mask))} == {0, 255}


def test_a_batch_finds_what_one_by_one_finds(folder: Path) -> None:
    segmenter = Segmenter(MaskClipSeg(model=str(folder)), CPU)
    together = segmenter.probabilities(images())
    for one, image in zip(together, images(), strict=True):
        (alone,) = segmenter.probabilities([image])
        np.testing.assert_allclose(np.asarray(one), np.asarray(alone), atol=1e-5)
    assert segmenter.mask([]) == []


def test_white_is_where_the_probability_reaches_the_threshold(folder: Path) -> None:
    image = images()[0]
    told = np.asarray(Segmenter(MaskClipSeg(model=str(folder)), CPU).probabilities([image])[0])
    for threshold in (0.0, float(np.quantile(told, 0.3)), float(told.max()), 1.0):
        settings = MaskClipSeg(model=str(folder), threshold=threshold)
        mask = np.asarray(Segmenter(settings, CPU).mask([image])[0])
        np.testing.assert_array_equal(mask == 255, told >= threshold)


def test_the_map_lies_over_the_image_as_the_model_sees_it(folder: Path) -> None:
    """What transformers says of the squashed image, stretched back."""
    segmenter = Segmenter(MaskClipSeg(model=str(folder), prompt="red"), CPU)
    image = images()[1]
    squashed = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    pixels = torch.from_numpy((squashed - 0.5) / 0.5).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = segmenter.model(pixel_values=pixels, **segmenter.text).logits.reshape(64, 64)
    expected = Image.fromarray(logits.sigmoid().numpy()).resize((100, 40), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(np.asarray(segmenter.probabilities([image])[0]), np.asarray(expected), atol=1e-3)


def test_the_prompt_matters_however_long(folder: Path) -> None:
    found = [
        np.asarray(Segmenter(MaskClipSeg(model=str(folder), prompt=prompt), CPU).probabilities(images()[:1])[0])
        for prompt in ("red", "apple", "apple " * 100)
    ]
    assert np.abs(found[0] - found[1]).max() > 1e-4
    assert np.isfinite(found[2]).all()


def test_a_wrong_folder_is_told_in_one_line(tmp_path: Path) -> None:
    captioner = tiny.saved("blip", tmp_path / "blip")
    for model, told in ((tmp_path / "nowhere", "no such folder"), (captioner, "of type blip, not clipseg")):
        with pytest.raises(ModelError, match=told) as error:
            Segmenter(MaskClipSeg(model=str(model)), CPU)
        assert "\n" not in str(error.value)
        assert "captioner that fits" not in str(error.value)


def test_what_fails_at_the_first_image_is_told_as_the_models_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter(MaskClipSeg(model=str(folder)), CPU)
    monkeypatch.setattr(segmenter, "image_processor", lambda *_, **__: 1 / 0)
    with pytest.raises(ModelError, match="cannot be loaded"):
        segmenter.mask(images())
