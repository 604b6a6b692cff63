"""The plot tells what the files tell, whatever state a killed run left them in."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdtune.core.plot import BLUE, GREEN, ORANGE, _figure, _steps, plot
from sdtune.core.reports import Measure, Step, Validated
from sdtune.errors import SdtuneError


def step(number: int, of: int = 100, loss: float | None = 0.1) -> Step:
    return Step(number, of, loss, 0.1, 1e-4, 3.0, number / 3, 1.2)


def validated(number: int, held_out: float, trained: float, best: int, of: int = 100) -> Validated:
    measures = [Measure(one / 10, 0.001, one, 0.01, (0.1,) * 4, 8) for one in (held_out, trained)]
    return Validated(number, of, measures[0], measures[1], best, 1.0)


def written(folder: Path, steps: list[Step], checks: list[Validated]) -> tuple[Path, Path, Path]:
    metrics, validations = folder / "metrics.jsonl", folder / "validation.jsonl"
    for path, reports in ((metrics, steps), (validations, checks)):
        path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in reports))  # type: ignore[call-overload]
    return metrics, validations, folder / "progress.png"


def colours(path: Path) -> set[str]:
    with Image.open(path) as image:
        return {
            "#{:02X}{:02X}{:02X}".format(*map(int, one))
            for one in np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
        }


def run_of(of: int) -> tuple[list[Step], list[Validated]]:
    steps = [step(number, of, None if number == 7 else 0.1 + number % 5 / 100) for number in range(1, of + 1)]
    checks = [
        validated(number, 1 - 0.2 * (number > 20), 1 - number / 200, 0 if number <= 20 else 30, of)
        for number in range(0, of + 1, 10)
    ]
    return steps, checks


def test_all_that_was_recorded_is_in_the_picture(tmp_path: Path) -> None:
    paths = written(tmp_path, *run_of(100))
    plot(*paths)
    with Image.open(paths[2]) as image:
        assert image.size == (1000, 700)
    assert {BLUE, ORANGE, GREEN} <= colours(paths[2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "progress.png", "validation.jsonl"]


def test_without_validation_there_are_losses_and_rates_alone(tmp_path: Path) -> None:
    paths = written(tmp_path, run_of(100)[0], [])
    paths[1].unlink()
    plot(*paths)
    assert ORANGE not in colours(paths[2])
    assert BLUE in colours(paths[2])


def test_the_lines_stand_where_the_figures_are(tmp_path: Path) -> None:
    steps, checks = run_of(100)
    metrics, _, _ = written(tmp_path, steps, checks)
    figure = _figure(_steps(metrics), [asdict(one) for one in checks])
    lines: dict[str, Any] = {line.get_label(): line for panel in figure.axes for line in panel.lines}
    assert np.allclose(lines["held out"].get_ydata(), [100 * (one.held_out.relative - 1) for one in checks])
    assert np.allclose(lines["trained"].get_ydata(), [100 * (one.trained.relative - 1) for one in checks])
    assert list(lines["held out"].get_xdata()) == [one.step for one in checks]
    assert [list(line.get_xdata()) for told, line in lines.items() if told.startswith("best: step 30, -20.0 %")] == [
        [30]
    ]
    assert list(lines["single steps"].get_xdata()) == [one.number for one in steps if one.loss is not None]
    assert math.isclose(max(lines["mean over 2 steps"].get_ydata()), 0.135)
    assert figure.axes[0].get_xlim() == (0, 100)


def test_steps_that_were_taken_again_count_as_they_were_taken_last(tmp_path: Path) -> None:
    steps = [step(number, loss=1.0) for number in range(1, 51)] + [step(number, loss=2.0) for number in range(41, 46)]
    metrics, _, _ = written(tmp_path, steps, [])
    told = _steps(metrics)
    assert list(told.numbers) == list(range(1, 46))
    assert list(told.losses) == [1.0] * 40 + [2.0] * 5


@pytest.mark.parametrize(
    "rubbish", ["{", '{"number": 3', "null", '{"number": "x", "of": 1, "loss": 1, "lr": 1}', "\x00\xff", "[" * 9999]
)
def test_half_written_lines_are_passed_over(tmp_path: Path, rubbish: str) -> None:
    paths = written(tmp_path, *run_of(40))
    for path in paths[:2]:
        path.write_text(path.read_text() + rubbish + "\n" + path.read_text().splitlines()[-1][:40], encoding="latin-1")
    plot(*paths)
    assert ORANGE in colours(paths[2])
    assert len(_steps(paths[0]).numbers) == 40


def test_a_spike_does_not_flatten_the_rest(tmp_path: Path) -> None:
    steps, _ = run_of(1000)
    metrics, _, _ = written(tmp_path, [*steps[:500], step(501, 1000, 1e6), *steps[501:]], [])
    assert _figure(_steps(metrics), []).axes[0].get_ylim()[1] < 1


def test_one_step_and_equal_losses_can_be_drawn(tmp_path: Path) -> None:
    paths = written(tmp_path, [step(1, 1, 0.0)], [validated(0, 1.0, 1.0, 0, 1)])
    plot(*paths)
    assert paths[2].stat().st_size > 0


def test_a_long_run_is_thinned(tmp_path: Path) -> None:
    line = json.dumps(asdict(step(1)))
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(
        "".join(line.replace('"number": 1', f'"number": {number}') + "\n" for number in range(1, 100_001))
    )
    told = _steps(metrics)
    assert 5_000 < len(told.numbers) <= 25_000
    assert told.numbers[-1] > 99_000
    figure = _figure(told, [])
    assert (
        max(len(line.get_xdata()) for panel in figure.axes[:1] for line in panel.lines if line.get_marker() == ".")
        <= 2_000
    )


def test_what_cannot_be_drawn_is_one_of_our_errors(tmp_path: Path) -> None:
    with pytest.raises(SdtuneError, match="holds no step yet"):
        plot(tmp_path / "metrics.jsonl", tmp_path / "validation.jsonl", tmp_path / "progress.png")
    paths = written(tmp_path, *run_of(10))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        plot(paths[0], paths[1], tmp_path / "file" / "progress.png")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    told = "from pathlib import Path\nfrom sdtune.core.plot import plot\nplot(*map(Path, __import__('sys').argv[1:]))"
    ran = subprocess.run(
        [sys.executable, "-c", told, *map(str, paths)],
        env={"PATH": "/nowhere", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "sdtune.errors.SdtuneError" in ran.stderr


def test_it_is_silent_where_no_folder_of_settings_can_be_written(tmp_path: Path) -> None:
    paths = written(tmp_path, *run_of(10))
    (tmp_path / "home").touch()  # a file, so that nobody can make folders in it
    told = (
        "from pathlib import Path\nfrom sdtune.cli.console import prepare_libraries\nprepare_libraries()\n"
        "import sys\nfrom sdtune.core.plot import plot\nplot(*map(Path, sys.argv[1:]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    ran = subprocess.run(
        [sys.executable, "-c", told, *map(str, paths)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout + ran.stderr == ""
    assert paths[2].is_file()
