"""A mask is read as prepare reads it, and weighs each latent pixel by its own area."""

from __future__ import annotations

import io
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdtune.core.data.images import decode
from sdtune.core.data.masks import latent_mask, mask_for, weights_of
from sdtune.core.intake.facts import Job
from sdtune.core.intake.image_mask import find_mask
from sdtune.errors import DataError

SIZE = 48, 32


def picture(place: Path, suffix: str = "png", alpha: Image.Image | None = None, orientation: int = 1) -> Path:
    image = Image.linear_gradient("L").resize(SIZE).convert("RGB")
    if alpha:
        image.putalpha(alpha)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = place / f"a.{suffix}"
    image.save(path, exif=exif)
    return path


def half(size: tuple[int, int] = SIZE, white: int = 255) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(white, (0, 0, size[0] // 3, size[1]))
    return mask


def saved(mask: Image.Image, place: Path) -> Path:
    path = place / "a-masklabel.png"
    mask.save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    "mask", [half(), half(SIZE[::-1]), half((7, 90)), half(white=1), half(white=9), half().convert("RGB"), half((1, 1))]
)
def test_training_has_the_mask_that_prepare_has(
    mask: Image.Image, orientation: int, suffix: str, tmp_path: Path
) -> None:
    path, place = picture(tmp_path, suffix, orientation=orientation), saved(mask, tmp_path)
    prepared, source, notices = find_mask(Job("a", str(path), None, mask_path=str(place)), decode(path, "a"), None)
    if not mask.convert("L").getbbox():
        assert "wholly black" in notices[-1]
        with pytest.raises(DataError, match="wholly black"):
            mask_for(path, place, "files")
        return
    seen, told = mask_for(path, place, "files")
    assert source == "file"
    assert prepared is not None
    assert seen is not None
    assert (seen.mode, seen.size, seen.tobytes()) == ("L", prepared.size, prepared.tobytes())
    assert told == notices
    assert seen.getbbox()


def test_a_mask_that_lies_on_its_side_is_turned_with_the_image(tmp_path: Path) -> None:
    path = picture(tmp_path, "jpg", orientation=6)  # a quarter to the right
    seen, told = mask_for(path, saved(half(), tmp_path), "files")
    assert seen is not None
    assert seen.tobytes() == half().transpose(Image.Transpose.ROTATE_270).tobytes()
    assert told == ("its mask lay on its side: turned as the image",)


def test_what_is_used_is_what_was_asked_for(tmp_path: Path) -> None:
    alpha, mask = Image.linear_gradient("L").resize(SIZE), half()
    path, place = picture(tmp_path, alpha=alpha), saved(mask, tmp_path)

    def used(mask_path: Path | None, use: str) -> bytes | None:
        found, _ = mask_for(path, mask_path, use)  # type: ignore[arg-type]
        return found.tobytes() if found else None

    assert used(place, "files") == used(place, "alpha") == mask.tobytes()
    assert used(None, "alpha") == alpha.tobytes()
    assert used(None, "files") is used(place, "off") is used(None, "off") is None
    assert mask_for(picture(tmp_path), None, "alpha") == (None, ())


@pytest.mark.parametrize("white", [1, 255])
def test_a_mask_that_is_white_everywhere_is_none(white: int, tmp_path: Path) -> None:
    place = saved(Image.new("L", (9, 9), white), tmp_path)
    assert mask_for(picture(tmp_path), place, "files")[0] is None


def test_what_leaves_nothing_to_learn_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = picture(tmp_path, alpha=Image.new("L", SIZE, 0))
    place = saved(Image.new("L", SIZE, 0), tmp_path)
    with pytest.raises(DataError) as refused:
        mask_for(path, place, "files")
    assert str(refused.value) == (
        f"{path}: its mask a-masklabel.png is wholly black, so nothing of it would be learnt; paint what counts white, "
        "or remove the mask, or leave out the image"
    )
    with pytest.raises(DataError, match=r"it is wholly transparent, .*; give it a mask file, or leave out the image"):
        mask_for(path, None, "alpha")


@pytest.mark.parametrize("make", ["absent", "empty", "text", "cut", "folder", "bomb"])
def test_a_mask_that_cannot_be_read_is_refused_in_one_line(make: str, tmp_path: Path) -> None:
    path, place = picture(tmp_path), tmp_path / "a-masklabel.png"
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, "PNG")
    if make == "folder":
        place.mkdir()
    elif make != "absent":
        data = {"empty": b"", "text": b"no picture", "cut": buffer.getvalue()[:900]}
        place.write_bytes(data.get(make) or (bytes(65 * 2**20) if make == "bomb" else b""))
    with pytest.raises(DataError) as refused:
        mask_for(path, place, "files")
    assert len(refused.value.problems) == 1
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"{path}: its mask a-masklabel.png: ")
    assert "; " in str(refused.value)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 2, 4, 8, 16]), st.integers(0, 2**32))
def test_each_latent_pixel_has_the_mean_of_its_area(width: int, height: int, down: int, seed: int) -> None:
    pixels = numpy.random.default_rng(seed).integers(0, 256, (height * down, width * down), numpy.uint8)
    found = latent_mask(Image.fromarray(pixels), down)
    assert found.shape == (1, height, width)
    assert found.dtype == torch.float32
    for y in range(height):
        for x in range(width):
            area = pixels[y * down : (y + 1) * down, x * down : (x + 1) * down]
            assert float(found[0, y, x]) == pytest.approx(area.mean() / 255, abs=1e-6)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_the_floor_is_what_black_counts_and_white_counts_wholly(grey: float, floor: float) -> None:
    weights = weights_of(torch.tensor([0.0, grey, 1.0], dtype=torch.float64), floor)
    assert weights[0] == floor
    assert weights[2] == pytest.approx(1)
    assert weights[1] == pytest.approx(floor + (1 - floor) * grey)
