"""Near-copies: drawings that are nearer to a trained picture than anything has a right to be.

A picture may be as near to a trained one as held-out pictures are, other trained pictures, and what the base model
draws of other prompts: that is what is usual of it, told by the encoder's features. Encoders take a blob of the right
colour for a bell; so a copy must also look like the trained picture, small and side by side, and more so than the
nearest of those. Both bounds are of each trained picture by itself: encoders crowd some and not others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy
from PIL import Image

from sdtune.core.data.images import open_image
from sdtune.core.evaluation.intervals import Array
from sdtune.core.evaluation.measures.base import Seen, once
from sdtune.core.evaluation.outcome import Copy
from sdtune.core.evaluation.pixels import Pixels, ssim

SIDE, FINE = 32, 128  # pixels of the small pictures that are laid side by side; and of what they are cut from
PARTS = ((1.0, 0.0, 0.0), *((share, x, y) for share in (0.9, 0.8) for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0)))
"""(share of the side, where it lies across and down in what is left), as a copy may be shifted or cropped"""
LOOK = 0.82
"""SSIM of small pictures from which on one may be a copy of the other. Measured on drawings by mini, of the base and
with 49 and with 5 trained emoji, 1,200 pairs: what one sees to be a copy has 0.83 and more, one molten one 0.80; of all
else 19 of 20 pairs have at most 0.57, and over 0.69 is only a trained shape in other colours, 0.80. Trained emoji saved
as JPEG, mirrored, recoloured, cropped by 10 %, scaled or shifted by 6 % have 0.86 and more; two of them at most 0.6."""
SAME = 0.95
"""from which on both are one picture, saved again or mirrored"""
ROUGH = 8
"""pixels of what is looked at first: small products, for which no threads of BLAS wait for each other"""
LIKELY = 0.8
"""correlation of rough parts, below which two pictures are not looked at further. Of 3,250 pairs of drawings by mini
and trained emoji those that look like each other by 0.7 and more have 0.90 and more; 1 in 15 of all has 0.8"""
KEPT_PICTURES, KEPT_LOOKS = 512, 2**17
"""in memory, which is 45 MB and 30 MB at most: trained pictures and references are the same in all cells"""
NEAREST = 3  # trained pictures by features that a drawing is laid beside


@dataclass(frozen=True)
class Small:
    """The middle square of a picture and its parts, small."""

    views: Pixels  # [p, SIDE, SIDE, 3]
    rough: Array  # [p, 3 ROUGH^2] the same as unit vectors about their means

    @property
    def mirrored(self) -> Small:
        """The other way round."""
        rough = self.rough.reshape(-1, ROUGH, ROUGH, 3)[:, :, ::-1].reshape(self.rough.shape)
        return Small(self.views[:, :, ::-1], rough)


@once
def copies_of(seen: Seen) -> tuple[Copy, ...]:
    """The drawings that are nearly a trained picture, by their place."""
    looks = Looks(seen)
    units = range(len(seen.drawn) if len(seen.trained) else 0)
    return tuple(copy for unit in units if (copy := looks.copy(unit)))


class Looks:
    """Pictures of one cell, laid side by side; what is usual of a trained picture is looked up once."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.likeness = seen.drawn @ seen.trained.T  # [n, k]
        self.bounds: dict[int, tuple[float, float]] = {}

    def copy(self, unit: int) -> Copy | None:
        """What the drawing is a copy of: of its nearest pictures the one that it looks like most."""
        near = numpy.argsort(-self.likeness[unit], kind="stable")[:NEAREST].tolist()
        if all(self.likeness[unit, one] <= self.usual(one)[0] for one in near):
            return None  # whatever it looks like, so that most drawings need not be opened
        looks = [alike(self.seen.pictures[unit], self.seen.trained_pictures[one]) for one in near]
        look = max(looks)
        trained = int(near[looks.index(look)])
        if look < LOOK:
            return None
        usual, usual_look = self.usual(trained)
        likeness = float(self.likeness[unit, trained])
        if likeness <= usual or look <= usual_look:
            return None
        asked = bool(self.seen.has_concept[unit])
        return Copy(unit, trained, likeness, usual, self._describes(unit, trained), asked)

    def usual(self, trained: int) -> tuple[float, float]:
        """(cosine, look) of what is nearest to a trained picture without being the same once more."""
        if trained not in self.bounds:
            cosines, looks = self._beside(trained)
            base = self.seen.base[self.seen.of_trained != trained] @ self.seen.trained[trained]
            self.bounds[trained] = max([*cosines, *base.tolist()], default=-1.0), max(looks, default=-1.0)
        return self.bounds[trained]

    def _beside(self, trained: int) -> tuple[list[float], list[float]]:
        """Cosines and looks of the nearest held-out and other trained pictures that are not the same once more."""
        seen = self.seen
        others = numpy.concatenate([seen.trained, seen.references]) @ seen.trained[trained]
        pictures = [*seen.trained_pictures, *seen.reference_pictures]
        cosines: list[float] = []
        looks: list[float] = []
        for place in numpy.argsort(-others, kind="stable").tolist():
            if len(looks) == NEAREST:
                break
            if place != trained and (look := alike(pictures[trained], pictures[place])) < SAME:
                cosines.append(float(others[place]))
                looks.append(look)
        return cosines, looks

    def _describes(self, unit: int, trained: int) -> bool:
        """Whether the drawing's prompt is the caption of that picture, or of the same once more."""
        own = int(self.seen.of_trained[unit])
        pictures = self.seen.trained_pictures
        return own == trained or (own >= 0 and alike(pictures[own], pictures[trained]) >= SAME)


def alike(one: Path, other: Path) -> float:
    """How alike two pictures look side by side, one of them mirrored or a little shifted where that is nearer."""
    return _alike(one, _changed(one), other, _changed(other))


@lru_cache(KEPT_LOOKS)
def _alike(one: Path, changed: int, other: Path, other_changed: int) -> float:
    a, b = _small(one, changed), _small(other, other_changed)
    return max(look(a, b), look(a, b.mirrored))


@lru_cache(KEPT_PICTURES)
def _small(path: Path, changed: int) -> Small:  # noqa: ARG001 (what has changed is another picture)
    return small(open_image(path))


def _changed(path: Path) -> int:
    """When a file was changed; 0 of one that is gone, as opening it tells."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def small(image: Image.Image) -> Small:
    """A picture's middle square, small, and its parts."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.resize((FINE, FINE), Image.Resampling.BOX, box=(left, top, left + side, top + side))
    views = numpy.stack([_part(square, *part) for part in PARTS])
    step = SIDE // ROUGH
    return Small(views, _centred(views.reshape(len(views), ROUGH, step, ROUGH, step, 3).mean(axis=(2, 4))))


def look(one: Small, other: Small) -> float:
    """SSIM of those parts of two pictures that are most alike by their correlation; -1 of what is plainly unlike."""
    if (one.rough @ other.rough.T).max() < LIKELY:
        return -1.0
    likeness = numpy.einsum("pd,qd->pq", _centred(one.views), _centred(other.views))  # without threads
    a, b = numpy.unravel_index(int(likeness.argmax()), likeness.shape)
    return ssim(one.views[a], other.views[b])


def _centred(views: Array | Pixels) -> Array:
    """[p, d] unit vectors about their means."""
    flat: Array = views.reshape(len(views), -1).astype(numpy.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    lengths: Array = numpy.maximum(numpy.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return flat / lengths


def _part(square: Image.Image, share: float, across: float, down: float) -> Pixels:
    side = round(FINE * share)
    left, top = (FINE - side) * across, (FINE - side) * down
    part = square.resize((SIDE, SIDE), Image.Resampling.BOX, box=(left, top, left + side, top + side))
    return numpy.asarray(part, dtype=numpy.uint8)
