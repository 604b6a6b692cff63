"""The whole command on a corpus of bad and odd files: each becomes what it shall, and none does harm."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from tests import ugly

PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(done.returncode)
"""
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ugly.Case]]:
    folder = tmp_path_factory.mktemp("corpus") / "in"
    return folder, ugly.build(folder)


def test_every_file_becomes_what_it_shall(corpus: tuple[Path, list[ugly.Case]]) -> None:
    folder, cases = corpus
    out = folder.parent / "out"
    command = [sys.executable, "-m", "sdtune", "prepare", str(folder), "--out", str(out), "--json"]
    command += ["--resolution", "128", "--keep-all", "--held-out", "0", "--workers", "2"]
    measured = [sys.executable, "-c", PEAK, *command]  # in a process whose children are this command alone
    done = subprocess.run(measured, capture_output=True, text=True, cwd=folder.parent, check=False)
    assert done.returncode == 0, done.stderr
    notes, _, peak = done.stderr.rstrip().rpartition("\n")
    assert int(peak) < 2**20, "1 GB, in kB"
    assert "set aside" in notes
    assert "Traceback" not in done.stderr
    assert not UNSAFE.search(done.stderr)
    assert not UNSAFE.search(done.stdout)
    told: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    skipped = {one["path"]: one["reason"] for one in told if one["report"] == "skipped"}
    second = {one["path"] for one in told if one["report"] == "setaside"}
    written = (out / "prepared.jsonl").read_text(encoding="utf-8")
    rows = {row["source"]: row for row in map(json.loads, written.splitlines())}
    assert not UNSAFE.search(written)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not UNSAFE.search(page)
    assert "<script" not in page.lower()
    wrong = []
    for case in cases:
        if case.name == "folder.png":
            continue  # a folder below, whatever its name
        path = str(folder / case.name)
        row = rows.get(path.encode("utf-8", "backslashreplace").decode())
        if case.reason is not None:
            if case.kind == "link" and "a link" in skipped.get(path, ""):
                continue  # told by the folder, before any reading
            if case.reason not in skipped.get(path, ""):
                wrong.append((case, skipped.get(path), row))
        elif row is not None:
            with Image.open(out / row["file"]) as image:
                found = numpy.asarray(image).astype(int)
            if case.pixels is not None and not near(found, case):
                wrong.append((case, "other pixels", row))
        elif path not in second:
            wrong.append((case, skipped.get(path), row))
    assert not wrong
    assert len(cases) >= 150
    assert len({case.kind for case in cases}) >= 25
    again = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, check=True)
    assert (out / "report.html").read_text(encoding="utf-8") == page
    assert json.loads(again.stdout.splitlines()[-1])["skipped"] == len(skipped)


def near(found: Any, case: ugly.Case) -> bool:
    assert case.pixels is not None
    return found.shape == case.pixels.shape and int(abs(found - case.pixels).max()) <= case.tolerance
