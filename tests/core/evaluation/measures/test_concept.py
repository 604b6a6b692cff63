"""Concept F1: cells in which it is known which drawings show the concept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import pytest
import torch
from torchmetrics.functional import classification

from sdtune.core.evaluation.intervals import Refused, Value, resampled
from sdtune.core.evaluation.measures import Seen, measures
from sdtune.core.evaluation.measures.concept import detect
from tests.core.evaluation.measures.handmade import seen, unit

NAMES = ("concept_f1", "concept_precision", "concept_recall", "concept_accuracy")
ASK, NOT = 20, 10


def cell(shows: Any, width: int = 64, references: int = 5, spread: float = 0.7, **more: Any) -> Seen:
    """Prompts that have contents of their own, of which those in `shows` got the concept."""
    random = numpy.random.default_rng(1)
    content = random.standard_normal((ASK + NOT + references, width)) * spread / width**0.5
    concept, plain = numpy.eye(width)[0], numpy.eye(width)[1]
    base = unit(content[: ASK + NOT] + plain)
    changed = unit(content[: ASK + NOT] + concept)
    has = numpy.arange(ASK + NOT) < ASK
    told = {"base": base, "has_concept": has, "in_distribution": has, "generic": ~has}
    drawn = numpy.where(numpy.asarray(shows, dtype=numpy.bool_)[:, None], changed, base)
    return seen(drawn, unit(content[ASK + NOT :] + concept), **(told | more))


def figures(one: Seen) -> list[float]:
    weights = resampled([int(prompt) for prompt in one.prompt], len(one.references), 100)
    found = [measures()[name].value(one, weights) for name in NAMES]
    assert all(isinstance(value, Value) and 0 <= value.estimate <= 1 for value in found)
    return [value.estimate for value in found if isinstance(value, Value)]


ASKED = numpy.arange(ASK + NOT) < ASK


@pytest.mark.parametrize("width", [64, 512, 1024])
@pytest.mark.parametrize("references", [3, 5, 50])
@pytest.mark.parametrize("spread", [0.2, 0.7])
def test_a_perfect_lora_a_bleeding_one_and_one_that_does_nothing(width: int, references: int, spread: float) -> None:
    told: dict[str, Any] = {"width": width, "references": references, "spread": spread}
    assert figures(cell(ASKED, **told)) == [1, 1, 1, 1]
    share = ASK / (ASK + NOT)
    assert figures(cell(ASKED | True, **told)) == pytest.approx([2 * share / (1 + share), share, 1, share])
    assert figures(cell(ASKED & False, **told)) == pytest.approx([0, 0, 0, NOT / (ASK + NOT)])
    assert measures()["concept_f1"].detail(cell(ASKED, **told))["references_recognised"] == 1


def test_any_table_of_right_and_wrong_is_told_in_closed_form_and_as_torchmetrics_does() -> None:
    random = numpy.random.default_rng(2)
    for _ in range(10):
        shows = random.random(ASK + NOT) < 0.5
        one = cell(shows)
        assert (detect(one).shows == shows).all()
        true, false, missed = (shows & ASKED).sum(), (shows & ~ASKED).sum(), (~shows & ASKED).sum()
        expected = [2 * true / (2 * true + false + missed), true / (true + false), true / ASK, (shows == ASKED).mean()]
        assert figures(one) == pytest.approx(expected, abs=1e-12)
        told = measures()["concept_f1"].detail(one)
        assert [told[name] for name in ("true_positives", "false_positives", "false_negatives")] == [
            true,
            false,
            missed,
        ]


def test_torchmetrics_says_the_same() -> None:
    shows = numpy.random.default_rng(3).random(ASK + NOT) < 0.6
    given, true = torch.tensor(shows).long(), torch.tensor(ASKED).long()
    names = ("f1_score", "precision", "recall", "accuracy")
    oracle = [float(getattr(classification, f"binary_{name}")(given, true)) for name in names]
    assert figures(cell(shows)) == pytest.approx(oracle, abs=1e-6)


def test_weights_count_drawings_and_leave_the_detector_as_it_is() -> None:
    one = cell(numpy.arange(ASK + NOT) < 10)
    weights = resampled(list(range(ASK + NOT)), 5, 100)
    units = weights.units.copy()
    units[1] = 0.0
    units[1, [0, 10, 25]] = [2, 3, 1]
    found = measures()["concept_f1"].replicates(one, replace(weights, units=units))
    assert found[:2] == pytest.approx([20 / 30, 4 / 7])


def test_what_scrambles_pictures_shows_nothing() -> None:
    one = cell(ASKED & False)
    assert not detect(replace(one, drawn=numpy.roll(one.base, 7, axis=0))).shows.any()


def test_a_prompts_own_picture_is_no_proof_of_the_concept() -> None:
    """Content that drawing and truth share is left out, be that a reference or a trained picture."""
    one = cell(ASKED & False, spread=2.0)
    nowhere = numpy.full(ASK + NOT, -1)
    of = nowhere.copy()
    of[:5] = numpy.arange(5)
    drawn = one.drawn.copy()
    drawn[:5] = unit(one.base[:5] + 0.9 * one.references)
    assert detect(replace(one, drawn=drawn)).shows[:5].any()
    left_out = detect(replace(one, drawn=drawn, of_reference=of))
    assert left_out.shows[:5].sum() < detect(replace(one, drawn=drawn)).shows[:5].sum()
    copied = replace(one, drawn=drawn, trained=one.references, of_trained=of)
    assert (detect(copied).shows == left_out.shows).all()  # trained pictures that are references count once
    assert detect(replace(copied, of_reference=of)).way == pytest.approx(left_out.way)


def test_it_is_looked_up_once_for_all_measures_of_a_cell() -> None:
    one = cell(ASKED)
    assert detect(one) is detect(one)
    assert not detect(replace(one, drawn=one.base)).shows.any()


def test_what_the_base_draws_anyway_is_not_the_loras_doing() -> None:
    one = cell(ASKED)
    base = one.base.copy()
    base[25] = unit(one.references.mean(axis=0, keepdims=True))[0]
    drawn = numpy.where(ASKED[:, None], one.drawn, base)
    found = detect(replace(one, base=base, drawn=drawn))
    assert found.mistaken == pytest.approx(1 / (ASK + NOT))
    assert (found.shows == ASKED).all()


def test_trained_pictures_help_where_references_are_few() -> None:
    one = cell(ASKED, references=40, spread=3.0)
    few = replace(one, references=one.references[:3])
    known = replace(few, trained=one.references[3:])

    def wrong(case: Seen) -> int:
        return int((detect(case).shows != ASKED).sum())

    assert wrong(known) < wrong(few)


def test_what_cannot_be_told_is_refused_with_what_helps() -> None:
    def reason(one: Seen) -> str:
        found = measures()["concept_f1"].value(one, resampled(list(range(ASK + NOT)), len(one.references), 100))
        assert isinstance(found, Refused)
        assert measures()["concept_f1"].detail(one) == {} or "encoder" in found.reason
        return found.reason

    none = ASKED & False
    good = cell(ASKED)
    assert "give --trigger" in reason(replace(good, has_concept=none))
    assert "--prompts" in reason(replace(good, generic=none))
    assert "--reference" in reason(replace(good, references=good.references[:2]))
    assert "--encoder" in reason(replace(good, references=good.base[[1, 9, 20, 25, 28]]))
