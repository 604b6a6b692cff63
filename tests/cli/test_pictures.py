"""How a drawing looks: one bar for all pictures, and each path once, where it belongs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdtune.cli import console
from sdtune.cli.following import follow
from sdtune.core.reports import Drawing, Drawn, Progress, Report, There
from tests.cli import terminal

LONG = f"samples/{'a-very-long-name-' * 8}.png"


def drawing(pictures: int, *, together: int = 1, steps: int = 6, there: int = 0) -> Iterator[Report]:
    """A drawing, of which some pictures are there already."""
    for number in range(there):
        yield There(Path(f"samples/old-{number}.png"), "a cat", number)
    yield Progress("prompts", 1, 1)
    for first in range(1, pictures + 1, together):
        these = range(first, min(first + together, pictures + 1))
        for step in range(1, steps + 1):
            yield Drawing(first, pictures, len(these), step, steps)
        for number in these:
            yield Drawn(Path(f"samples/{number}.png"), "a cat", number, 0.5)


def test_a_log_has_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    follow((report for report in drawing(100, together=4)), as_json=False)
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"samples/{number}.png" for number in range(1, 101)]
    assert err.splitlines() == [
        "prompts 1/1",
        "drawing 1-4 of 100, step 1/6",
        "drawing 97-100 of 100, step 6/6",
    ]


def test_a_log_is_told_of_steps_as_time_goes_by(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    follow((report for report in drawing(1)), as_json=False)
    assert capsys.readouterr().err.splitlines()[1:] == [f"drawing, step {step}/6" for step in range(1, 7)]


def test_a_picture_that_is_there_stands_on_standard_output_as_one_that_is_drawn(
    capsys: pytest.CaptureFixture[str],
) -> None:
    follow((report for report in drawing(1, there=5)), as_json=False)
    out, err = capsys.readouterr()
    assert out.splitlines() == [*(f"samples/old-{number}.png" for number in range(5)), "samples/1.png"]
    assert err.splitlines()[0] == "prompts 1/1"


@pytest.mark.parametrize(("seconds", "steps"), [(float("inf"), 1), (0.0, 1200)])
def test_json_has_every_picture_and_steps_now_and_then(
    seconds: float, steps: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "JSON_SECONDS", seconds)
    follow((report for report in drawing(200, there=5)), as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    of = [line["report"] for line in lines]
    assert (of.count("drawn"), of.count("there"), of.count("drawing")) == (200, 5, steps)
    first = {"report": "drawn", "path": "samples/1.png", "prompt": "a cat", "seed": 1, "seconds": 0.5}
    assert lines[of.index("drawn")] == first


SCRIPT = """
import sys, time
from pathlib import Path
from sdtune.cli.following import follow
from sdtune.core.reports import Drawn
from tests.cli.test_pictures import LONG, drawing
def work(pictures):
    for report in drawing(pictures):
        yield report
        time.sleep(0.11)  # a bar is drawn ten times a second
    yield Drawn(Path(LONG), "a cat", 0, 0.5)
follow(work(int(sys.argv[1])), "--json" in sys.argv)
"""


def shown(columns: int, *words: str, out: Path | None = None) -> tuple[bytes, list[str]]:
    """What comes of a drawing to a terminal of so many columns, and its lines without colours."""
    return terminal.shown(columns, SCRIPT, *words, out=out)


@pytest.mark.parametrize("columns", [40, 80])
def test_one_bar_stays_under_the_paths(columns: int) -> None:
    written, lines = shown(columns, "3")
    bars = [line for line in lines if re.match("drawing . of 3", line)]
    assert {line[:14] for line in bars} == {f"drawing {number} of 3" for number in (1, 2, 3)}
    assert max(map(len, bars)) <= columns
    assert all(re.search(r"step  ?\d+/6", line) for line in bars[1:])
    assert [line for line in lines if line.startswith("samples/")] == [*(f"samples/{n}.png" for n in (1, 2, 3)), LONG]
    assert written.count(b"\x1b[?25l") == written.count(b"\x1b[?25h") == 2  # one for prompts, one for all pictures
    if columns == 80:
        assert "━━━" in bars[-1]


def test_one_picture_needs_no_count() -> None:
    _, lines = shown(80, "1")
    assert any(re.match("drawing ━+.* step 5/6", line) for line in lines)
    assert not any(" of 1" in line for line in lines)


@pytest.mark.parametrize("words", [["2"], ["2", "--json"]])
def test_what_goes_to_a_file_goes_there_while_a_bar_is_up(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    _, lines = shown(80, *words, out=out)
    assert not [line for line in lines if "samples/" in line]
    told = out.read_text().splitlines()
    if "--json" in words:
        told = [line["path"] for line in map(json.loads, told) if line["report"] == "drawn"]
    assert told == ["samples/1.png", "samples/2.png", LONG]
