"""The help is instant, plain, and shows the settings of every day first; a shell completes flags and kinds."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys

import pytest

from sdtune import config
from sdtune.cli.app import main
from sdtune.cli.commands import COMMANDS
from sdtune.cli.flags import flags_of

HEAVY = ("torch", "diffusers", "transformers", "peft", "numpy", "PIL", "accelerate", "bitsandbytes", "rich")


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_what_needs_no_work_imports_nothing_heavy() -> None:
    script = """
import sys
from sdtune.cli.app import main
for words in ("--help", "--version", "train-lora --help", "sample --help-all", "train-lora", "x", "",
              "train-lora x --rank 0", "train-lora x --rnak 8", "train-lora x -p mini --loss.c 3",
              "merge --help", "lora", "lora --help", "lora x", "lora inspect --help", "lora inspect",
              "lora convert --help", "lora resize --help-all", "lora extract --help", "lora diff --help",
              "eval --help", "eval compare --help-all", "eval", "eval compare a", "eval x --strengths y"):
    main(words.split())
print(sorted(set(sys.argv[1].split(",")) & set(sys.modules)), file=sys.stderr)
"""
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, ",".join(HEAVY)], capture_output=True, text=True, check=True
    )
    assert told.stderr.splitlines()[-1] == "[]"
    assert "Traceback" not in told.stderr


def test_help_is_instant() -> None:
    """Processor time, so that a busy machine does not matter: about 0.06 s for the first and 0.2 s for the second."""
    for words, limit in ((["--help"], 0.25), (["train-lora", "--help"], 0.6)):
        before = os.times()
        subprocess.run([sys.executable, "-m", "sdtune", *words], capture_output=True, check=True)
        after = os.times()
        assert after.children_user - before.children_user < limit


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "--help")
    assert all(re.search(rf"^  {name} +\w", out, re.MULTILINE) for name in COMMANDS)
    assert shown(capsys) == shown(capsys, "-h") == out
    below = shown(capsys, "lora", "--help")
    assert all(re.search(rf"^  {name[5:]} +\w", below, re.MULTILINE) for name in COMMANDS if name.startswith("lora "))
    assert "train-lora" not in below
    assert shown(capsys, "sample", "-h") == shown(capsys, "sample", "--help")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.fullmatch(r"sdtune \d+\.\d+\.\d+\n", shown(capsys, "--version"))


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_help_shows_every_day_and_help_all_everything(
    name: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    short, everything = shown(capsys, *name.split(), "--help"), shown(capsys, *name.split(), "--help-all")
    spec = getattr(config, COMMANDS[name][1].rpartition(".")[2])
    for out in (short, everything):
        assert max(map(len, out.splitlines())) <= columns
        assert "\x1b" not in out
        assert not re.search(r"<(bool|str|int|float)>|\[default|None|(?<!\.)\.\.\]", out)
    for flag in flags_of(spec):
        assert flag.long in everything or flag.argument
        if flag.words.place is None:
            assert f" {flag.long} " not in short
        else:
            assert (flag.words.flags or (flag.metavar,))[0] in short


@pytest.mark.parametrize("name", COMMANDS)
def test_only_training_takes_the_settings_of_a_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = " ".join(shown(capsys, *name.split(), "--help").split())
    assert ("a run's run.toml too" in out) == (name == "train-lora")
    assert "--json Every report as a JSON line on standard output, progress too;" in out


def test_what_a_share_loses_is_told_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Squares sum to that of the norm, so what is left out has the root of 1 - share^2 of it."""
    for command in ("resize", "extract"):
        out = " ".join(shown(capsys, "lora", command, "--help").split())
        told = re.findall(r"of (0\.9+5?) (\d+) %", out)
        assert told
        assert all(round(100 * math.sqrt(1 - float(share) ** 2)) == int(lost) for share, lost in told)


def test_the_most_used_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "train-lora", "--help")
    places = [out.index(f"{flag} ") for flag in ("--model", "--rank", "--steps", "--lr", "--batch-size", "--seed")]
    assert places == sorted(places)
    assert re.search(r"--rank N .*\[16\]", " ".join(out.split()))


def test_help_all_goes_by_the_tables_of_a_toml_file(capsys: pytest.CaptureFixture[str]) -> None:
    headings = re.findall(r"^(\S+):$", shown(capsys, "train-lora", "--help-all"), re.MULTILINE)
    tables = [f"[{name}]" for name in ("data", "network", "optimizer", "schedule", "memory", "save", "samples")]
    assert headings[0] == "run"
    assert [heading for heading in headings if heading in tables] == tables


def completed(line: str, **more: str) -> list[str]:
    """What bash is offered at the end of a line."""
    words = line.split()
    known = os.environ | {
        "_SDTUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - (not line.endswith(" "))),
    }
    told = subprocess.run([sys.executable, "-m", "sdtune"], env=known | more, capture_output=True, text=True)
    assert told.stderr == ""
    return told.stdout.split()


def test_a_shell_completes_commands_flags_kinds_and_presets() -> None:
    assert completed("sdtune ") == list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    assert completed("sdtune lora ") == ["inspect", "convert", "resize", "extract", "diff"]
    assert completed("sdtune lora in") == ["inspect"]
    assert completed("sdtune lora convert x --form ") == ["auto", "kohya", "peft", "diffusers"]
    optimizers = ["adamw8bit", "adamw", "prodigy", "adamw-schedulefree", "lion8bit", "adafactor"]
    assert completed("sdtune train-lora x --optimizer ") == optimizers
    assert completed("sdtune train-lora x --optimizer adamw8") == ["adamw8bit"]
    assert completed("sdtune train-lora x --track t") == ["tensorboard", "trackio"]
    assert "mini" in completed("sdtune train-lora x --preset ")
    assert completed("sdtune train-lora x --memory.pre") == ["--memory.precision"]
    assert completed("sdtune train-lora x --device c") == ["cuda", "cpu"]


def test_the_completion_of_each_shell_can_be_shown() -> None:
    for shell in ("bash", "zsh", "fish"):
        known = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
        command = [sys.executable, "-m", "sdtune", "--show-completion", shell]
        told = subprocess.run(command, env=known, capture_output=True, text=True, check=True)
        assert "_SDTUNE_COMPLETE" in told.stdout
        assert told.stderr == ""
