"""The recipe of the picture book that the captioner mini looks things up in."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sdtune.core.captioners.mini import sketch
from tools.captioning_vocabulary import DIRECTIONS, changed, directions


def drawings(count: int) -> Tensor:
    """[n, 3, 128, 128] blots of a colour on white."""
    rng = torch.Generator().manual_seed(0)
    blots = functional.interpolate(torch.rand(count, 1, 6, 6, generator=rng), (128, 128), mode="bicubic") > 0.6
    margin = torch.zeros(128, 128, dtype=torch.bool)
    margin[20:108, 20:108] = True
    colours = 200 * torch.rand(count, 3, 1, 1, generator=rng)
    return torch.where(blots & margin, colours, torch.tensor(255.0))


def test_changed_drawings_stay_on_white() -> None:
    x = changed(drawings(8), torch.Generator().manual_seed(1))
    assert x.shape == (8, 3, 128, 128)
    assert x.min() >= 0
    assert x.max() <= 255
    assert bool((x[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] == 255).all())
    assert float((x - drawings(8)).abs().mean()) > 5


def test_a_changed_drawing_is_nearest_to_its_own() -> None:
    x, rng = drawings(100), torch.Generator().manual_seed(2)
    sketches = torch.stack([sketch(x), *(sketch(changed(x, rng)) for _ in range(6))])
    projection, centre = directions(sketches)
    assert projection.shape == (sketches.shape[-1], DIRECTIONS)
    new = sketch(changed(x, rng))
    own = torch.arange(len(x))
    by_book = ((new - centre) @ projection) @ functional.normalize((sketches.mean(0) - centre) @ projection, dim=1).T
    plainly = functional.normalize(new - centre, dim=1) @ functional.normalize(sketches[0] - centre, dim=1).T
    found, before = ((fit.argmax(dim=1) == own).float().mean().item() for fit in (by_book, plainly))
    assert found > 0.9
    assert found > before
