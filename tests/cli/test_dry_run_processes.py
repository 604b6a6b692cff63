"""A dry run as a real process: what it shows, as JSON too, and that nothing of it is left whatever ends it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests import pictures
from tests.cli.test_processes import started

ESCAPE = "\x1b]0;gone\x07"


@pytest.fixture
def words(tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A training on a data set of a hostile name and hostile captions, in a folder that holds nothing else."""
    monkeypatch.chdir(tmp_path)
    data = pictures.folder(tmp_path / f"a{ESCAPE}; rm -rf x", 4)
    (data / "0.txt").write_text("red, red, \u202eneht")
    told = ["train-lora", data.name, "--model", str(tiny_models["sd1"]), "--dry-run", "--network.rank", "2"]
    return [*told, "--trigger", "$(x)"]


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_would_be_trained_is_shown_on_standard_output(words: list[str], tmp_path: Path) -> None:
    before = files(tmp_path)
    with started([*words, "--steps", "40", "--probe"], script=None) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    labels = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
    told = "model learns images captions steps samples checkpoint memory time disk cache writes try"
    assert labels == told.split()
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    assert "'$(x)'" in out, "the command that shows captions' problems is quoted"
    assert "40 of 1 image, 10 passes over the images" in out
    assert "at the most, measured" in out
    assert files(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [words[1]]


def test_as_json_the_plan_is_one_line(words: list[str], tmp_path: Path) -> None:
    with started([*words, "--json"], script=None) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    (told,) = [line for line in lines if line["report"] == "planned"]
    assert told == lines[-1]
    assert told["steps"] == 600
    assert (told["probed"], told["seconds"]) == (None, None)
    assert [group["part"] for group in told["groups"]] == ["unet"]
    assert told["disk"]["lora"] > 0
    assert not any(line["report"] == "step" for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == [words[1]]


def test_a_signal_while_it_probes_leaves_nothing(words: list[str], tmp_path: Path) -> None:
    slow = ["--accumulate", "2000", "--json", "--probe"]
    with started([*words, *slow, "--samples.off", "--batch-size", "4"], script=None) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("phase") == "probing steps":
                break
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == [words[1]]
