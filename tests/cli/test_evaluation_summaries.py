"""What an evaluation says at its end: the recommendation first, and figures on lines that a terminal holds."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from sdtune.cli.console import JsonLines, Terminal
from sdtune.cli.evaluation_summaries import ROWS, compared, cut_in_the_middle, evaluated
from sdtune.core.evaluation_reports import Compared, Difference, Evaluated, Figure, Rated

COLUMNS = (
    ("concept_f1", "concept F1", 2, "higher"),
    ("kid", "KID", 3, "lower"),
    ("similarity", "similarity", 3, "none"),
    ("vendi", "Vendi", 1, "higher"),
)
UNKNOWN = math.nan
STEPS = (0.5, 0.8, 1.0)


def figures(*, interval: bool = True) -> dict[str, Figure]:
    if not interval:
        return {name: Figure(0.5, UNKNOWN, UNKNOWN) for name, *_ in COLUMNS}
    return {name: Figure(0.5, 0.4, 0.6) for name, *_ in COLUMNS} | {"concept_f1": Figure(0.9, 0.6, 1.0)}


def report(checkpoints: int = 1, *, interval: bool = True, best: int = 1, **more: Any) -> Evaluated:
    rows = [Rated("base", 0.0, figures(interval=interval), 0, recommended=False)]
    for number in range(1, checkpoints + 1):
        rows += [
            Rated(f"step {number}00", one, figures(interval=interval), 0, recommended=(number, one) == (best, 0.8))
            for one in STEPS
        ]
    made = Evaluated(
        sentence="Use step 100 at strength 0.8: it is good.",
        alarms=(),
        encoder="CLIP of mini",
        drawings=30,
        references=1,
        columns=COLUMNS,
        rows=tuple(rows),
        page=Path("eval/report.html"),
        record=Path("eval/report.json"),
        failed=(),
        written=None,
        try_next="sdtune sample --lora cats.safetensors:0.8",
    )
    return dataclasses.replace(made, **more)


def difference(number: int, winner: str = "", better: str = "lower", floor: float | None = None) -> Difference:
    first, second = Figure(0.1, 0.0, 0.2), Figure(0.3, 0.2, 0.4)
    return Difference(
        f"m{number}", f"measure {number}", 3, better, first, second, Figure(-0.2, -0.3, -0.1), floor, winner
    )


COMPARED = Compared(
    sentence="A is better: it is nearer to the references.",
    first="cats-1",
    second="cats-2 at 0.8",
    encoder="CLIP of mini",
    drawings=30,
    references=6,
    differences=(
        *(difference(number, "A", floor=0.05) for number in range(2)),
        difference(2, "B"),
        *(difference(number) for number in range(3, 11)),
        difference(11, better="none"),
    ),
    alarms=("B: 1 drawing is a near-copy of img_07.png",),
    page=Path("eval/report.html"),
    record=Path("eval/report.json"),
    failed=(),
)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def test_one_lora_at_three_strengths() -> None:
    assert list(evaluated(report())) == [
        "result      Use step 100 at strength 0.8: it is good.",
        "",
        "              strength         concept F1           KID    similarity     Vendi",
        "  base model         -  0.90 (0.60..1.00)  0.500 ±0.100  0.500 ±0.100  0.5 ±0.1",
        "  step 100         0.5  0.90 (0.60..1.00)  0.500 ±0.100  0.500 ±0.100  0.5 ±0.1",
        "> step 100         0.8  0.90 (0.60..1.00)  0.500 ±0.100  0.500 ±0.100  0.5 ±0.1",
        "                     1  0.90 (0.60..1.00)  0.500 ±0.100  0.500 ±0.100  0.5 ±0.1",
        "> is recommended; ± and (from..to): intervals of 95 %",
        "lower is better: KID; higher is better: concept F1, Vendi; the report says what each means",
        "30 drawings of each, beside 1 reference, as CLIP of mini sees them",
        "",
        "report      eval/report.html",
        "try next    sdtune sample --lora cats.safetensors:0.8",
    ]


def test_without_intervals_and_without_a_recommendation_no_sign_is_explained() -> None:
    told = "\n".join(evaluated(report(interval=False, best=0, references=0)))
    assert "  step 100         0.5        0.50  0.500       0.500    0.5\n" in told
    assert not {">", "±", "(", "reference,"} & set(told.replace("\n", " ").split(" "))
    assert "± and" not in told
    assert "is recommended" not in told
    assert "30 drawings of each, as CLIP of mini sees them" in told


def test_what_is_not_known_is_a_dash_and_a_column_that_none_has_is_left_out() -> None:
    short = {"concept_f1": Figure(UNKNOWN, UNKNOWN, UNKNOWN)}
    base, *rest = report().rows
    rows = (dataclasses.replace(base, figures=short), *(dataclasses.replace(one, figures={}) for one in rest))
    told = list(evaluated(report(rows=rows)))
    assert told[2:4] == ["              strength  concept F1", "  base model         -           -"]


def test_alarms_failures_and_what_was_written() -> None:
    rows = tuple(dataclasses.replace(row, copies=number) for number, row in enumerate(report().rows))
    alarms = tuple(f"{number} drawings are near-copies" for number in range(9))
    told = list(evaluated(report(alarms=alarms, rows=rows, failed=("kid is 3, over 2",) * 2, written=Path("a"))))
    assert told[1:8] == [*(f"warning     {one}" for one in alarms[:6]), "            and 3 more on the page"]
    assert [line.split()[-1] for line in told if "±0.1" in line] == ["0", "1", "2", "3"]
    assert told[9].split()[-1] == "copies"
    measured = (("copies", "near-copies", 2, "lower"), *COLUMNS)
    rows = tuple(dataclasses.replace(row, figures=row.figures | {"copies": Figure(0.1, 0.0, 0.2)}) for row in rows)
    assert "  copies" not in "\n".join(evaluated(report(rows=rows, columns=measured)))
    assert "failed      kid is 3, over 2" in told
    assert "            kid is 3, over 2" in told
    assert "written     the strength, into the metadata of a" in told


def test_of_many_checkpoints_those_at_the_best_strength_are_shown() -> None:
    told = list(evaluated(report(5)))
    assert sum("±0.100" in line for line in told) == 16
    assert not any("more on the page" in line for line in told)
    for checkpoints, best, left in ((20, 14, 38), (400, 14, 1201 - ROWS), (400, 0, 1201 - ROWS)):
        told = list(evaluated(report(checkpoints, best=best)))
        rows = [line for line in told if "±0.100" in line]
        assert len(rows) == 1201 - left if checkpoints == 400 else 23
        assert f"and {left} more on the page" in told
        assert rows[0].startswith("  base model ")
        assert sum(line.startswith("> step 1400 ") for line in rows) == (best > 0)


@pytest.mark.parametrize("columns", [42, 60, 80, 100, 200])
def test_lines_fit_into_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    sentence = "Use step 100 at strength 0.8: it is nearest to the references and brings the concept. " * 3
    rows = tuple(dataclasses.replace(row, name="cats " * 20 + "step 9") for row in report().rows[1:])
    for made in (report(sentence=sentence), report(sentence=sentence, alarms=(sentence,), failed=(sentence,))):
        told = list(evaluated(made))
        assert all(len(line) <= min(columns, 100) for line in told if not line.startswith("try next"))
        assert "concept F1" in "".join(told)
    assert max(map(len, evaluated(report(rows=rows)))) <= max(columns, 70)
    if columns >= 60:
        assert max(map(len, compared(COMPARED))) <= columns


def test_two_loras_by_twelve_measures() -> None:
    told = list(compared(COMPARED))
    assert told[:8] == [
        "result      A is better: it is nearer to the references.",
        "warning     B: 1 drawing is a near-copy of img_07.png",
        "A           cats-1",
        "B           cats-2 at 0.8",
        "",
        "                A      B          A - B  noise   better",
        "measure 0   0.100  0.300  -0.200 ±0.100  0.050        A",
        "measure 1   0.100  0.300  -0.200 ±0.100  0.050        A",
    ]
    assert told[8] == "measure 2   0.100  0.300  -0.200 ±0.100      -        B"
    assert told[17] == "measure 11  0.100  0.300  -0.200 ±0.100      -        -"
    assert [line.split()[-1] for line in told[6:18]] == ["A", "A", "B", *["neither"] * 8, "-"]
    assert told[18].startswith("± and (from..to): intervals")
    assert any(line.startswith("noise: ") for line in told)
    assert told[-1] == "report      eval/report.html"
    alone = dataclasses.replace(COMPARED, differences=COMPARED.differences[2:3])
    assert not any("noise" in line for line in compared(alone))


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    none = dataclasses.replace(difference(0), difference=Figure(-0.0001, UNKNOWN, UNKNOWN))
    assert list(compared(dataclasses.replace(COMPARED, differences=(none,))))[6].split()[-2:] == ["0.000", "neither"]


def test_names_are_cut_in_the_middle() -> None:
    assert cut_in_the_middle("cats-1 step 300", 15) == "cats-1 step 300"
    assert cut_in_the_middle("cats-1 step 300", 14) == "cats-...ep 300"


@pytest.mark.parametrize("made", [report(), COMPARED], ids=["evaluated", "compared"])
def test_results_stand_on_standard_output_and_in_json(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().show(made)
    out, err = capsys.readouterr()
    assert out.splitlines() == list((evaluated if isinstance(made, Evaluated) else compared)(made))
    assert err == ""
    JsonLines().show(made)
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert err == ""
    assert set(told) == {field.name for field in dataclasses.fields(made)} | {"report"}


def test_what_is_no_number_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    JsonLines().show(report(interval=False))
    told = json.loads(capsys.readouterr().out)
    assert told["rows"][0]["figures"]["kid"] == {"estimate": 0.5, "low": None, "high": None}


def test_nothing_that_a_terminal_obeys_gets_through(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[31m\x9b2J\u202e\r\n"
    row = dataclasses.replace(report().rows[0], name=hostile)
    Terminal().show(
        report(
            sentence=hostile,
            alarms=(hostile,),
            encoder=hostile,
            rows=(row,),
            page=Path(hostile),
            failed=(hostile,),
            written=Path(hostile),
            try_next=hostile,
        )
    )
    Terminal().show(dataclasses.replace(COMPARED, sentence=hostile, first=hostile, second=hostile, alarms=(hostile,)))
    assert all(line.isprintable() for line in capsys.readouterr().out.split("\n"))
