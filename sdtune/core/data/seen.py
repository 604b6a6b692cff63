"""Seen: an example with the sizes and versions in which the training shows it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from sdtune.core.data.augmentation import guard
from sdtune.core.data.buckets import Tally, bucket_for, covering_scale, cropped, tally
from sdtune.core.data.folder import Example
from sdtune.core.data.views import View, views_of
from sdtune.core.reports import Bucketed, Skipped, Telling, Warned
from sdtune.errors import ConfigError, DataError
from sdtune.tables import Augment, Buckets

LARGER = "give larger images, or allow more enlarging with --buckets.upscale"
NAMED = 5  # files named in one message about many
MUCH = 1 / 3  # of an image's area, cut away
SMALL = 0.7  # of the area at the resolution; buckets of other shapes have 0.75 of it and more


@dataclass(frozen=True)
class Seen:
    """One image as training shows it."""

    example: Example
    versions: tuple[tuple[View, ...], ...]
    """for each of its sizes, one a resolution: the versions in which it is shown"""

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) of each of its buckets, pixels."""
        return [views[0].size for views in self.versions]


def see(
    examples: Sequence[Example],
    resolution: int,
    unit: int,
    buckets: Buckets,
    augment: Augment,
    task: str,
    *,
    skip_bad: bool,
) -> Telling[list[Seen]]:
    """Tells the buckets and what augmentation is kept from; `unit` is the pixels of which sides are multiples."""
    guarded = guard(examples, augment, task)
    if guarded.refusals:
        raise ConfigError(*guarded.refusals)
    for warning in guarded.warnings:
        yield Warned(warning)
    resolutions = dict.fromkeys((resolution, *buckets.also))
    for one in resolutions:
        if one % unit:
            name = "data.resolution (--resolution)" if one == resolution else "buckets.also"
            below = one // unit * unit
            near = f"{below} or {below + unit}" if below else str(unit)
            raise ConfigError(f"{name}: {one} is no multiple of {unit} pixels; choose {near}")
    found, small = [], []
    for example, may_flip in zip(examples, guarded.may_flip, strict=True):
        sizes = _sizes(example, resolution, buckets)
        if not sizes:
            small.append(example)
            continue
        asked = _augmented(augment, example)
        found.append(
            Seen(
                example,
                tuple(
                    views_of(
                        example.width,
                        example.height,
                        example.sha256,
                        size,
                        asked,
                        upscale=buckets.upscale,
                        may_flip=may_flip,
                    )
                    for size in sizes
                ),
            )
        )
    some = any(not seen.example.prior for seen in found)
    yield from _tell_of_small(small, resolution, buckets, skip_bad=skip_bad, some=some)
    if not some:
        raise DataError(f"no image is large enough for any bucket; {LARGER}")
    rows = _tallies(found)
    yield Bucketed(tuple(resolutions), rows)
    yield from _tell_of_unused(found, resolution, buckets)
    yield from _warn_of_losses(found, resolution)
    return found


def _augmented(augment: Augment, example: Example) -> Augment:
    """Prior images show what the base model draws, and are not augmented."""
    return Augment() if example.prior else augment


def manifest_of(seen: Sequence[Seen]) -> str:
    """A hash of all that the order of batches depends on: what the images are, and what is said of them."""
    rows = [
        (
            one.example.sha256,
            one.example.captions,
            one.example.repeats,
            one.example.weight,
            one.example.prior,
            one.sizes,
        )
        for one in seen
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _sizes(example: Example, resolution: int, buckets: Buckets) -> list[tuple[int, int]]:
    """The bucket of each resolution that the image is large enough for, the first one's in any case."""
    width, height = example.width, example.height
    step, square = buckets.step, buckets.square
    first = bucket_for(width, height, resolution, step=step, upscale=buckets.upscale, square=square)
    if first is None:
        return []
    return list(dict.fromkeys((first, *(size for one in buckets.also if (size := _larger(example, one, buckets))))))


def _larger(example: Example, resolution: int, buckets: Buckets) -> tuple[int, int] | None:
    """The bucket of a further resolution, None where the image is too small for it."""
    width, height = example.width, example.height
    size = bucket_for(width, height, resolution, step=buckets.step, square=buckets.square)
    return size if covering_scale(width, height, size) <= buckets.upscale else None


def _tallies(seen: Sequence[Seen]) -> tuple[Tally, ...]:
    pairs = [((one.example.width, one.example.height), size) for one in seen for size in one.sizes]
    return tally([size for size, _ in pairs], [bucket for _, bucket in pairs])


def _tell_of_small(
    small: Sequence[Example], resolution: int, buckets: Buckets, *, skip_bad: bool, some: bool
) -> Telling[None]:
    """An image that the smallest bucket would enlarge too much shows nothing that the model could learn."""
    if not small:
        return
    if skip_bad:
        for example in small:
            yield Skipped(example.path, f"{example.width} x {example.height} is too small for any bucket")
        return
    named = ", ".join(f"{one.path} ({one.width} x {one.height})" for one in small[:NAMED])
    more = f" and {len(small) - NAMED} more" if len(small) > NAMED else ""
    them = "it" if len(small) == 1 else "them"
    remedy = f"leave {them} out with --skip-bad, or {LARGER}" if some else LARGER
    raise DataError(
        f"{named}{more}: too small for any bucket at {resolution} px without being enlarged over {buckets.upscale:g} "
        f"times; {remedy}"
    )


def _tell_of_unused(seen: Sequence[Seen], resolution: int, buckets: Buckets) -> Telling[None]:
    """Resolutions at which no image is shown."""
    further = [one for one in dict.fromkeys(buckets.also) if one != resolution]
    unused = [one for one in further if not any(_larger(shown.example, one, buckets) for shown in seen)]
    if unused:
        named = ", ".join(str(one) for one in unused)
        yield Warned(f"no image is large enough for --buckets.also {named}; {LARGER}")


def _warn_of_losses(seen: Sequence[Seen], resolution: int) -> Telling[None]:
    """Images of which much is cut away, or that are seen smaller than the others."""
    lost = [(cropped(one.example.width, one.example.height, one.sizes[0]), one.example.path.name) for one in seen]
    much = sorted(((share, name) for share, name in lost if share > MUCH), reverse=True)
    if much:
        named = ", ".join(f"{name} {share:.0%}" for share, name in much[:NAMED])
        more = f" and {len(much) - NAMED} more" if len(much) > NAMED else ""
        it = "it" if len(much) == 1 else "them"
        yield Warned(f"much is cropped away of {_images(len(much))} ({named}{more}); cut {it} into several pictures")
    small = [one.example for one in seen if one.sizes[0][0] * one.sizes[0][1] < SMALL * resolution**2]
    if small:
        named = ", ".join(one.path.name for one in small[:NAMED])
        are = "is" if len(small) == 1 else "are"
        told = f"{_images(len(small))} {are} too small for {resolution} x {resolution} and in smaller buckets"
        yield Warned(f"{told} ({named})")


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"
