"""Who is set aside and who is held out, as pure functions."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtune.config import Prepare
from sdtune.core.intake.facts import Measured
from sdtune.core.intake.verdicts import Candidate, held_out, remarks, sets_aside, smallest_side, verdicts
from sdtune.tables import Judge

HASHES = st.lists(st.binary(min_size=1, max_size=4).map(lambda data: hashlib.sha256(data).hexdigest()), unique=True)


def config(**settings: Any) -> Prepare:
    return Prepare(sources=("in",), **settings)


def measured(**changes: Any) -> Measured:
    usual: dict[str, Any] = {"sha256": "0" * 64, "bytes": 1000, "kind": "PNG", "width": 800, "height": 600}
    usual |= {"border": None, "prepared": (800, 600), "sharpness": 500.0, "contrast": 60.0}
    usual |= {"fingerprint": "00" * 8, "tints": "80" * 192}
    return Measured(**(usual | changes))


def candidate(told: str, placed: bool = False, described: bool = True, **changes: Any) -> Candidate:
    sha = hashlib.sha256(told.encode()).hexdigest()
    return Candidate(told, measured(**({"sha256": sha} | changes)), "", False, described, placed)


@given(HASHES, st.floats(0, 0.9), st.data())
def test_adding_images_moves_none_across(hashes: list[str], share: float, data: st.DataObject) -> None:
    first = hashes[: data.draw(st.integers(0, len(hashes)))]
    before = held_out(first, share, {})
    decided = {one: one in before for one in first}
    assert held_out(hashes, share, decided) & set(first) == before
    assert held_out(list(reversed(hashes)), share, decided) == held_out(hashes, share, decided)


@given(HASHES, st.floats(0.01, 0.9))
def test_it_follows_from_the_content_alone(hashes: list[str], share: float) -> None:
    out = held_out(hashes, share, {})
    assert out == held_out(sorted(hashes), share, {})
    assert len(hashes) < 12 or len(out) >= 2
    assert len(hashes) >= 12 or not out


def test_the_share_is_about_what_was_asked_for() -> None:
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(5000)]
    assert 0.09 < len(held_out(hashes, 0.1, {})) / 5000 < 0.11


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, None),
        ({"width": 255}, "too small"),
        ({"width": 256, "height": 256}, None),
        ({"contrast": 1.9}, "one colour"),
        ({"width": 3000, "height": 600}, "too long"),
        ({"width": 2400}, None),
        ({"sharpness": 0.1}, "blurred"),
    ],
)
def test_an_image_is_judged_by_itself(changes: dict[str, Any], kind: str | None) -> None:
    (verdict,) = verdicts([candidate("a", **changes)], config())
    assert (verdict and verdict.kind) == kind


def test_a_border_that_is_cut_off_does_not_count() -> None:
    framed = candidate("a", width=3000, height=1000, border=(1000, 0, 1000, 0))
    assert verdicts([framed], config(judge={"aspect": 2}))[0] is not None
    assert verdicts([framed], config(judge={"aspect": 2}, crop_borders=True))[0] is None
    assert "--crop-borders" in remarks(framed.measured, None, config())[0]
    assert remarks(framed.measured, None, config(crop_borders=True)) == ()


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"placed": True, "width": 300}, {"width": 1600}),
        ({"width": 1000}, {"width": 999, "sharpness": 900.0}),
        ({"sharpness": 501.0, "described": False}, {"sharpness": 500.0}),
        ({"described": True}, {"described": False}),
    ],
)
def test_of_those_that_are_alike_the_best_is_kept(better: dict[str, Any], worse: dict[str, Any]) -> None:
    found = verdicts([candidate("worse", **worse), candidate("better", **better)], config())
    assert found[1] is None
    assert found[0] is not None
    assert (found[0].kind, found[0].like, found[0].told) == ("near-duplicate", 1, "looks like better")


def test_with_keep_all_only_second_copies_go() -> None:
    twice = {"sha256": "a" * 64}
    given_ = [candidate("a", **twice), candidate("b", **twice), candidate("c", width=10)]
    found = verdicts(given_, config(judge={"keep_all": True}))
    assert [sets_aside(verdict, Judge(keep_all=True)) for verdict in found] == [False, True, False]
    assert "too small" in remarks(given_[2].measured, found[2], config())[-1]


def test_the_smallest_side_follows_the_resolution_until_it_is_said() -> None:
    assert [smallest_side(config(resolution=side)) for side in (128, 1024)] == [32, 256]
    assert smallest_side(config(judge={"min_side": 0})) == 0
