"""Verdicts on curves whose course is known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtune.core.reports import Measure, Validated
from sdtune.core.verdict import best, from_json, kept, sentence, should_stop, to_json
from sdtune.tables import Stop

LOSSES = st.lists(st.floats(0.3, 3, allow_nan=False), min_size=1, max_size=30)


def curve(
    held_out: Sequence[float], trained: Sequence[float] = (), *, error: float = 0.02, images: int = 5
) -> list[Validated]:
    """Validations every 100 steps of losses relative to the base's, which is 0.2, and is measured first."""

    def measure(relative: float, error: float) -> Measure:
        return Measure(0.2 * relative, 0.05, relative, error, (0.1 * relative, 0.3 * relative), images)

    pairs = zip(held_out, trained or held_out, strict=True)
    base = Validated(0, 100 * len(held_out), measure(1, 0), measure(1, 0), 0, 1.5)
    return [base] + [
        Validated(100 * number, 100 * len(held_out), measure(one, error), measure(other, error), 0, 1.5)
        for number, (one, other) in enumerate(pairs, 1)
    ]


U = [0.95, 0.9, 0.86, 0.87, 0.89, 0.92, 0.95, 0.99, 1.03]
COPIED = [0.94, 0.88, 0.82, 0.76, 0.7, 0.62, 0.5, 0.4, 0.3]


@pytest.mark.parametrize(
    ("validations", "told"),
    [
        (
            curve(U, COPIED),
            "best at step 300 (-14.0 % against the base, standard error 2.0 % over 5 images); since 500 the gap to "
            "the trained images grows, +3.0 % at the last step: more steps will copy",
        ),
        (
            curve(U),
            "best at step 300 (-14.0 % against the base, standard error 2.0 % over 5 images); since 500 it rises, "
            "+3.0 % at the last step, on the trained images, too: a lower --lr may help",
        ),
        (
            curve([0.95, 0.9, 0.85]),
            "best at step 300 (-15.0 % against the base, standard error 2.0 % over 5 images); still falling at the "
            "last step: more steps may help",
        ),
        (
            curve([0.9, 0.85, 0.849]),
            "best at step 300 (-15.1 % against the base, standard error 2.0 % over 5 images); level at the last step: "
            "more steps would change little",
        ),
        (
            curve([0.9, 0.85, 0.86, 0.86]),
            "best at step 200 (-15.0 % against the base, standard error 2.0 % over 5 images); level since, within its "
            "error: more steps would change little",
        ),
        (
            curve([1.1, 1.2, 1.4]),
            "no better than the base: the held-out loss is above its own at every step, +10.0 % against the base, "
            "standard error 2.0 % over 5 images at best; fewer steps, a lower --lr or more images may help",
        ),
        (
            curve([0.99, 0.98, 1.02], error=0.03, images=2),
            "no verdict: the held-out loss is within its noise of the base's, -2.0 % against the base, standard error "
            "3.0 % over 2 images at step 200, and rises since",
        ),
        (
            curve([0.8], images=2),
            "best at step 100 (-20.0 % against the base, standard error 2.0 % over 2 images); one validation does not "
            "tell whether more steps would help (a hint, as 2 held-out images are few)",
        ),
        (
            curve([0.8, 0.7], error=0.7, images=1),
            "no verdict: the held-out loss is within its noise of the base's, -30.0 % against the base, with 1 image "
            "and no error known at step 200",
        ),
        (curve([]), "not validated: no verdict on over-fitting"),
        ([], "not validated: no verdict on over-fitting"),
    ],
    ids=["U", "U on both", "falling", "level", "flat", "rising", "noise", "one", "one image", "base", "none"],
)
def test_what_is_said_of_a_curve(validations: list[Validated], told: str) -> None:
    assert sentence(validations) == told


def stops_at(validations: Sequence[Validated], **stop: object) -> int | None:
    settings = Stop.model_validate(stop)
    steps = (one.step for number, one in enumerate(validations, 1) if should_stop(validations[:number], settings))
    return next(steps, None)


def test_it_stops_after_patience_and_window_and_not_before() -> None:
    assert best(curve(U)) == 300
    assert stops_at(curve(U)) == 900, "three times the best step"
    assert stops_at(curve(U), window=1) == 700, "three in a row that are worse than 0.88: from 500 on"
    assert stops_at(curve(U), window=1, patience=1) == 500
    assert stops_at(curve(U), window=1, patience=6) is None
    assert stops_at(curve(U), early=False, window=1) is None
    assert stops_at(curve(U, error=0.2), window=1) is None, "within the noise"
    assert stops_at(curve([0.9, 0.8, 0.95, 0.95, 0.81, 0.95, 0.95, 0.95]), window=1) == 800, "in a row"
    assert stops_at(curve([1.1, 1.2, 1.4, 1.5, 1.6])) == 400, "rising at once"
    assert stops_at(curve([0.9, 0.8, 0.7, 0.6])) is None
    assert stops_at(curve([])) is None


@given(LOSSES)
def test_what_is_kept_was_kept_before_and_is_spread(losses: list[float]) -> None:
    validations = curve(losses)
    before: set[int] = set()
    for number in range(1, len(validations)):
        now = kept(validations[: number + 1])
        newest = validations[number].step
        assert set(now) <= before | {newest}, "what was removed does not come back"
        assert now[0] == best(validations[: number + 1])
        assert now[-1] == newest
        assert len(now) == min(4, (newest - now[0]) // 100 + 1)
        assert now == sorted(now)
        before = set(now)
    if len(before) == 4:
        distances = [later - earlier for earlier, later in pairwise(now)]
        assert max(distances) <= 0.75 * (now[-1] - now[0]), "one of those between is not beside an end"


def test_after_a_minimum_what_is_kept_is_about_even() -> None:
    assert kept(curve([0.5, *[0.6] * 15])) == [100, 500, 900, 1600]
    assert kept(curve([])) == kept([]) == []


@given(LOSSES, st.floats(1e-12, 10), st.integers(1, 9))
def test_memory_is_exact(losses: list[float], error: float, images: int) -> None:
    validations = curve(losses, error=error, images=images)
    assert from_json(to_json(validations)) == validations


@pytest.mark.parametrize("text", ["", "3", "{}x", '[{"step": 1}]', '[{"held_out": 3, "trained": {}}]'])
def test_a_broken_memory_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        from_json(text)
