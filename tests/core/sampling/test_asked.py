"""Every picture that is asked for, and what of it is wrong, told at its place before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdtune.core.sampling.asked import Asked, lines_for, wanted
from sdtune.core.sampling.named_loras import NamedLoras
from sdtune.core.sampling.prompt_lines import Line
from sdtune.core.sampling.run_of import RunUse
from sdtune.errors import ConfigError
from sdtune.sample_config import Sample


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def asked(*prompts: str, **settings: Any) -> list[Asked]:
    config = Sample(prompt=prompts, **settings)
    run = RunUse(trigger=None)
    return wanted(config, lines_for(config, run), run, (), NamedLoras(None, ()))


def wildcard(text: str, name: str = "w") -> None:
    Path("wildcards").mkdir(exist_ok=True)
    Path(f"wildcards/{name}.txt").write_text(text)


def problem(*prompts: str, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        asked(*prompts, **settings)
    return str(caught.value)


def test_too_many_are_told_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problem("a", count=10**6) == "--count 1,000,000: over 100,000 pictures at once; give fewer"
    lines = [Line("a {b|c}", "--prompt")] * 1001
    with pytest.raises(ConfigError, match="1,001 prompts, each 100 times: over 100,000 pictures at once"):
        wanted(Sample(prompt=("a",), count=100), lines, RunUse(), (), None)  # type: ignore[arg-type]
    many = "{a|b|c|d|e|f|g|h|i|j}" * 5
    assert len(asked(many[:42], combinations=True)) == 100
    assert problem(many + "{a|b}", combinations=True).startswith("--prompt: 200,000 pictures of all combinations")
    assert "over 999,999,999 pictures" in problem(many * 3, combinations=True)
    monkeypatch.setattr("sdtune.core.sampling.asked.MOST", 1100)
    assert "over 1,100 pictures are asked for" in problem(many[:63], many[:63], combinations=True)


def test_what_is_wrong_in_a_wildcard_is_told_of_its_file() -> None:
    wildcard("fine\n\n(apple:1.3x)\n")
    assert problem("a {b|c}, __w__").startswith("wildcards/w.txt, line 3, column 1: (apple:1.3x): a weight")
    wildcard("cat --w 64\n")
    assert problem("__w__").startswith("wildcards/w.txt, line 1: --w is a flag, which prompts have")
    wildcard("cat --words, 2 -w 3, and —w\n")
    assert asked("__w__")[0].text == "cat --words, 2 -w 3, and —w"


def test_what_only_choices_make_wrong_is_told_as_such() -> None:
    wildcard("1.3x\n")
    assert problem("a very (big:__w__) cat").startswith("--prompt, as it is drawn, column 8: (big:1.3x)")
    assert problem("a", negative="(big:__w__)").startswith("--prompt, negative, as it is drawn, column 1: (big:1.3x)")
    assert problem("(big:1.3x) __w__").startswith("--prompt, column 1: (big:1.3x)")
    wildcard("<lora:cats:1>\n")
    assert problem("a __w__").startswith("--prompt, as it is drawn, column 3: <lora:cats>: there is no LoRA")


def test_wildcards_without_a_line_to_choose_are_told() -> None:
    wildcard("0::a\n0::b\n")
    assert problem("a __w__") == "--prompt, column 3: __w__: all its lines have weight 0; give one of them more"
    assert "all its lines have weight 0" in problem("{2$$__w__}")
    wildcard("a\n" * 100_001)
    assert problem("__w__").endswith("wildcards/w.txt has over 100,000 lines; split it")


def test_prompts_of_a_grid_need_no_other() -> None:
    grids = {"grid": ("seed=1,2 x prompt=a|b",)}, {"grid": ("seed", "Prompt = a|b")}, {"animate": "prompt=a|b"}
    for settings in grids:
        (one,) = asked(**settings)
        assert (one.text, one.line) == ("", 1)
    for axis in ("prompt", "seed=1,2", "negative=prompt=1|b"):
        with pytest.raises(ValueError, match="nothing to draw"):
            asked(grid=(axis,))


def test_a_run_whose_prompts_are_not_known_needs_one() -> None:
    run = RunUse(unread="--run r: its data.json cannot be read; give --prompt")
    with pytest.raises(ConfigError, match=r"its data\.json cannot be read; give --prompt"):
        lines_for(Sample(run=Path("r")), run)
    assert [line.text for line in lines_for(Sample(run=Path("r"), prompt=("a",)), run)] == ["a"]
    assert len(lines_for(Sample(run=Path("r"), grid=("prompt=a|b",)), run)) == 1
