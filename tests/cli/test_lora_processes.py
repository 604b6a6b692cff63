"""The commands that look into LoRA files as people type them: what they print, and how they leave."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdtune.cli.app import main
from sdtune.core.lora_writer import write
from tests.core.some_loras import lora

HOSTILE = "\x1b]0;title\x07 [red]x[/] \u202egpj.exe \x9b2J \r over"


def sdtune(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "sdtune", "lora", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, another LoRA, and one whose metadata would take a terminal over."""
    place = tmp_path_factory.mktemp("loras")
    (place / "runs/cats-1").mkdir(parents=True)
    write(place / "runs/cats-1/cats.safetensors", lora("sd1"))
    write(place / "b.safetensors", lora("sd1", seed=1))
    name = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{name}.lora_down.weight": torch.ones(4, 8), f"{name}.lora_up.weight": torch.ones(8, 4)}
    save_file(tensors, place / "hostile.safetensors", {"modelspec.title": HOSTILE, HOSTILE: HOSTILE})
    return place


def test_a_run_folder_is_looked_at(folder: Path) -> None:
    told = sdtune(folder, "inspect", "runs/cats-1")
    assert (told.returncode, told.stderr) == (0, "")
    lines = told.stdout.splitlines()
    assert lines[0].startswith("file        runs/cats-1/cats.safetensors, ")
    assert lines[1:4] == ["title       lora 0", "family      Stable Diffusion 1.x", "form        kohya, fp16"]
    assert lines[-1] == "try next    sdtune lora inspect runs/cats-1/cats.safetensors --weights"


def test_its_weights_are_read_with_progress_on_standard_error(folder: Path) -> None:
    told = sdtune(folder, "inspect", "b.safetensors", "--weights", "--json")
    assert told.returncode == 0
    assert "modules " in told.stderr
    *progress, last = map(json.loads, told.stdout.splitlines())
    assert {line["report"] for line in progress} == {"progress"}
    assert last["report"] == "inspected"
    assert all(block["norm"] > 0 and block["dead"] == [] for block in last["blocks"])
    assert {"AutoV2", "AutoV3", "sshs_model_hash"} <= last["hashes"].keys()


# ---- in this process, which has imported everything


def here(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["lora", *words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def _in_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.usefixtures("_in_it")
def test_a_file_takes_no_terminal_over(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = here(capsys, "inspect", "hostile.safetensors", "--metadata")
    assert code == 0
    assert all(line.isprintable() for line in out.split("\n"))
    assert "[red]x[/]" in out
    machine = json.loads(here(capsys, "inspect", "hostile.safetensors", "--metadata", "--json")[1])
    assert machine["metadata"] == {"modelspec.title": HOSTILE, HOSTILE: HOSTILE}


@pytest.mark.usefixtures("_in_it")
def test_two_files_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = here(capsys, "diff", "runs/cats-1", "b.safetensors")
    assert code == 0
    assert "apart       by 1" in out  # two random ones: sqrt(2) of the larger
    same = json.loads(here(capsys, "diff", "b.safetensors", "b.safetensors", "--json")[1].splitlines()[-1])
    assert (same["report"], same["equal"], same["metadata"]) == ("differing", True, {})


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["inspect", "nothing.safetensors"], "nothing.safetensors: no such LoRA file or run folder; check its name"),
        (["inspect", "lora.pt"], "lora.pt: .pt is a pickle"),
        (["inspect", "."], ".: holds several LoRAs; give one of b.safetensors, hostile.safetensors"),
        (["inspect", ""], "lora: should be a path, not empty"),
        (["inspect", "hostile.safetensors", "--weights", "--model", "x"], "--model: no such option"),
        (["diff", "b.safetensors", "nothing.safetensors"], "nothing.safetensors: no such LoRA file or run folder"),
        (["diff", "b.safetensors", "b.safetensors", "-m", "nowhere/"], "nowhere"),
    ],
)
@pytest.mark.usefixtures("_in_it")
def test_what_cannot_be_read_is_told_in_one_line(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = here(capsys, *words)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert problem in line
    assert json.loads(here(capsys, *words, "--json")[1])["report"] == "error"
