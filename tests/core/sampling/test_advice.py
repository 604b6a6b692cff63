"""What people surely meant otherwise is told, once, and ordinary text is let be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtune.choices.samplers import DDIM
from sdtune.core.applied import Applied
from sdtune.core.blocks import Strength
from sdtune.core.lora import Lora
from sdtune.core.sampling import grammar
from sdtune.core.sampling.advice import advice
from sdtune.core.sampling.asked import Asked
from sdtune.core.sampling.axes import axes_of
from sdtune.core.sampling.prompt_lines import lines_of
from sdtune.core.sampling.run_of import RunUse
from sdtune.sample_config import Sample


def told(*prompts: str, loras: tuple[Applied, ...] = (), **settings: Any) -> list[str]:
    config = Sample(**{"prompt": prompts, "steps": 10, **settings})
    lines = lines_of(config.prompt, None, flags=config.syntax != "plain")
    asked = [Asked(line.text, "", 0, (64, 64), 10, 5.0, DDIM(), loras) for line in lines]
    return list(advice(config, lines, asked, axes_of(config, asked, RunUse())))


def a_lora(name: str, usual: float) -> Applied:
    return Applied(Path(f"{name}.safetensors"), Lora({}, {}), Strength(usual))


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ("a {red|green apple", '--prompt, column 3: "{red|green apple": the { is not closed'),
        ("{a|b} {c|{d|e}", '--prompt, column 7: "{c|{d|e}": the { is not closed'),
        ("{x::a|b}", '"{x::a|b}": x:: is no weight'),
        ("{a|-1::b}", "-1:: is no weight"),
        ("a cat AND a dog", "AND is a word"),
        ("a cat :1.2 AND dogs", "AND is a word"),
        ("a cat, embedding:easynegative", "embedding:easynegative is text"),
        ("a cat <lora:cats:1", '--prompt, column 7: "<lora:cats:1": the < is not closed'),
        ("<lora:cats:1 <lora:dogs:1>", '"<lora:cats:1 ": the < is not closed'),
        ("<lora:cats:1> <lora:cats:0.5>", "<lora:cats> is named twice; the last counts alone, at 0.5"),
        ("<lora:cats:1> <lora:cats:1>", "<lora:cats> is named twice"),
        ("a cat —w 64", '"—w 64": one long dash is text'),
        ("a –n dark", '"–n dark": one long dash is text'),
        ("[cat:dog:40]", "[...:40]: nothing changes, since that is beyond its 10 steps"),
        ("[cat:11]", "[...:11]: nothing changes"),
        ("[cat::1.5]", "[...:1.5]: nothing changes"),
        ("[:b:99]", "[...:99]: nothing changes"),
        ("[[a:b:3]:[c:20]:5]", "[...:20]: nothing changes"),
        ("[a:b:20] --s 15", "[...:20]: nothing changes, since that is beyond its 15 steps"),
        ("a cat --n <lora:cats:1>", '"<lora:cats:1>": is text in a negative prompt'),
    ],
)
def test_what_is_not_meant_is_told_once(prompt: str, line: str) -> None:
    (found,) = told(prompt)
    assert line in found
    assert found.startswith("--prompt")
    (first,) = told("a cat", prompt, prompt)
    assert first == found.replace("--prompt", "--prompt, number 2", 1)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a cat (at 3:00 pm), (note: blurry), {red|green} apples: [cat|dog]",
        r"a \{red|green apple, \<lora:cats",
        "{a}",
        "{ open, without a bar",
        "a | b",
        "{3::a|.5::b|1.5::c} {2$$a|b} {a::b}",
        "A CAT AND A DOG",
        "SALT AND PEPPER on a table, and more",
        "a cat and a dog, bAND a",
        "embedding: a craft",
        "<lora:cats:1> <lora:dogs:0.5>",
        "a <b> and 3 < 4",
        "a cat — with w 64, red–white, —we",
        "[cat:dog:4] [cat:dog:0.99] [a:b:10] [12:5] at 12:30",
        r"\[cat:dog:40]",
        "(red:99) [x:y:z]",
    ],
)
def test_ordinary_text_is_let_be(prompt: str) -> None:
    assert told(prompt) == []


@given(st.text("ab {}[]()|:<>$_\\AND.1", max_size=30), st.integers(1, 20))
def test_any_text_is_looked_at(text: str, steps: int) -> None:
    line = lines_of((text,), None)
    assert len(list(advice(Sample(prompt=(text,), steps=steps, syntax="plain"), line, (), ()))) <= 1
    late = list(grammar.too_late(text, steps))
    assert all(float(one) > (1 if "." in one else steps) for one in late)


def test_what_means_nothing_to_the_letter_is_told() -> None:
    (line,) = told("a cat <lora:cats:1> [a:b:40] a AND b", syntax="plain")
    assert line == '--prompt: "<lora:cats:1>": is text with --syntax plain; give it with --lora'


def test_the_negative_of_the_command_is_looked_at() -> None:
    (line,) = told("a cat", negative="dark <lora:cats:1>")
    assert line.startswith('--negative: "<lora:cats:1>": is text')


def test_a_lora_that_acts_twice_is_told_once() -> None:
    both = (a_lora("cats", 1), a_lora("dogs", 1), a_lora("./cats", 0.5))
    assert told("a", "b", loras=both) == ["cats.safetensors: is given 2 times and acts each time, at 1 and 0.5"]
    assert told("a", loras=both[:2]) == []


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"grid": ("prompt=c|d",)}, "--grid prompt: its prompts are drawn in the place of those of --prompt"),
        ({"animate": "prompt=c|d"}, "--animate prompt: its prompts are drawn"),
        ({"grid": ("seed=1,2",), "count": 3}, "--count 3: has no effect, since --grid seed says"),
        ({"grid": ("steps=1,2",), "prompt": ("a", "b --s 3")}, "--prompt, number 2: --s has no effect, since --grid"),
        ({"grid": ("guidance=1,2",), "prompt": ("a --l 3",)}, "--prompt: --l has no effect"),
        ({"grid": ("negative=x|y",), "prompt": ("a --n z",)}, "--prompt: --n has no effect"),
        ({"grid": ("seed=1,2",), "prompt": ("a --d 7",)}, "--prompt: --d has no effect"),
    ],
)
def test_what_an_axis_sets_instead_is_told(settings: dict[str, Any], line: str) -> None:
    (found,) = told(*settings.pop("prompt", ("a",)), **settings)
    assert found.startswith(line)


@pytest.mark.parametrize("grid", ["seed", "prompt", "seed=1,2", "steps=1,2", "prompt x seed"])
def test_what_an_axis_leaves_is_not_told(grid: str) -> None:
    prompts = ("a", "b") if "=" in grid else ("a --d 7", "b --s 3 --l 2 --n z")
    assert told(*prompts, grid=(grid,), count=1 if "seed=" in grid else 3) == []


def test_prompts_on_an_axis_alone_are_drawn_without_a_word() -> None:
    assert told(grid=("prompt=c|d",)) == []


@pytest.mark.parametrize(
    "piece", ["{|", "{x::a|", "[a:b:99]", "<lora:", "a AND ", "(a:", "embedding:", " —w 1", "::{||||", "aAND", " AND"]
)
def test_long_prompts_are_looked_through(piece: str) -> None:
    assert len(told(piece * (20_000 // len(piece)))) <= 3


def test_one_value_alone_compares_nothing() -> None:
    (line,) = told("a cat", grid=("steps=5 x guidance=1,2",))
    assert line == "--grid steps: has one value alone, 5, so that there is nothing to compare"
    assert not told("a cat", grid=("steps=5,6 x seed",))
