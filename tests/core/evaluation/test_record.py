"""report.json: everything that was found, as plain JSON without a trace of the machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from sdtune.core.evaluation.outcome import Outcome
from sdtune.core.evaluation.record import write_comparison_record, write_record
from tests.core.evaluation import outcomes


def written(found: Outcome, place: Path) -> dict[str, Any]:
    out = place / "run" / "eval" / "report.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_record(found, out)
    return strict(out)


def strict(path: Path) -> dict[str, Any]:
    """JSON as every program reads it: no NaN, and ASCII."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    told: dict[str, Any] = json.loads(path.read_bytes().decode("ascii"), parse_constant=refuse)
    return told


def test_everything_is_there(tmp_path: Path) -> None:
    told = written(outcomes.outcome(tmp_path), tmp_path)
    assert told["format"] == 1
    assert told["recommendation"] == {
        "lora": "../cats-0-900.safetensors",
        "run": "cats-1",
        "step": 900,
        "strength": 1.0,
    }
    assert [one["name"] for one in told["cells"][:2]] == ["base", "step 300 at strength 0.5"]
    best = told["cells"][-1]
    assert best["values"]["concept_f1"] == {
        "estimate": pytest.approx(0.838, abs=1e-3),
        "low": pytest.approx(0.728, abs=1e-3),
        "high": pytest.approx(0.948, abs=1e-3),
        "n": 20,
        "references": 12,
    }
    assert best["values"]["kid"]["low"] is None
    assert best["changes"]["concept_f1"]["estimate"] == pytest.approx(0.438, abs=1e-3)
    assert best["refused"]["fid"].startswith("12 references are too few")
    assert best["copies"][3] == {
        "drawing": "0.png",
        "trained": "img_03.png",
        "prompt": "a turtle, xyz style in-distribution",
        "seed": 0,
        "likeness": 0.973,
        "usual": 0.91,
        "own_prompt": False,
        "asked": True,
        "astray": True,
    }
    assert told["prompts"][0]["reference"] == "held-0.png"
    assert told["prompts"][5]["trained"] == "img_01.png"
    assert told["seeds"] == [0]
    assert told["measures"]["concept_f1"]["noise"] == 0.05
    assert told["measures"]["kid"]["noise"] is None
    assert told["losses"]["cats-1"][0]["step"] == 100
    assert list(told)[-1] == "cost"


def test_pictures_are_found_from_the_report(tmp_path: Path) -> None:
    told = written(outcomes.outcome(tmp_path / "run" / "eval"), tmp_path)
    for one in told["cells"]:
        assert all((tmp_path / "run" / "eval" / picture).is_file() for picture in one["pictures"])
    assert told["cells"][-1]["copies"][0]["drawing"] == "pictures/9.png"


def test_nothing_tells_where_the_machine_keeps_things(tmp_path: Path) -> None:
    for subjects in (1, 2):
        written(outcomes.outcome(tmp_path, subjects=subjects), tmp_path)
        assert str(tmp_path) not in (tmp_path / "run" / "eval" / "report.json").read_text()
    write_comparison_record(outcomes.comparison(tmp_path), tmp_path / "report.json")
    assert str(tmp_path) not in (tmp_path / "report.json").read_text()


def test_found_again_it_differs_in_its_cost_alone(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path)
    report = tmp_path / "run" / "eval" / "report.json"
    written(found, tmp_path)
    once = report.read_bytes()
    written(found, tmp_path)
    assert report.read_bytes() == once
    written(outcomes.cheaper(found), tmp_path)
    again = report.read_bytes()
    assert again != once
    assert again.split(b'"cost"')[0] == once.split(b'"cost"')[0]


def test_figures_of_numpy_and_hostile_names_are_plain(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path, hostile='"\\ud800\x00</script>\n')
    details = {"classes": {"confusion": numpy.eye(2, dtype=numpy.int64), "share": numpy.float64("nan")}}
    told = written(replace(found, cells=(replace(found.cells[0], details=details), *found.cells[1:])), tmp_path)
    assert told["cells"][0]["details"]["classes"] == {"confusion": [[1, 0], [0, 1]], "share": None}
    assert told["title"].startswith('"\\ud800\x00</script>\n')
    assert told["settings"]["reference"] == "held"


def test_none_may_be_recommended(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path)
    told = written(replace(found, ranking=(replace(found.ranking[0], cell=None),)), tmp_path)
    assert told["recommendation"] is None
    assert told["ranking"][0]["recommendation"] is None


def test_a_comparison_is_recorded(tmp_path: Path) -> None:
    write_comparison_record(outcomes.comparison(tmp_path), tmp_path / "report.json")
    told = strict(tmp_path / "report.json")
    assert (told["A"]["run"], told["B"]["run"]) == ("cats-1", "cats-2")
    assert told["differences"][0] == {
        "name": "concept_f1",
        "A": {"estimate": 0.8, "low": 0.7, "high": 0.9},
        "B": {"estimate": 0.6, "low": 0.5, "high": 0.7},
        "difference": {"estimate": 0.2, "low": 0.1, "high": 0.3},
        "winner": "A",
    }
    assert told["differences"][2]["difference"]["low"] is None
    assert told["B"]["copies"][0]["trained"] == "img_01.png"
    assert told["refused"] == {"fid": "too few"}
    assert list(told)[-1] == "cost"
