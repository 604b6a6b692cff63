"""Real trainings that are killed, interrupted or two at once while they encode: all goes on, with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import pictures
from tests.cli.test_processes import started

IMAGES = 24


@pytest.fixture
def words(tiny_models: dict[str, Path], tmp_path: Path) -> list[str]:
    """A training on 24 images, which the tiny VAE encodes in about a second."""
    data = pictures.folder(tmp_path / "discs", IMAGES, ((256, 256), (320, 192)))
    told = [
        "train-lora",
        str(data),
        "--model",
        str(tiny_models["sd1"]),
        "--resolution",
        "256",
        "--samples.off",
        "--validation.off",  # all are trained, and so encoded in one go
        "--json",
    ]
    return [*told, "--steps", "2", "--network.rank", "2", "--augment.crop", "0.1", "--augment.versions", "2"]


def until_encoded(process: subprocess.Popen[str], count: int) -> list[dict[str, Any]]:
    """What a training tells until it has encoded so many images, or all."""
    assert process.stdout is not None
    reports = []
    for line in process.stdout:
        reports.append(json.loads(line))
        if reports[-1].get("phase") == "encoding images" and reports[-1]["number"] >= count:
            return reports
    raise AssertionError(reports[-1])


def trained(words: list[str], out: Path, **environment: str) -> tuple[list[dict[str, Any]], bytes]:
    """The reports of a training that comes to its end, and its LoRA."""
    with started([*words, "--out", str(out)], script=None, **environment) as process:
        told, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return [json.loads(line) for line in told.splitlines()], (out / "discs.safetensors").read_bytes()


def encoding(reports: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(one["number"], one["of"]) for one in reports if one.get("phase") == "encoding images"]


def entries(cache: Path) -> int:
    return len(list(cache.rglob("*.safetensors")))


def test_a_training_that_is_killed_while_it_encodes_goes_on_where_it_was(words: list[str], tmp_path: Path) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    reports, wanted = trained(words, tmp_path / "a", SDTUNE_CACHE=str(calm))
    assert encoding(reports) == [(number, 2 * IMAGES) for number in range(1, 2 * IMAGES + 1)]
    (buckets,) = [one for one in reports if one["report"] == "bucketed"]
    assert buckets["resolutions"] == [256]
    assert {tuple(one["size"]): one["images"] for one in buckets["buckets"]} == {(256, 256): 12, (320, 192): 12}

    kept = 0
    for count in (5, 20):
        with started([*words, "--out", str(tmp_path / "b")], script=None, SDTUNE_CACHE=str(rough)) as process:
            first = encoding(until_encoded(process, count))[0]
            process.send_signal(signal.SIGKILL)
            process.wait(30)
        assert first == (kept + 1, 2 * IMAGES)
        kept = entries(rough)
        assert count <= kept < 2 * IMAGES, "it was killed in the middle"
        assert not (tmp_path / "b").exists()
    reports, lora = trained(words, tmp_path / "b", SDTUNE_CACHE=str(rough))
    assert encoding(reports) == [(number, 2 * IMAGES) for number in range(kept + 1, 2 * IMAGES + 1)]
    assert lora == wanted
    assert entries(rough) == entries(calm)


def test_ctrl_c_while_it_encodes_leaves_no_run_and_keeps_what_was_encoded(words: list[str], tmp_path: Path) -> None:
    cache, work = tmp_path / "cache", tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "sdtune", *words]
    environment = os.environ | {"SDTUNE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=work
    ) as process:
        until_encoded(process, 8)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, err.splitlines()[-1]) == (130, "sdtune: interrupted")
    assert "Traceback" not in err
    assert json.loads(out.splitlines()[-1]) == {"report": "error", "problems": ["interrupted"], "exit_code": 130}
    assert list(work.iterdir()) == [], "no run folder was begun"
    assert 8 <= entries(cache) < 2 * IMAGES
    assert not [path for path in cache.rglob(".*") if path.suffix == ".part"]


def test_two_trainings_at_once_share_a_cache(words: list[str], tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    both = [tmp_path / "a", tmp_path / "b"]
    with (
        started([*words, "--out", str(both[0])], script=None, SDTUNE_CACHE=cache) as one,
        started([*words, "--out", str(both[1])], script=None, SDTUNE_CACHE=cache) as other,
    ):
        told = [process.communicate(timeout=180) for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0], told
    for _, err in told:
        assert "Traceback" not in err
        warned = [line for line in err.splitlines() if "warning: " in line]
        assert all("learned next to nothing" in line for line in warned), "two steps are few"
    assert len({(out / "discs.safetensors").read_bytes() for out in both}) == 1
    of_images, of_captions = 2 * IMAGES, 7  # six colours, and the empty one
    assert entries(tmp_path / "cache") == of_images + of_captions
    last = [json.loads(out.splitlines()[-1])["report"] for out, _ in told]
    assert last == ["trained", "trained"]


FLAT = """
import gc, sys
from pathlib import Path
import numpy, psutil, torch
from PIL import Image
from sdtune.config import TrainLora, resolve
from sdtune.core.reports import Step
from sdtune.core.train_lora import train_lora

model, root = sys.argv[1], Path(sys.argv[2])
torch.set_num_threads(1)
(root / "data").mkdir()
for number in range(3000):
    pixels = numpy.full((32, 32, 3), number % 256, numpy.uint8)
    pixels[0, 0] = number // 256
    Image.fromarray(pixels).save(root / f"data/{number}.bmp")
    (root / f"data/{number}.txt").write_text(f"a shade {number}")
tables = {"data": {"folder": root / "data", "resolution": 32}, "network": {"rank": 1, "layers": "attention"}}
more = {"samples": {"off": True}, "cache": {"folder": root / "cache", "memory": 1e-6}}
config = resolve(TrainLora, [{"model": model, "out": root / "run", "steps": 300} | tables | more])
for report in train_lora(config):
    if isinstance(report, Step) and report.number in (50, 300):
        gc.collect()
        print(psutil.Process().memory_info().rss)
"""


def test_memory_stays_flat_over_a_large_set(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", FLAT, str(tiny_models["sd1"]), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=300)
    early, late = map(int, done.stdout.split())
    assert late - early < 1.5 * 10**6, "250 steps draw about 3 MB of entries"
