"""Captioning in real processes: killed at any moment it loses nothing, and a second run does what is missing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sdtune.choices.captioners import Filename
from sdtune.config import Caption
from sdtune.core.caption import caption
from sdtune.core.reports import Captioned
from tests import pictures
from tests.cli.test_processes import started

IMAGES = 90


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures without captions."""
    (one,) = pictures.folder(tmp_path / "one", 1).glob("*.png")
    data = tmp_path / "data"
    data.mkdir()
    for number in range(IMAGES):
        (data / f"cat {'abcdefghij'[number % 10]} {'x' * (number // 10 + 1)}.png").write_bytes(one.read_bytes())
    return data


@pytest.mark.parametrize(
    ("number", "code", "to"),
    [
        (signal.SIGKILL, -9, "sidecar"),
        (signal.SIGKILL, -9, "metadata"),
        (signal.SIGINT, 130, "sidecar"),
        (signal.SIGTERM, 143, "metadata"),
    ],
)
def test_a_kill_loses_nothing_that_was_told(number: int, code: int, to: str, folder: Path) -> None:
    words = ["caption", str(folder), "--captioner", "filename", "--batch-size", "3", "--to", to, "--json"]
    told: dict[str, str] = {}
    with started(words, script=None) as process:
        assert process.stdout is not None
        for line in process.stdout:
            report = json.loads(line)
            if report["report"] == "captioned":
                told[Path(report["path"]).name] = report["captions"][0]
                if len(told) == 10:
                    process.send_signal(number)
        err = process.stderr.read() if process.stderr else ""
        assert process.wait(30) == code, err
    if number != signal.SIGKILL:
        assert err.endswith("sdtune: interrupted; what is written stays, and the same command does the rest\n")
    kept = captions(folder)
    assert told.items() <= kept.items()
    assert len(told) <= len(kept) < IMAGES
    assert all(caption == Path(name).stem for name, caption in kept.items())
    if number != signal.SIGKILL:
        assert not list(folder.glob(".*"))

    reports = list(caption(Caption(folder=folder, captioner=Filename(), to=to)))  # type: ignore[arg-type]
    assert sum(isinstance(report, Captioned) for report in reports) == IMAGES - len(kept)
    assert len(captions(folder)) == IMAGES


def captions(folder: Path) -> dict[str, str]:
    """{image: caption} of what is on disk."""
    metadata = folder / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()] if metadata.exists() else []
    listed = {row["file_name"]: row["text"] for row in rows}
    return listed | {f"{path.stem}.png": path.read_text().removesuffix("\n") for path in folder.glob("[!.]*.txt")}


def test_problems_are_told_with_an_exit_code_that_was_asked_for(tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs", 2)
    (data / "0.txt").unlink()
    words = [sys.executable, "-W", "error", "-m", "sdtune", "caption", str(data), "--lint"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 image has no caption (0.png)\n    describe them with sdtune caption")
    assert done.stderr == f"{data}: 1 problem in the captions of 2 images\n"
    strict = subprocess.run([*words, "--strict", "--json"], capture_output=True, text=True)
    assert strict.returncode == 2
    kinds = [json.loads(line)["report"] for line in strict.stdout.splitlines()]
    assert kinds == ["problem", "note", "error"]
