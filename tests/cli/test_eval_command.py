"""`sdtune eval` is a command, and the first word of another one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sdtune
from sdtune.cli.app import main
from sdtune.cli.failures import leave
from sdtune.config import Evaluate, EvaluateCompare
from tests.cli.test_help import completed, shown


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings that reach each of the two works."""
    told: dict[str, Any] = {}
    for name in ("evaluate", "evaluate_compare"):

        def work(config: Any, name: str = name) -> Iterator[Any]:
            told[name] = config
            return iter(())

        module = ModuleType(f"sdtune.core.{name}")
        setattr(module, name, work)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("sdtune.cli.commands.follow", lambda work, _: list(work))
    return told


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What a command that is wrongly used says."""
    assert main(list(words)) == 2
    return capsys.readouterr().err.splitlines()


def test_one_word_and_two(told: dict[str, Any]) -> None:
    assert main(["eval", "runs/cats-1", "cats.safetensors", "--strengths", "0.5,0.8", "--strengths", "1.5"]) == 0
    assert told.pop("evaluate") == Evaluate(subjects=("runs/cats-1", "cats.safetensors"), strengths=(0.5, 0.8, 1.5))
    assert told == {}
    assert main(["eval", "compare", "runs/a:0.8", "b", "--twin", "c", "--twin", "d"]) == 0
    assert told.pop("evaluate_compare") == EvaluateCompare(first="runs/a:0.8", second="b", twins=("c", "d"))
    assert told == {}
    assert main(["eval", "./compare", "--fail-under", "kid=1", "--fail-under", "f1=1,recall=1"]) == 0
    assert (told["evaluate"].subjects, told["evaluate"].fail_under) == (("./compare",), ("kid=1", "f1=1", "recall=1"))


def test_the_face_of_the_library(told: dict[str, Any]) -> None:
    list(sdtune.evaluate(sdtune.Evaluate(subjects=("a",))))
    list(sdtune.evaluate_compare(sdtune.EvaluateCompare(first="a", second="b")))
    assert list(told) == ["evaluate", "evaluate_compare"]


def test_what_is_meant_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("evaluate", "evaluation", "evla"):
        assert lines(capsys, word, "x") == [f"sdtune: {word}: no such command; did you mean sdtune eval?"]
    assert lines(capsys, "compare", "a") == ["sdtune: compare: no such command; did you mean sdtune eval compare?"]
    (line,) = lines(capsys, "eval")
    assert line.startswith("sdtune: RUN|LORA: not given; run folders, ")
    (line, second) = lines(capsys, "eval", "compare")
    assert line.startswith("sdtune: A[:STRENGTH]: not given; ")
    assert second.endswith("as in: sdtune eval compare runs/cats-1 runs/cats-2")
    (line,) = lines(capsys, "eval", "--seeds", "3", "compare", "a", "b")
    assert "sdtune eval compare A B compares two, and a folder of that name is ./compare" in line
    assert lines(capsys, "eval", "a", " ") == [
        "sdtune: subjects: should be run folders or LoRA files, none of them empty; it was ['a', ' ']"
    ]
    assert lines(capsys, "eval", "a", "--strength", "3") == [
        "sdtune: --strength: no such option of sdtune eval; did you mean --strengths?"
    ]
    (line,) = lines(capsys, "eval", "compare", "a", "b", "--strength", "3")
    assert line.endswith("a strength stands behind its LoRA: cats.safetensors:0.8")


def test_a_comma_for_a_point_is_told_before_anything_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    for given, meant in (("0,8", "; did you mean 0.8, with a point?"), ("0,75", "; did you mean 0.75, with a point?")):
        (line,) = lines(capsys, "eval", "a", "--strengths", given)
        assert f"is far over what LoRAs are used at{meant}" in line
    (line,) = lines(capsys, "eval", "a", "--strengths", "2.5")
    assert "should be at most 2, and 2.5 is far over" in line
    assert "did you mean" not in line


def test_too_little_memory_is_told_with_what_is_smaller(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(MemoryError(), ["eval", "a"]) == 1
    assert "use --batch-size 1, or close other programs" in capsys.readouterr().err


def test_help_leads_to_the_other_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["--help-all"]):
        out = " ".join(shown(capsys, "eval", *words).split())
        assert "sdtune eval compare --help Tell which of two LoRAs is better, measure by measure." in out
        assert "Also:" not in shown(capsys, "eval", "compare", *words)
    out = " ".join(shown(capsys, "eval", "--help").split())
    assert out.index("--fail-under") < out.index("--fail-over") < out.index("--force")
    assert "--" not in out[out.index("--fail-under") + 2 : out.index("--fail-over")]
    assert "--strengths X,X... Strengths at which each is drawn; the base model, 0, always is. [0.5,0.8,1]" in out


def test_a_shell_completes_the_word_where_no_file_begins_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert completed("sdtune eval co") == ["compare"]
    (tmp_path / "cosy").mkdir()
    assert completed("sdtune eval co") == []
