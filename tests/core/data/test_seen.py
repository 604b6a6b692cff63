"""Each image gets its buckets and versions, and what is odd about them is told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdtune.core.data.buckets import Tally
from sdtune.core.data.folder import Example
from sdtune.core.data.seen import Seen, manifest_of, see
from sdtune.core.reports import Bucketed, Report, Skipped, Warned
from sdtune.errors import ConfigError, DataError
from sdtune.tables import Augment, Buckets


def example(number: int, width: int = 128, height: int = 128, **more: Any) -> Example:
    return Example(Path(f"d/{number}.png"), ("a disc",), width, height, sha256=f"{number:064x}", **more)


def shown(
    examples: Sequence[Example],
    resolution: int = 128,
    unit: int = 8,
    *,
    task: str = "text-to-image",
    skip_bad: bool = False,
    buckets: dict[str, Any] | None = None,
    **augment: Any,
) -> tuple[list[Seen], list[Report]]:
    work = see(examples, resolution, unit, Buckets(**(buckets or {})), Augment(**augment), task, skip_bad=skip_bad)
    told: list[Report] = []
    while True:
        try:
            told.append(next(work))
        except StopIteration as end:
            return end.value, told


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(80, 900), st.integers(80, 900)), min_size=1, max_size=20),
    st.sampled_from([(), (64,), (64, 192), (128, 256)]),
)
def test_every_image_is_shown_once_at_each_resolution_that_it_is_large_enough_for(
    sizes: list[tuple[int, int]], also: tuple[int, ...]
) -> None:
    examples = [example(number, *size) for number, size in enumerate(sizes)]
    found, told = shown(examples, buckets={"also": also}, crop=0.2, versions=3)
    assert [one.example for one in found] == examples
    (table,) = [report for report in told if isinstance(report, Bucketed)]
    assert table.resolutions == tuple(dict.fromkeys((128, *also)))
    assert sum(row.images for row in table.buckets) == sum(len(one.sizes) for one in found)
    for one in found:
        assert len(set(one.sizes)) == len(one.sizes) >= 1
        width, height = one.example.width, one.example.height
        for size, views in zip(one.sizes, one.versions, strict=True):
            assert len(views) == 3
            assert {view.size for view in views} == {size}
            assert max(size[0] / width, size[1] / height) <= 1.25 + 1e-9
            assert size[0] * size[1] <= max((128, *also)) ** 2
        for other in also:
            if min(width, height) >= 2 * other:
                assert any(0.5 * other**2 <= size[0] * size[1] <= other**2 for size in one.sizes)


def test_the_table_counts_what_is_cropped_and_enlarged() -> None:
    _, told = shown([example(0), example(1), example(2, 192, 128), example(3, 120, 120)])
    (table,) = [report for report in told if isinstance(report, Bucketed)]
    assert table.buckets == (
        Tally((128, 128), 3, 0.0, 0.0, 1, 128 / 120),
        Tally((160, 96), 1, pytest.approx(0.1), pytest.approx(0.1), 0, 1.0),
    )
    assert not [report for report in told if isinstance(report, Warned)]


def test_images_that_lose_much_or_are_seen_small_are_named() -> None:
    """Of 1200 x 128, halved to 600 x 64 in the widest bucket of 256 x 64, 344 of 600 are cut off."""
    _, told = shown([example(0), example(1, 1200, 128), example(2, 60, 60)])
    assert [report.text for report in told if isinstance(report, Warned)] == [
        "much is cropped away of 1 image (1.png 57%); cut it into several pictures",
        "1 image is too small for 128 x 128 and in smaller buckets (2.png)",
    ]


def test_images_that_lose_much_are_cut_each() -> None:
    _, told = shown([example(0), example(1, 1200, 128), example(2, 1200, 128)])
    (text,) = [report.text for report in told if isinstance(report, Warned)]
    assert text == "much is cropped away of 2 images (2.png 57%, 1.png 57%); cut them into several pictures"


def test_a_further_resolution_that_no_image_is_large_enough_for_is_told() -> None:
    examples = [example(0), example(1, 240, 240)]
    for also, named in (((256, 512, 1024), "512, 1024"), ((1024, 1024), "1024")):
        found, told = shown(examples, buckets={"also": also})
        (text,) = [report.text for report in told if isinstance(report, Warned)]
        assert text.startswith(f"no image is large enough for --buckets.also {named}; give larger images, or allow")
        assert [one.sizes for one in found] == [[(128, 128)], [(128, 128), *([(256, 256)] if 256 in also else [])]]
    for also in ((), (128,), (256,), (64, 256)):
        _, told = shown(examples, buckets={"also": also})
        assert not [report for report in told if isinstance(report, Warned)]


def test_images_too_small_for_any_bucket_are_named_or_left_out() -> None:
    large, small = [example(0)], [example(number, 20, 24) for number in range(1, 8)]
    with pytest.raises(DataError) as refused:
        shown(large + small)
    named = ", ".join(f"d/{number}.png (20 x 24)" for number in range(1, 6))
    assert str(refused.value) == (
        f"{named} and 2 more: too small for any bucket at 128 px without being enlarged over 1.25 times; leave them "
        "out with --skip-bad, or give larger images, or allow more enlarging with --buckets.upscale"
    )
    found, told = shown(large + small, skip_bad=True)
    assert [one.example for one in found] == large
    skipped = [report for report in told if isinstance(report, Skipped)]
    assert skipped == [Skipped(one.path, "20 x 24 is too small for any bucket") for one in small]
    assert len(shown(large + small, buckets={"upscale": 2})[0]) == 8
    with pytest.raises(DataError, match=r"^no image is large enough for any bucket; give larger images"):
        shown(small, skip_bad=True)
    with pytest.raises(DataError, match=r"times; give larger images, or allow more enlarging with --buckets\.upscale$"):
        shown(small)
    with pytest.raises(DataError, match="no image is large enough"):
        shown([*small, example(9, prior=True)], skip_bad=True)


@pytest.mark.parametrize(
    ("resolution", "also", "told"),
    [
        (72, (), "data.resolution (--resolution): 72 is no multiple of 16 pixels; choose 64 or 80"),
        (128, (96, 104), "buckets.also: 104 is no multiple of 16 pixels; choose 96 or 112"),
    ],
)
def test_sides_that_the_model_cannot_have_are_refused(resolution: int, also: tuple[int, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}$"):
        shown([example(0)], resolution, 16, buckets={"also": also})


def test_colours_of_a_style_are_kept() -> None:
    with pytest.raises(
        ConfigError, match=r"^augment\.colour: changes the colours that a style is made of; leave it out"
    ):
        shown([example(0)], task="style", colour=0.1)


def test_what_must_not_be_mirrored_and_priors_are_shown_as_they_are() -> None:
    plain, sided = example(0), replace(example(1), captions=("a disc", "an arrow to the left"))
    prior = example(2, prior=True)
    found, told = shown([plain, sided, prior], flip=True, crop=0.1, versions=4)
    assert [[view.mirrored for view in one.versions[0]] for one in found] == [
        [False, True, False, True],
        [False] * 4,
        [False],
    ]
    assert ["not mirrored" in report.text for report in told if isinstance(report, Warned)] == [True]


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "f" * 64},
        {"captions": ("another",)},
        {"repeats": 2},
        {"weight": 0.5},
        {"prior": True},
        {"width": 192},
    ],
)
def test_the_order_of_batches_depends_on_what_the_images_are_and_not_on_where_they_lie(change: dict[str, Any]) -> None:
    examples = [example(0), example(1)]
    manifest = manifest_of(shown(examples)[0])
    moved = [replace(one, path=Path("elsewhere") / one.path) for one in examples]
    assert manifest_of(shown(moved)[0]) == manifest
    changed = [examples[0], replace(examples[1], **change)]
    assert manifest_of(shown(changed)[0]) != manifest
    assert manifest_of(shown(examples[::-1])[0]) != manifest
