"""Layout: each picture has its place, and all that sets it apart is told beside it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from sdtune.core.sampling.axes import Axis
from sdtune.core.sampling.layout import Shown, Table, groups_of, own_settings, parts_of, settings_of, tables_of
from sdtune.core.sampling.layout import told as told_of
from tests.core.sampling.test_sheets import axis, crossed, picture


def test_a_compare_has_a_row_for_each_prompt_and_seed(tmp_path: Path) -> None:
    one = axis("compare", "base", "with LoRA")
    pictures = [
        picture(tmp_path, 8 * line + 2 * seed + place, cell=(place,), seed=seed, line=line, prompt=f"prompt {line}")
        for line in (1, 2)
        for seed in (1, 2)
        for place in (0, 1)
    ]
    (table,) = tables_of(pictures, (one,))
    assert table.columns == ("base", "with LoRA")
    assert table.rows == ("seed 1: prompt 1", "seed 2: prompt 1", "seed 1: prompt 2", "seed 2: prompt 2")
    assert {place: one.path for place, one in table.cells.items()} == {
        (place // 2, place % 2): one.path for place, one in enumerate(pictures)
    }
    (table,) = tables_of(pictures[:2], (one,))
    assert (table.rows, table.heading) == (("seed 1",), "prompt 1")


def test_prompts_go_down_and_seeds_across(tmp_path: Path) -> None:
    for axes in ((), (axis("prompt", "p1", "p2"),)):
        pictures = [
            picture(tmp_path, 10 * line + seed, cell=(line - 1,) * len(axes), seed=seed, line=line, prompt=f"p{line}")
            for line in (1, 2)
            for seed in (5, 6, 7)
        ]
        (table,) = tables_of(pictures, axes)
        assert (table.rows, table.columns) == (("p1", "p2"), ("seed 5", "seed 6", "seed 7"))
        assert [table.cells[row, column].path for row in (0, 1) for column in range(3)] == [
            one.path for one in pictures
        ]


def test_two_axes_make_a_sheet_for_each_prompt_and_seed(tmp_path: Path) -> None:
    axes = (axis("strength", "0", "1"), axis("steps", "5", "10"))
    pictures = [
        picture(tmp_path, place, cell=cell, seed=seed, line=line, prompt=f"p{line}")
        for place, (line, seed, cell) in enumerate(product((1, 2), (1, 2), product((0, 1), (0, 1))))
    ]
    parts = parts_of(pictures, axes)
    assert [[one.path for one in part] for part in parts] == [
        [one.path for one in pictures[start : start + 4]] for start in range(0, 16, 4)
    ]
    assert [table.heading for table in tables_of(pictures, axes)] == ["p1", "p1", "p2", "p2"]
    assert tables_of(pictures, axes)[0].rows == ("strength 0 (base)", "strength 1")


def test_prompts_of_one_line_and_seed_are_kept_apart(tmp_path: Path) -> None:
    one = axis("steps", "5", "10")
    pictures = [
        picture(tmp_path, place, cell=(cell,), prompt=f"a {what} cat")
        for place, (what, cell) in enumerate(product(("red", "blue"), (0, 1)))
    ]
    assert [len(group) for group in groups_of(pictures, (one,)).values()] == [2, 2]
    assert tables_of(pictures, (one,))[0].rows == ("a red cat", "a blue cat")
    table = tables_of([picture(tmp_path, place, prompt=f"p{place}") for place in range(3)], ())[0]
    assert table.rows == ("p0", "p1", "p2")


def test_choices_of_a_prompt_stand_under_its_pictures(tmp_path: Path) -> None:
    texts = ["a red fox on a mat", "a green car on a mat", "a fox on a mat"]
    pictures = [picture(tmp_path, place, prompt=text, seed=place) for place, text in enumerate(texts)]
    (table,) = tables_of(pictures, ())
    assert (table.heading, table.rows, table.columns) == ("a ... on a mat", ("",), ("seed 0", "seed 1", "seed 2"))
    assert [table.captions[0, place] for place in range(3)] == ["red fox", "green car", "fox"]
    other = [picture(tmp_path, 3 + place, prompt="a dog", seed=place, line=2) for place in range(3)]
    (table,) = tables_of([*pictures, *other], ())
    assert (table.heading, table.rows) == ("", ("a ... on a mat", "a dog"))
    assert [table.captions[1, place] for place in range(3)] == [""] * 3
    (table,) = tables_of([picture(tmp_path, 9, prompt=text, seed=seed) for seed, text in enumerate(("x", "y"))], ())
    assert (table.heading, table.rows) == ("", ("prompt 1",))
    assert table.captions == {(0, 0): "x", (0, 1): "y"}


def test_choices_are_told_on_every_kind_of_grid(tmp_path: Path) -> None:
    seeds, steps = axis("seed", "1", "2"), axis("steps", "5", "9")

    def table_of(axes: tuple[Axis, ...], cells: dict[tuple[int, ...], str]) -> Table:
        made = [
            picture(tmp_path, place, cell=cell, prompt=text, seed=cell[-1] * (seeds in axes))
            for place, (cell, text) in enumerate(cells.items())
        ]
        (table,) = tables_of(made, axes)
        return table

    table = table_of((steps, seeds), {(0, 0): "a red fox", (0, 1): "a fox", (1, 0): "a red fox", (1, 1): "a fox"})
    assert (table.heading, table.rows, table.columns) == ("a ... fox", ("steps 5", "steps 9"), ("seed 1", "seed 2"))
    assert table.captions == {(0, 0): "red", (1, 0): "red", (0, 1): "(no prompt)", (1, 1): "(no prompt)"}
    table = table_of((seeds,), {(0,): "a red fox", (1,): "a blue fox"})
    assert (table.heading, table.captions) == ("a ... fox", {(0, 0): "red", (0, 1): "blue"})
    prompts = axis("prompt", "a red fox", "a dog")
    cells = {(0, 0): "a red fox", (0, 1): "a blue fox", (1, 0): "a dog", (1, 1): "a dog"}
    table = table_of((prompts, seeds), cells)
    assert (table.heading, table.rows) == ("", ("a ... fox", "a dog"))
    assert table.captions == {(0, 0): "red", (0, 1): "blue", (1, 0): "", (1, 1): ""}
    table = table_of((steps, prompts), {(0, 0): "a red fox", (0, 1): "a dog", (1, 0): "a red fox", (1, 1): "a dog"})
    assert table.columns == ("a red fox", "a dog")
    assert not any(table.captions.values())


def test_seeds_of_prompts_stand_under_the_pictures_where_each_has_its_own(tmp_path: Path) -> None:
    pictures = [picture(tmp_path, place, prompt=f"p{place}", seed=5 + place, line=place) for place in (1, 2)]
    (table,) = tables_of(pictures, ())
    assert (table.rows, table.columns) == (("p1", "p2"), ("",))
    assert table.captions == {(0, 0): "seed 6", (1, 0): "seed 7"}


def test_the_loras_are_named_below_with_their_strength_where_it_is_one(tmp_path: Path) -> None:
    def foot(*loras: dict[str, str]) -> str:
        axes = (axis("x", *map(str, range(len(loras)))),)
        pictures = [replace(one, loras=told) for one, told in zip(crossed(tmp_path, *axes), loras, strict=True)]
        (table,) = tables_of(pictures, axes)
        return told_of(table.settings).removesuffix(", Steps 5, Sampler Euler, Seed 1")

    assert foot({"cats": "0.8"}, {"cats": "0.8"}) == "LoRA cats 0.8"
    assert foot({}, {"cats": "0.5"}, {"cats": "1"}) == "LoRA cats"
    assert foot({"hash": "1", "b": "2"}, {"hash": "1", "b": "1 (text at 0)"}) == "LoRA hash 1, LoRA b"
    assert foot({"cats": "1"}, {"dogs": "1"}) == foot({}, {}) == "Steps 5, Sampler Euler, Seed 1"


@pytest.mark.parametrize(("prompts", "seeds", "along"), [(60, 1, 0), (1, 60, 0), (30, 30, 0), (50, 1, 1)])
def test_every_picture_stands_on_one_of_the_sheets(prompts: int, seeds: int, along: int) -> None:
    axes = (axis("compare", "base", "with"),) * along
    pictures = [
        Shown(Path(f"{line}-{seed}-{cell}"), f"p{line}", seed, line, cell, "")
        for line in range(1, prompts + 1)
        for seed in range(seeds)
        for cell in (((0,), (1,)) if along else ((),))
    ]
    tables = tables_of(pictures, axes)
    told = [one.path for table in tables for one in table.cells.values()]
    assert sorted(told) == sorted(one.path for one in pictures)
    assert all(len(table.rows) <= 24 and len(table.columns) <= 16 for table in tables)


def test_settings_are_told_once_or_where_they_differ(tmp_path: Path) -> None:
    one = Shown(tmp_path, "x", 1, 1, (0,), 'x, Steps: 9\nSteps: 5, Lora hashes: "a: 1, b: 2", Seed: 1')
    assert settings_of(one) == {"Steps": "5", "Lora hashes": '"a: 1, b: 2"', "Seed": "1"}
    pictures = crossed(tmp_path / "p", axis("steps", "5", "5"))
    pictures[1] = Shown(pictures[1].path, "a cat", 1, 1, (1,), "a cat\nSteps: 10, Sampler: Euler, Seed: 1")
    (table,) = tables_of(pictures, (axis("steps", "5", "10"),))
    assert table.settings == {"Sampler": "Euler", "Seed": "1"}
    assert [own_settings(table, one) for one in pictures] == ["Steps 5", "Steps 10"]
