"""What --fail-under and --fail-over ask is read before any work, and what is not so is told in one line."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sdtune.config import Evaluate, EvaluateCompare, resolve
from sdtune.core.evaluation.intervals import Refused, Value
from sdtune.core.evaluation.measures import measures
from sdtune.core.evaluation.thresholds import Threshold, failed, thresholds_of
from sdtune.errors import ConfigError

NONE = math.nan


def given(**more: Any) -> Evaluate:
    return resolve(Evaluate, [{"subjects": ["a"]} | more])


def value(estimate: float, low: float = NONE, high: float = NONE) -> Value:
    return Value(estimate, low, high, 10, 5)


def test_several_in_one_value_and_several_times() -> None:
    asked = given(fail_under=["coverage=0.5, precision = 4e-1", "RECALL=0.1"], fail_over=["kid=-0.01"])
    assert thresholds_of(asked) == (
        Threshold("coverage", 0.5, under=True),
        Threshold("precision", 0.4, under=True),
        Threshold("recall", 0.1, under=True),
        Threshold("kid", -0.01, under=False),
    )
    compare = resolve(EvaluateCompare, [{"first": "a", "second": "b", "fail_over": ["kid=1"]}])
    assert thresholds_of(compare) == (Threshold("kid", 1.0, under=False),)
    assert thresholds_of(given()) == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("covrage=0.5", "--fail-under covrage=0.5: no such measure; did you mean coverage?"),
        ("zzzzzz=0.5", "--fail-under zzzzzz=0.5: no such measure; choose one of "),
        ("coverage", "--fail-under coverage: should be a measure and a number, as in concept_f1=0.8"),
        ("coverage<0.5", "--fail-under coverage<0.5: should be a measure and a number"),
        ("", '--fail-under "": should be a measure and a number'),
        ("coverage=0.5,,f1=0.3", '--fail-under "": should be a measure and a number'),
        ("coverage=half", "--fail-under coverage=half: half is no number; give one, as in coverage=0.8"),
        ("coverage=nan", "--fail-under coverage=nan: nan is no number"),
        ("coverage=inf", "--fail-under coverage=inf: inf is no number"),
        ("coverage=80", "--fail-under coverage=80: coverage is a share, from 0 to 1; did you mean coverage=0.8?"),
        ("coverage=-1", "--fail-under coverage=-1: coverage is a share, from 0 to 1; give a number between 0 and 1"),
        ("kid=0.05", "--fail-under kid=0.05: of kid lower is better; did you mean --fail-over kid=0.05?"),
        ("coverage=0.5,coverage=0.6", "--fail-under coverage=0.6: coverage is given twice; give it once"),
        ("kid=\x1b[31m" + "9" * 200, "--fail-under kid="),
    ],
)
def test_what_nobody_can_mean_is_told_with_its_remedy(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        thresholds_of(given(fail_under=[text]))
    (line,) = caught.value.problems
    assert line.startswith(told)
    assert len(line) < 300


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        thresholds_of(given(fail_under=["kdi=1", "kid=1"], fail_over=["coverage=0.5"]))
    assert [line.partition(":")[0] for line in caught.value.problems] == [
        "--fail-under kdi=1",
        "--fail-under kid=1",
        "--fail-over coverage=0.5",
    ]
    assert caught.value.problems[-1].endswith("of coverage higher is better; did you mean --fail-under coverage=0.5?")


@pytest.mark.parametrize("name", measures())
def test_every_measure_can_be_asked_for_in_its_direction(name: str) -> None:
    better = measures()[name].better
    for flag, allowed in (("fail_under", better != "lower"), ("fail_over", better != "higher")):
        if allowed:
            assert thresholds_of(given(**{flag: [f"{name}=0.5"]})) == (Threshold(name, 0.5, flag == "fail_under"),)
        else:
            with pytest.raises(ConfigError, match="did you mean"):
                thresholds_of(given(**{flag: [f"{name}=0.5"]}))


@pytest.mark.parametrize(
    ("name", "under", "found", "told"),
    [
        ("coverage", True, value(0.71, 0.6, 0.8), "coverage is {0.71} ({0.6} to {0.8}), under 0.8"),
        ("coverage", True, value(0.8), None),
        ("coverage", True, value(0.9), None),
        ("coverage", False, value(0.8), None),
        ("coverage", False, value(0.81), "coverage is {0.81}, over 0.8"),
        ("coverage", True, value(0.79999, 0.7, 0.9), "coverage is 0.79999 (0.70000 to 0.90000), under 0.8"),
        ("coverage", True, value(NONE), "coverage is no number"),
        ("coverage", True, Refused("too few pictures; give --seeds 4"), "coverage cannot be told: too few pictures; "),
        ("coverage", False, None, "coverage was not measured"),
    ],
)
def test_what_is_not_so_is_one_line(name: str, under: bool, found: Any, told: str | None) -> None:
    lines = failed([Threshold(name, 0.8, under)], {} if found is None else {name: found})
    if told is None:
        assert lines == ()
        return
    for number in (0.71, 0.81, 0.6, 0.8):
        told = told.replace(f"{{{number}}}", f"{number:.{measures()[name].digits}f}")
    (line,) = lines
    assert line.startswith(told)


def test_each_that_failed_is_told_in_their_order() -> None:
    asked = thresholds_of(given(fail_under=["recall=0.5,coverage=0.5"], fail_over=["kid=0.1"]))
    lines = failed(asked, {"kid": value(0.2), "recall": value(0.4), "coverage": value(0.6)})
    assert [line.split()[0] for line in lines] == ["recall", "kid"]
