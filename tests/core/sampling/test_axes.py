"""Axes: what is written on the command line becomes the pictures that are drawn."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtune.choices.samplers import DDIM, Euler
from sdtune.core import lora_file
from sdtune.core.applied import Applied
from sdtune.core.blocks import Strength
from sdtune.core.lora import Lora
from sdtune.core.sampling.asked import Asked
from sdtune.core.sampling.axes import LONGEST, MOST, axes_of, crossed
from sdtune.core.sampling.axis_values import numbers_in, texts_in
from sdtune.core.sampling.run_of import RunUse
from sdtune.errors import ConfigError, LoraError
from sdtune.sample_config import Sample

NO_RUN = RunUse()


def a_lora(name: str = "cats", usual: float = 0.8, **blocks: float) -> Applied:
    return Applied(Path(f"{name}.safetensors"), Lora({}, {}), Strength(usual, blocks))


def asked(text: str = "a cat", seed: int = 0, line: int = 1, **more: Any) -> Asked:
    return Asked(text, "", seed, (64, 64), 25, 5.0, DDIM(), line=line, **more)


def drawn(grid: str | tuple[str, ...], wanted: list[Asked], run: RunUse = NO_RUN, **more: Any) -> list[Asked]:
    config = Sample(prompt=("a cat",), grid=(grid,) if isinstance(grid, str) else grid, **more)
    return crossed(wanted, axes_of(config, wanted, run))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1..4", "1 2 3 4"),
        ("4..1", "4 3 2 1"),
        ("0..1:0.25", "0 0.25 0.5 0.75 1"),
        ("1..0:0.5", "1 0.5 0"),
        ("-1..1:0.5", "-1 -0.5 0 0.5 1"),
        ("0..1:0.3", "0 0.3 0.6 0.9"),
        (" 0 , 0.5,1..3 ", "0 0.5 1 2 3"),
        ("0...5:.25", "0 0.25 0.5"),
        ("7", "7"),
        ("10..30:1e1", "10 20 30"),
    ],
)
def test_lists_and_ranges(text: str, values: str) -> None:
    assert numbers_in(text, "--grid") == values.split()


@given(st.integers(0, 50), st.integers(1, 40), st.integers(1, 3))
def test_ranges_are_exact_decimals(first: int, count: int, places: int) -> None:
    unit = 10**places
    told = numbers_in(f"{first / unit}..{(first + count) / unit}:{1 / unit}", "--grid")
    assert [float(one) for one in told] == [(first + place) / unit for place in range(count + 1)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no values"),
        ("1,,2", "an empty value"),
        ("0..1.5", "no step"),
        ("0..1:0", "step of 0"),
        ("a..b", "no range"),
        ("1...4", '"1...4" has three dots; a range has two, as in 1..4'),
        ("1..4:1:1", "no range"),
        ("1..999999999", "999,999,999 values"),
        ("0..1:1e-99", "trillion"),
        ("0..1:0.1," * 2000 + "1", "over 10,000"),
    ],
)
def test_wrong_lists(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as told:
        numbers_in(text, "--grid steps")
    assert str(told.value).startswith("--grid steps: ")
    assert len(str(told.value)) < 300


def test_bars_within_brackets_belong_to_the_text() -> None:
    assert texts_in("a (red|blue:1.2) cat| a [x|y] dog |") == ["a (red|blue:1.2) cat", "a [x|y] dog", ""]


def test_two_axes_make_every_combination_once() -> None:
    found = drawn("steps=5,10,5 x guidance=1..3", [asked()])
    assert [(one.cell, one.steps, one.guidance) for one in found] == [
        ((row, column), steps, guidance)
        for row, steps in enumerate((5, 10))
        for column, guidance in enumerate((1.0, 2.0, 3.0))
    ]
    assert found == drawn(("steps=5,10", "guidance=1..3"), [asked()])


def test_an_axis_of_seeds_is_in_the_place_of_those_asked_for() -> None:
    wanted = [asked(text, seed, line) for line, text in enumerate(("a cat", "a dog"), 1) for seed in (7, 8, 9)]
    found = drawn("seed=1..4", wanted)
    assert [(one.text, one.seed) for one in found] == [
        (text, seed) for text in ("a cat", "a dog") for seed in range(1, 5)
    ]
    assert [one.seed for one in drawn("seed", wanted)] == [7, 8, 9] * 2
    assert [one.cell for one in drawn("seed", wanted)] == [(0,), (1,), (2,)] * 2


def test_an_axis_of_prompts_is_in_the_place_of_those_asked_for() -> None:
    wanted = [asked(text, seed, line) for line, text in enumerate(("a cat", "a dog"), 1) for seed in (7, 8)]
    assert [(one.text, one.seed) for one in drawn("prompt", wanted)] == [
        (text, seed) for seed in (7, 8) for text in ("a cat", "a dog")
    ]
    assert [one.text for one in drawn("prompt x seed", wanted)] == ["a cat"] * 2 + ["a dog"] * 2
    assert [(one.text, one.seed) for one in drawn("prompt=a cow, x rays x 2|a pig", wanted)] == [
        (text, seed) for seed in (7, 8) for text in ("a cow, x rays x 2", "a pig")
    ]


def test_choices_by_seed_stay_with_their_seed() -> None:
    wanted = [asked("a red cat", 1), asked("a blue cat", 2), asked("a dog", 1, 2), asked("a dog", 2, 2)]
    assert [(one.text, one.seed) for one in drawn("prompt", wanted)] == [
        ("a red cat", 1),
        ("a dog", 1),
        ("a blue cat", 2),
        ("a dog", 2),
    ]


def test_prompts_of_one_line_are_kept_apart() -> None:
    wanted = [asked("a red cat", 1), asked("a red cat", 2), asked("a blue cat", 1), asked("a blue cat", 2)]
    assert [one.text for one in drawn("seed=5", wanted)] == ["a red cat", "a blue cat"]
    assert len(drawn("steps=1,2", wanted)) == 8


@given(st.floats(0.01, 2), st.floats(0.01, 2))
def test_strengths_keep_their_ratio(value: float, usual: float) -> None:
    (one,) = drawn(f"strength={value:.6f}", [asked(loras=(a_lora(usual=usual, mid_block=usual / 2),))])
    strength = one.loras[0].strength
    assert strength.usual == float(f"{value:.6f}")
    assert strength.blocks["mid_block"] == pytest.approx(strength.usual / 2)


def test_several_loras_are_multiplied() -> None:
    wanted = [asked(loras=(a_lora(usual=0.8), a_lora("style", 0.4, mid_block=1.0)))]
    base, half, whole = drawn("strength=0,0.5,1", wanted)
    assert base == replace(wanted[0], loras=(), cell=(0,))
    assert [one.strength.usual for one in half.loras] == [0.4, 0.2]
    assert half.loras[1].strength.blocks == {"mid_block": 0.5}
    assert whole == replace(wanted[0], cell=(2,))
    axes = axes_of(Sample(prompt=("",), grid=("strength=0,0.5",)), wanted, NO_RUN)
    assert [one.label for one in axes[0].values] == ["0", "×0.5"]


def test_one_lora_that_acts_in_blocks_alone_is_multiplied_there() -> None:
    (one,) = drawn("strength=0.5", [asked(loras=(a_lora(usual=0.0, mid_block=1.0),))])
    assert one.loras[0].strength == Strength(0.0, {"mid_block": 0.5})


def test_the_base_is_that_of_compare_too() -> None:
    wanted = [asked(loras=(a_lora(), a_lora("style", 0.4)))]
    axes = axes_of(Sample(prompt=("",), compare=True), wanted, NO_RUN)
    assert [value.label for value in axes[0].values] == ["base", "with LoRA (cats 0.8, style 0.4)"]
    assert [one.loras for one in crossed(wanted, axes)] == [(), wanted[0].loras]


def test_each_lora_alone_at_each_strength() -> None:
    """Which LoRA acts is settled before how strongly, whatever stands first."""
    wanted = [asked(loras=(a_lora(), a_lora("style", 0.4)))]
    for grid in ("lora x strength=0,0.5", "strength=0,0.5 x lora"):
        told = {tuple((lora.path.stem, lora.strength.usual) for lora in one.loras) for one in drawn(grid, wanted)}
        assert told == {(), (("cats", 0.5),), (("style", 0.5),)}


def test_strength_without_a_lora_is_that_of_the_picture_to_begin_with() -> None:
    found = drawn("strength=0,1", [asked(strength=0.75)], init="x.png")
    assert [one.strength for one in found] == [0.0, 1.0]
    found = drawn("strength=0.5 x init-strength=0.25", [asked(strength=0.75, loras=(a_lora(),))], init="x.png")
    assert (found[0].strength, found[0].loras[0].strength.usual) == (0.25, 0.5)


def test_samplers_and_negatives() -> None:
    assert [one.sampler for one in drawn("sampler=euler,ddim", [asked()])] == [Euler(), DDIM()]
    assert len({one.sampler.kind for one in drawn("sampler", [asked()])}) >= 4
    assert [one.negative for one in drawn("negative=|blurry, dark", [asked()])] == ["", "blurry, dark"]


def test_checkpoints_take_the_place_of_the_runs_own_lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_file, "read", lambda _: Lora({}, {}))
    places = [tmp_path / f"cats-{name}.safetensors" for name in ("step-000050", "step-000100", "best")]
    for place in places:
        place.touch()
    run = RunUse(checkpoints=tuple(zip(("step 50", "step 100", "best, step 70"), places, strict=True)))
    own = Applied(places[1], Lora({}, {}), Strength(0.7))
    wanted = [asked(loras=(own, a_lora("style", 0.4)))]
    found = drawn("checkpoint", wanted, run)
    assert [one.loras[0].path for one in found] == places
    assert {one.loras[0].strength.usual for one in found} == {0.7}
    assert all(one.loras[1] is wanted[0].loras[1] for one in found)
    assert [one.loras[0].path for one in drawn("checkpoint=50,best", wanted, run)] == [places[0], places[2]]
    with pytest.raises(ConfigError, match='no checkpoint "5"; it has step 50, step 100'):
        drawn("checkpoint=5", wanted, run)


def test_animations_have_values_of_their_own() -> None:
    wanted = [asked(loras=(a_lora(),))]
    (axis,) = axes_of(Sample(prompt=("",), animate="strength"), wanted, NO_RUN)
    assert [value.label for value in axis.values] == ["0", *(f"0.{tenth}" for tenth in range(1, 10)), "1"]


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("stength=1", "did you mean strength"),
        ("foo=1", "choose one of prompt, seed"),
        ("width=64,128", "several sizes"),
        ("steps", "no values; give them as in steps=10,20,40"),
        ("steps=1.5", "should be a whole number; it was '1.5'"),
        ("steps=0", "greater than or equal to 1; it was '0'"),
        ("guidance=5000", "less than or equal to 1000"),
        ("guidance=nan", "finite"),
        ("seed=-1", "greater than or equal to 0"),
        ("sampler=eulr", "did you mean euler"),
        ("strength=0.5", "no LoRA whose strength"),
        ("init-strength=0,1", "no picture to begin with; give one with --init"),
        ("prompt=a cat --w 64|b", "--w is a flag, which values of a grid do not have"),
        ("negative=a --N 64|b", "--N is a flag"),
        ("lora", "there is none; give some with --lora"),
        ("lora=none.safetensors", "none.safetensors: no such LoRA"),
        ("checkpoint", "give a run folder with --run"),
        ("seed=1 x steps=1 x guidance=1", "3 settings, and 2 is the most"),
        ("seed=1 x seed=2", "seed is given twice"),
        ("lora x checkpoint", "both say which LoRA acts"),
        ("seed=1..101", "101 values, and 100 is the most"),
        ("=1", "names no setting"),
        ("prompt={a|b} cat", "have no {a\\|b}"),
        ("prompt=a __x__|b", "have no {a\\|b}"),
    ],
)
def test_what_cannot_be_read(grid: str, said: str) -> None:
    with pytest.raises(Exception, match=said) as told:
        drawn(grid, [asked()])
    assert "\n" not in str(told.value)


def test_strengths_beyond_all_measure() -> None:
    for text in ("101", "x", "nan", "1e9"):
        with pytest.raises(ConfigError, match="from -100 to 100"):
            drawn(f"strength={text}", [asked(loras=(a_lora(),))])
    with pytest.raises(ConfigError, match=r"strength 1: brings cats to 1 \(mid_block at 200\), and 100 is the most"):
        drawn("strength=0.01,1", [asked(loras=(a_lora(usual=0.01, mid_block=2),))])
    with pytest.raises(ConfigError, match="strength 3: brings cats to 150"):
        drawn("strength=3", [asked(loras=(a_lora(usual=50), a_lora("dogs")))])


def test_compare_needs_a_lora() -> None:
    with pytest.raises(ConfigError, match="no LoRA to set beside the base"):
        axes_of(Sample(prompt=("",), compare=True), [asked()], NO_RUN)


@pytest.mark.parametrize("animate", ["steps=5", "seed=1,1", "seed", "prompt", "strength=0", "init-strength=1"])
def test_one_value_does_not_move(animate: str) -> None:
    config = Sample(prompt=("",), animate=animate, init=Path("a.png"))
    with pytest.raises(ConfigError, match=rf"--animate {animate.partition('=')[0]}: one value, which does not move"):
        axes_of(config, [asked(loras=(a_lora(),))], NO_RUN)


def test_a_lora_that_does_nothing_is_no_comparison() -> None:
    compare = Sample(prompt=("",), compare=True)
    with pytest.raises(ConfigError, match="--compare: the LoRA has strength 0"):
        axes_of(compare, [asked(loras=(a_lora(usual=0), a_lora("dogs", usual=0)))], NO_RUN)
    assert axes_of(compare, [asked(loras=(a_lora(usual=0, mid_block=1),))], NO_RUN)
    assert axes_of(compare, [asked(loras=(a_lora(usual=0), a_lora("dogs")))], NO_RUN)


def test_too_many_pictures_are_told_before_they_are_made() -> None:
    wanted = [asked(seed=seed) for seed in range(5)]
    with pytest.raises(ConfigError, match=f"{5 * LONGEST * LONGEST:,} pictures, and {MOST:,}"):
        drawn("steps=1..100 x guidance=1..100", wanted)


@pytest.mark.parametrize("text", [" x " * 30_000, "seed=" + "1," * 50_000, "prompt=" + "[" * 100_000, " " * 100_000])
def test_long_nonsense_is_answered(text: str) -> None:
    """What is quadratic would take minutes."""
    with suppress(ConfigError):
        assert len(drawn(text, [asked()])) == 1


def test_the_base_stands_beside_loras_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = [asked(loras=(a_lora(),))]
    assert [one.loras for one in drawn("lora=None", wanted)] == [()]
    (tmp_path / "none").mkdir()
    with pytest.raises(LoraError, match=r"no \.safetensors"):
        drawn("lora=none", wanted)
