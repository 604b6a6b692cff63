"""A stranger's TOML is read as TOML is, or refused before it takes memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdtune.config import TrainLora, resolve
from sdtune.core.runs import _settings
from sdtune.core.toml_file import DEEPEST, MAX_BYTES, toml_in
from sdtune.layers import to_toml

DOTS = "a" + ".a" * (DEEPEST + 1)


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        f"{DOTS} = 1",
        f"[{DOTS}]",
        f"[[{DOTS}]]",
        f"x = {{ {DOTS} = 1 }}",
        f'"x\\"" = 1\n{" . ".join("a" * (DEEPEST + 2))} = 1',
        ".".join(['"a=\'"'] * (DEEPEST + 2)) + " = 1",
        f"'''\n'''\n{DOTS} = 1",
        "x = " + "[" * 5000,
        "a = 1\n" * 2 + "a = 1",
        "=" * 10,
        b"\xff",
        "# " + "x" * MAX_BYTES,
    ],
)
def test_what_takes_memory_or_is_no_toml_is_refused(text: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r".+"):
        toml_in(written(tmp_path / "run.toml", text))


@pytest.mark.parametrize("quote", ['"', "'", '"""', "'''"])
def test_dots_of_texts_are_no_depth(quote: str, tmp_path: Path) -> None:
    text = "a. " * 100
    path = written(tmp_path / "run.toml", f"# {DOTS}\r\nx.y = {quote}{text}{quote}\r\n")
    assert toml_in(path) == {"x": {"y": text}}


def test_settings_of_a_run_come_back(tmp_path: Path) -> None:
    told = {"data": {"folder": "a"}, "samples": {"prompts": ('it\'s "a". b' + "." * 50, "\\")}}
    path = written(tmp_path / "run.toml", to_toml(resolve(TrainLora, [told])))
    assert tuple(toml_in(path)["samples"]["prompts"]) == told["samples"]["prompts"]


def test_the_list_of_runs_reads_no_hostile_settings(tmp_path: Path) -> None:
    problems: list[str] = []
    assert _settings(written(tmp_path / "run.toml", "a" + ".a" * 3000 + " = 1"), problems) == {}
    assert problems == ["run.toml cannot be read"]
