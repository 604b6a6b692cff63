"""Every bad or odd file of the corpus is kept as it should look, or refused in the right words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy
import pytest

from sdtune.core.intake.facts import Job
from sdtune.core.intake.one import handle
from sdtune.errors import DataError
from tests import pictures, ugly
from tests.ugly import Case


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    folder = tmp_path_factory.mktemp("ugly")
    return folder, ugly.build(folder)


def test_the_corpus_is_large(corpus: tuple[Path, list[Case]]) -> None:
    _, cases = corpus
    assert len(cases) >= 150
    assert len({case.kind for case in cases}) >= 25
    assert len({case.name for case in cases}) == len(cases)
    assert min(Counter(case.reason is None for case in cases).values()) >= 100


def test_each_file_is_kept_as_it_should_look_or_refused_with_the_reason(
    corpus: tuple[Path, list[Case]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, cases = corpus
    wrong = [f"{case.kind}: {case.name!r}: {told}" for case in cases if (told := _wrong(case, folder, tmp_path))]
    assert not wrong, "\n".join(wrong)
    assert capfd.readouterr() == ("", "")
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def _wrong(case: Case, folder: Path, out: Path) -> str | None:
    """What is not as the case says."""
    stem = out / "prepared"
    job = Job(name=case.name, path=os.fspath(folder / case.name), stem=os.fspath(stem))
    try:
        measured = handle(job)
    except DataError as error:
        line = str(error).removeprefix(f"{case.name}: ")
        if case.reason is None:
            return f"refused: {line}"
        if "\n" in line or ("; " not in line and "pip install" not in line):
            return f"not one line with a remedy: {line}"
        return None if case.reason in line else f"refused in other words: {line}"
    if case.pixels is None:
        return "kept"
    prepared = pictures.pixels(stem.with_suffix(".png"))
    if prepared.shape != case.pixels.shape:
        return f"of shape {prepared.shape}"
    difference = int(abs(prepared - case.pixels).max())
    if difference > case.tolerance:
        return f"differs by {difference}"
    said = "; ".join(measured.notices)
    if (case.notice or "") not in said or (case.notice is None and said):
        return f"says {said!r}"
    if (measured.height, measured.width) != case.pixels.shape[:2]:
        return f"told as {measured.width} x {measured.height}"
    return None


@pytest.mark.parametrize("name", ["99-samples.tiff", "zeros-in-lzw.tiff", "cut-50.tiff", "second-frame-cut.gif"])
def test_no_library_prints_of_its_own(name: str, corpus: tuple[Path, list[Case]]) -> None:
    """In a process of its own, since pytest catches what is logged."""
    code = (
        "import sys, pathlib; from sdtune.core.data.images import decode; from sdtune.errors import *\n"
        "try: decode(pathlib.Path(sys.argv[1]), 'a')\nexcept DataError: pass"
    )
    command = [sys.executable, "-W", "default", "-c", code, corpus[0] / name]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_the_references_would_tell_a_difference(corpus: tuple[Path, list[Case]]) -> None:
    """No tolerance is so wide that a picture turned, or with red and blue exchanged, would pass."""
    _, cases = corpus
    compared = 0
    for case in cases:
        if (
            case.pixels is not None
            and case.pixels.shape == ugly.plain().shape
            and case.pixels.std(axis=(0, 1)).min() > 9
        ):
            pixels = case.pixels.astype(numpy.int64)
            coloured = case.pixels.std(axis=2).max() > 0
            for other in (
                pixels[::-1],
                pixels[:, ::-1],
                pixels[::-1, ::-1],
                *([pixels[:, :, ::-1]] if coloured else []),
            ):
                assert abs(pixels - other).max() > 2 * case.tolerance, case.name
            compared += 1
    assert compared > 100
