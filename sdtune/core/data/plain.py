"""Plain views: images as validation looks at them, each whole and centred, in one size, with one caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

from sdtune.core.data.buckets import bucket_for
from sdtune.core.data.encode import Version
from sdtune.core.data.folder import Example
from sdtune.core.data.seen import Seen
from sdtune.core.data.views import views_of
from sdtune.core.reports import Telling, Warned
from sdtune.tables import Augment, Buckets

Image = TypeVar("Image")
NAMED = 5  # files named in one message


@dataclass(frozen=True)
class Plain:
    """One image that validation looks at."""

    sha256: str
    version: Version
    size: tuple[int, int]
    """(width, height), pixels"""
    caption: str
    """its first, in the first of its wordings"""


def see_plainly(examples: Sequence[Example], resolution: int, buckets: Buckets) -> Telling[list[Seen]]:
    """Each image at the run's first resolution, unaugmented; what is too small for any bucket is told and left out."""
    found, small = [], []
    for example in examples:
        size = bucket_for(
            example.width,
            example.height,
            resolution,
            step=buckets.step,
            upscale=buckets.upscale,
            square=buckets.square,
        )
        if size is None:
            small.append(example)
        else:
            found.append(plain(example, size, buckets))
    if small:
        named = ", ".join(f"{one.path} ({one.width} x {one.height})" for one in small[:NAMED])
        more = f" and {len(small) - NAMED} more" if len(small) > NAMED else ""
        yield Warned(f"{named}{more}: held out, but too small for any bucket, and left out of validation")
    return found


def plain(example: Example, size: tuple[int, int], buckets: Buckets) -> Seen:
    """An image in a bucket as it is, the first version of those that training shows."""
    views = views_of(example.width, example.height, example.sha256, size, Augment(), upscale=buckets.upscale)
    return Seen(example, (views,))


def some(images: Mapping[str, Image], count: int) -> list[Image]:
    """At most so many of {SHA-256: image}, chosen by content alone and in that order."""
    return [images[digest] for digest in sorted(images, key=_rank)[:count]]


def _rank(digest: str) -> str:
    """Another order than by the hash itself, by which images are held out."""
    return sha256(f"validation {digest}".encode()).hexdigest()
