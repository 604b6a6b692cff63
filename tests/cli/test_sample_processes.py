"""A drawing that is ended from outside leaves whole pictures, and the same command goes on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from PIL import Image

from sdtune.core.reports import Drawn, There
from sdtune.core.sample import sample
from sdtune.sample_config import Sample
from tests.cli.test_processes import started


def test_ctrl_c_leaves_what_is_finished_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = ["sample", "--prompt", "a red apple", "--count", "8", "--steps", "4", "--out", str(tmp_path), "--json"]
    with started(words, script=None) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if json.loads(line)["report"] == "drawn":
                process.send_signal(signal.SIGINT)
                break
        _, told = process.communicate(timeout=120)
        assert process.returncode == 130
    last = told.splitlines()[-1]
    assert "interrupted" in last
    assert last.endswith("the same command goes on")
    left = sorted(tmp_path.iterdir())
    assert 1 <= len(left) < 8
    for path in left:
        with Image.open(path) as image:
            image.load()
    reports = list(sample(Sample(prompt=("a red apple",), count=8, steps=4, out=tmp_path)))
    assert [one.path for one in reports if isinstance(one, There)] == left
    assert [one.seed for one in reports if isinstance(one, Drawn)] == list(range(len(left), 8))


def test_a_reader_that_goes_ends_it_without_a_word_and_pictures_are_whole(tmp_path: Path) -> None:
    words = ["sample", "--prompt", "a red apple", "--count", "6", "--steps", "1", "--batch-size", "1"]
    with started([*words, "--out", str(tmp_path)], script=None) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline().strip()
        process.stdout.close()
        told = process.stderr.read()
        assert process.wait(120) == 141
    assert "sdtune:" not in told
    left = sorted(tmp_path.iterdir())
    assert Path(first) == left[0]
    assert len(left) < 6
    for path in left:
        with Image.open(path) as image:
            image.load()
