"""What README tells people to type works as it stands."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click import Context
from typer import Exit

from sdtune.cli.commands import commands as built_commands
from sdtune.cli.flags import built
from sdtune.sample_config import Sample

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SAMPLING = (ROOT / "docs" / "sampling.md").read_text()
EVALUATION = (ROOT / "docs" / "evaluation.md").read_text()
FEW = ["--steps", "2"]
LINK = re.compile(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)")


def commands(text: str = README) -> list[list[str]]:
    """The lines that begin with `sdtune`, without their comments."""
    lines = re.findall(r"^    (sdtune .*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that has what README's commands name."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def sdtune(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    known = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "sdtune", *words], cwd=folder, env=known, capture_output=True, text=True
    )


def test_the_two_commands_run_as_written(checkout: Path) -> None:
    train, draw = commands()[:2]
    assert train == ["sdtune", "train-lora", "examples/fluent-3d", "--rank", "8"]
    trained = sdtune(*train[1:], *FEW, folder=checkout)
    assert trained.returncode == 0, trained.stderr
    assert "runs/fluent-3d-1" in trained.stdout
    assert "try next" in trained.stdout
    drawn = sdtune(*draw[1:], folder=checkout)
    assert drawn.returncode == 0, drawn.stderr
    assert (checkout / drawn.stdout.strip()).is_file()
    said = trained.stderr + drawn.stderr
    for noise in ("Warning", "torchvision", "pip install `kernels`", "Traceback", "deprecated"):
        assert noise not in said


def test_the_other_commands_are_known_to_the_command_line() -> None:
    """They name models and pictures that are not here, so what is held against them is the settings alone."""
    app = built_commands()
    for _, *line in [*commands()[2:], *commands(SAMPLING), *commands(EVALUATION)]:
        name, command, words = app.resolve_command(Context(app), line)
        if name == "lora":
            command, name, words = command.get_command(None, words[0]), words[0], words[1:]
        with contextlib.suppress(Exit):  # --help
            command.make_context(name, list(words))


def test_drawing_takes_the_settings_that_it_is_given() -> None:
    drawn: list[Sample] = []
    command = built("sample", Sample, lambda config, _: drawn.append(config))
    lines = [words for _, name, *words in [*commands(), *commands(SAMPLING)] if name == "sample"]
    for words in lines:
        command.invoke(command.make_context("sample", list(words)))
    assert len(drawn) == len(lines) > 30


def test_the_python_lines_run(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    (lines,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(lines.replace("steps=100", "steps=2"), {})
    assert "Trained(" in capsys.readouterr().out


def test_make_knows_the_words_that_readme_uses() -> None:
    if not shutil.which("make"):
        pytest.skip("no make on this machine")
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for word in set(re.findall(r"\bmake ([a-z][a-z-]+)", README)) - {"sure"}:
        assert f"make {word} " in told + " "


@pytest.mark.parametrize(
    "link",
    sorted(
        set(LINK.findall(README)) | {f"docs/{one}" for text in (SAMPLING, EVALUATION) for one in LINK.findall(text)}
    ),
)
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
