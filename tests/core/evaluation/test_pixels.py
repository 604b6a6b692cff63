"""PSNR, SSIM and the perceptual distance of pairs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from sdtune.core.evaluation.pixels import EQUAL, Pixels, paired_values, psnr, ssim
from sdtune.errors import DataError

EXAMPLES = Path(__file__).parents[3] / "examples" / "fluent-3d-held-out"


def picture(seed: int, height: int = 40, width: int = 56) -> Pixels:
    """Coarse fields under fine noise."""
    random = numpy.random.default_rng(seed)
    fields = random.integers(30, 226, (height // 8, width // 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
    return (fields + random.integers(-20, 21, fields.shape)).astype(numpy.uint8)


def batch(pixels: Pixels) -> torch.Tensor:
    """[1, 3, h, w] in [0, 255], in double precision."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].double()


@pytest.mark.parametrize("change", ["another", "noise", "darker", "same but one"])
def test_as_torchmetrics_has_them(change: str) -> None:
    """Both, to 1e-6."""
    a = picture(1)
    b = {
        "another": picture(2),
        "noise": (a + numpy.random.default_rng(3).integers(-9, 10, a.shape)).clip(0, 255).astype(numpy.uint8),
        "darker": (a * 0.7).astype(numpy.uint8),
        "same but one": numpy.where(numpy.arange(a.size).reshape(a.shape) == 99, 255 - a, a).astype(numpy.uint8),
    }[change]
    ratio = peak_signal_noise_ratio(batch(a), batch(b), data_range=255.0)  # logarithms of it are float32
    assert psnr(a, b) == pytest.approx(float(ratio), rel=1e-6)
    theirs = structural_similarity_index_measure(
        batch(a), batch(b), gaussian_kernel=True, sigma=1.5, kernel_size=11, data_range=255.0
    )
    assert isinstance(theirs, torch.Tensor)
    assert ssim(a, b) == pytest.approx(float(theirs), abs=1e-6)


def test_known_answers() -> None:
    """Equal pictures; everywhere off by one; black on white."""
    a = picture(1)
    assert psnr(a, a) == EQUAL
    assert ssim(a, a) == pytest.approx(1)
    assert psnr(a, a + numpy.uint8(1)) == pytest.approx(10 * math.log10(255**2))
    black, white = numpy.zeros_like(a), numpy.full_like(a, 255)
    assert psnr(black, white) == 0
    assert ssim(black, white) == pytest.approx(0.01**2 / (1 + 0.01**2))


def test_pairs_of_files(tmp_path: Path) -> None:
    """A true picture of another size is brought to the drawing's; drawings without one have no values."""
    apple, rocket = EXAMPLES / "1f34e.png", EXAMPLES / "1f680.png"
    small = tmp_path / "apple.png"
    with Image.open(apple) as image:
        paper = Image.new("RGBA", image.size, "white")
        drawn = Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
        drawn.resize((64, 64), Image.Resampling.LANCZOS).save(small)
    features = numpy.eye(3)
    true = numpy.array([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    values = paired_values([small, small, small], [apple, rocket, None], features, true)
    assert values["psnr"][0] == EQUAL
    assert values["psnr"][1] < 15
    assert values["ssim"][0] == pytest.approx(1)
    assert values["ssim"][1] < 0.7
    assert values["perceptual"][:2] == pytest.approx([0.4, 1.0])
    assert all(numpy.isnan(one[2]) for one in values.values())


def test_a_damaged_pair_is_named(tmp_path: Path) -> None:
    """One line."""
    (tmp_path / "true.png").write_bytes((EXAMPLES / "1f34e.png").read_bytes()[:500])
    with pytest.raises(DataError, match=r"true\.png: damaged"):
        paired_values([EXAMPLES / "1f34e.png"], [tmp_path / "true.png"], numpy.eye(1), numpy.eye(1))
