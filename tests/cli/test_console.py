"""How the reports of a training look: in a terminal, in a log and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdtune.cli.following import follow
from sdtune.cli.summaries import per_cent, trained, validated
from sdtune.core.reports import (
    Measure,
    Progress,
    Pulse,
    Report,
    Resumed,
    Rewound,
    Step,
    Trained,
    Updated,
    Validated,
    Warned,
)
from tests.cli import terminal

RUN = Path("runs/cats-1")


def measured(relative: float) -> Measure:
    return Measure(relative / 10, 0.001, relative, 0.012, (0.1,) * 4, 8)


def checked(step: int, held_out: float, best: int) -> Validated:
    return Validated(step, 800, measured(held_out), measured(0.8), best, 2.34)


def step(number: int, loss: float | None = 0.1) -> Step:
    return Step(number, 800, loss, 0.0987, 1e-4, 13.2, 2.0, 11.25)


UPDATE = (Updated("down_blocks.1", 0.0012, 8, 0), Updated("up_blocks.1", 0.0093, 8, 1))
END = Trained(
    RUN / "cats.safetensors",
    RUN / "samples.png",
    1234.0,
    "sdtune sample --lora runs/cats-1",
    best=RUN / "cats-best.safetensors",
    verdict="best at step 702; since 704 more steps will copy",
    update=UPDATE,
    plot=RUN / "progress.png",
)


def training() -> Iterator[Report]:
    """A training that was resumed, in the midst of which it is validated and goes back."""
    yield Resumed(RUN, 700, 800, ("optimizer.lr: 1e-4, was 2e-4",))
    yield checked(0, 1.0, 0)
    for number in range(701, 704):
        yield step(number, None if number == 702 else 0.1)
        yield Pulse()
        yield Progress("validating", 1, 2)
        yield Progress("validating", 2, 2)
        yield checked(number, 0.86 + (number - 702) ** 2 / 100, min(number, 702))
    yield Warned("the loss of step 704 was no number")
    yield Rewound(702, "three steps in a row had no finite loss")
    yield step(703)
    yield END


def test_a_log_has_a_line_for_each_that_matters(capsys: pytest.CaptureFixture[str]) -> None:
    follow((report for report in training()), as_json=False)
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "going on with runs/cats-1 after step 700 of 800",
        "changed: optimizer.lr: 1e-4, was 2e-4",
        "held out: 8 images, loss 0.1000 with the base (2.3 s)",
        "training 701/800  loss 0.0987  13.2 images/s  11 GB",
        "validating 1/2",
        "validating 2/2",
        "step 701: held out -13.0 %, trained -20.0 %; the best so far (2.3 s)",
        "step 702: held out -14.0 %, trained -20.0 %; the best so far (2.3 s)",
        "step 703: held out -13.0 %, trained -20.0 %; best at step 702 (2.3 s)",
        "warning: the loss of step 704 was no number",
        "back to step 702: three steps in a row had no finite loss",
        "trained in 20 min 34 s",
    ]
    assert out.splitlines() == [
        "LoRA      runs/cats-1/cats.safetensors",
        "best      runs/cats-1/cats-best.safetensors",
        "pictures  runs/cats-1/samples.png",
        "plot      runs/cats-1/progress.png",
        "verdict   best at step 702; since 704 more steps will copy",
        "changed   up_blocks.1 by 0.93 % of its weights, the most; down_blocks.1 by 0.12 %; nothing in 1 layer of 16",
        "try next  sdtune sample --lora runs/cats-1",
    ]


def test_json_has_every_report_but_pulses(capsys: pytest.CaptureFixture[str]) -> None:
    follow((report for report in training()), as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["report"] for line in lines] == [
        type(one).__name__.lower() for one in training() if not isinstance(one, Pulse)
    ]
    assert [line["loss"] for line in lines if line["report"] == "step"] == [0.1, None, 0.1, 0.1]
    (check, *_) = [line for line in lines if line["report"] == "validated"]
    assert check["held_out"]["levels"] == [0.1] * 4
    assert [one["block"] for one in lines[-1]["update"]] == ["down_blocks.1", "up_blocks.1"]


def test_the_end_tells_only_what_there_is() -> None:
    bare = Trained(RUN / "cats.safetensors", None, 1.0, "sdtune sample", best=RUN / "cats.safetensors")
    assert list(trained(bare)) == ["LoRA      runs/cats-1/cats.safetensors", "try next  sdtune sample"]
    one = Trained(RUN / "cats.safetensors", None, 1.0, "sdtune sample", update=UPDATE[:1])
    assert list(trained(one))[1] == "changed   down_blocks.1 by 0.12 % of its weights"


@pytest.mark.parametrize(("relative", "told"), [(1.0, "+0 %"), (0.9999, "+0 %"), (0.856, "-14 %"), (1.5, "+50 %")])
def test_nothing_is_less_than_nothing(relative: float, told: str) -> None:
    assert per_cent(relative) == told
    assert "-0.0" not in validated(checked(1, 0.99999, 1))


SCRIPT = """
import sys, time
from sdtune.cli.following import follow
from tests.cli.test_console import training
def work():
    for report in training():
        yield report
        time.sleep(0.15)  # a bar is drawn ten times a second
follow(work(), False)
"""


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_progress_line_fits_the_terminal(columns: int) -> None:
    written, drawn = terminal.shown(columns, SCRIPT)
    bars = [line for line in drawn if line.startswith("training") and "/800" in line]
    assert bars
    assert max(map(len, bars)) <= columns
    assert all("loss 0.0987" in line for line in bars if "702/800" in line or "703/800" in line)
    if columns >= 80:
        assert any("held out -13 %  13.2 images/s  11 GB" in line for line in bars)
    if columns >= 120:
        assert any("━━━━━━" in line for line in bars)
        assert sum(line.startswith("step 70") for line in drawn) == 3  # each of them
    assert written.count(b"\x1b[?25l") == written.count(b"\x1b[?25h") >= 4  # a bar at a time, and the cursor is back


SENTENCES = """
from sdtune.cli.following import follow
from sdtune.core.reports import Note, Warned
def work():
    yield Note("3 LoRAs and strengths and the base model (mini), 9 pictures each (39 in all), as CLIP of mini sees")
    yield Warned("a place that is named is whole: " + "runs/" * 20 + " and --prompts-each is, too")
follow(work(), False)
"""


def test_sentences_are_folded_between_words_in_a_narrow_terminal_alone() -> None:
    _, narrow = terminal.shown(40, SENTENCES)
    assert narrow[:3] == [
        "3 LoRAs and strengths and the base model",
        "(mini), 9 pictures each (39 in all), as",
        "CLIP of mini sees",
    ]
    assert "runs/" * 20 in narrow
    _, wide = terminal.shown(120, SENTENCES)
    assert wide[0].endswith("as CLIP of mini sees")
