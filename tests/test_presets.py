"""Every shipped preset: it loads, says what it is for and what it needs, and sets only what differs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sdtune.config import TrainLora, preset_names, presets_folder, read_preset, refine, resolve
from sdtune.core.families import family_named
from sdtune.core.model import identify
from tools import presets_table

ROOT = Path(__file__).parents[1]
MODELS = {"mini": "mini", "sd15": "sd15", "sd21": "sd21", "sdxl": "sdxl", "sd35m": "sd35-medium"}
"""first word of a preset's name -> the model it sets, from small to large"""
GOALS = {"style", "face", "object"}
NAMES = preset_names()


def leaves(tables: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """{("network", "rank"): 8} of every setting in nested tables."""
    found: dict[tuple[str, ...], Any] = {}
    for name, value in tables.items():
        found |= leaves(value, (*path, name)) if isinstance(value, dict) else {(*path, name): value}
    return found


def value_at(config: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config


def test_every_short_model_name_and_goal_has_presets() -> None:
    families = {name.split("-")[0] for name in NAMES} - GOALS
    assert families == set(MODELS)
    assert set(NAMES) >= GOALS


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_loads_and_sets_only_what_differs(name: str) -> None:
    tables = read_preset(name)
    config = resolve(TrainLora, [tables, {"data": {"folder": "x"}}])
    model = {"model": config.model}
    usual = resolve(TrainLora, [model, {"data": {"folder": "x"}}])
    if "model" in tables and name != "mini":
        usual = refine(usual, family_named(identify(config.model).family).defaults)
    for path in leaves(tables):
        if path == ("model",):
            continue
        assert value_at(config, path) != value_at(usual, path), f"{'.'.join(path)} is what it would be anyway"


@pytest.mark.parametrize("name", NAMES)
def test_the_name_and_the_head_say_what_it_holds(name: str) -> None:
    preset = presets_table.read(name)
    text = (presets_folder() / f"{name}.toml").read_text(encoding="utf-8")
    assert re.match(r"# \S.{10,}\n", text), "the first line says what it is for"
    assert all(len(line) <= 120 for line in text.splitlines())
    first = name.split("-")[0]
    card = presets_table.CARD.search(name)
    assert card or name in GOALS or name == "mini"
    if name not in GOALS and name != "mini":
        assert preset.tables["model"] == MODELS[first]
    if name in GOALS:
        assert "model" not in preset.tables
        assert "passes" in preset.tables, "the same work at any batch size"
        assert "steps" not in preset.tables
        assert not leaves(preset.tables).keys() & {("memory", "gradient_checkpointing"), ("data", "resolution")}
    if card:
        assert preset.card == int(card[1]), "the head names the card of the file's name"
        assert preset.need is not None
        assert preset.need < 0.95 * preset.card, "so near to the card's size it cannot be promised"


def test_presets_of_a_card_and_a_goal_go_together() -> None:
    cards = [name for name in NAMES if presets_table.CARD.search(name)]
    for card in cards:
        for goal in GOALS:
            config = resolve(TrainLora, [read_preset(card), read_preset(goal), {"data": {"folder": "x"}}])
            for name in (card, goal):
                for path, value in leaves(read_preset(name)).items():
                    assert value_at(config, path) == value, f"{card} and {goal} disagree on {'.'.join(path)}"


def test_the_table_has_a_row_for_each_preset() -> None:
    rows = presets_table.table().splitlines()[2:]
    assert sorted(re.findall(r"^\| `([^`]+)`", "\n".join(rows), re.MULTILINE)) == sorted(NAMES)
    assert all(line.count("|") == 5 for line in rows)


def test_the_table_goes_from_small_models_and_cards_to_large_ones_and_ends_with_the_goals() -> None:
    order = [*MODELS, *sorted(GOALS)]
    places = [(order.index(one.name.split("-")[0]), one.card or 0) for one in presets_table.presets()]
    assert places == sorted(places)


def test_the_readme_has_this_table() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"<!-- presets -->\n(.*?)<!-- /presets -->", readme, re.DOTALL)
    if section is None or not section[1].strip():
        pytest.skip("README.md has no section of presets yet")
    assert f"{presets_table.table()}\n" in section[1], "run: python -m tools.presets_table"


def test_every_preset_in_the_project_is_toml() -> None:
    for path in presets_folder().glob("*"):
        assert path.suffix == ".toml"
        tomllib.loads(path.read_text(encoding="utf-8"))
