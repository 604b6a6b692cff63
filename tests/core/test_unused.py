"""A setting that was changed and cannot matter is told, and no other."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from sdtune.config import TrainLora, preset_names, read_preset, resolve, to_toml
from sdtune.core.families import families, family_named
from sdtune.core.reports import Warned
from sdtune.core.train_lora import train_lora
from sdtune.core.unused import unused_settings


def told(tables: dict[str, Any], family: str = "sdxl") -> list[str]:
    return unused_settings(resolve(TrainLora, [{"data": {"folder": "data"}}, tables]), family_named(family))


ON: dict[str, dict[str, Any]] = {
    "text": {"train": True},
    "keep_base": {"weight": 0.5},
    "augment": {"flip": True},
    "captions": {"shuffle": True},
    "token": {"word": "wug"},
    "mask": {"use": "files"},
}


@pytest.mark.parametrize(
    ("table", "name", "value", "off"),
    [
        ("text", "lr", 1e-4, {}),
        ("text", "lr_2", 1e-4, {}),
        ("keep_base", "prompts", ["a cat"], {}),
        ("augment", "versions", 4, {}),
        ("augment", "tag", True, {}),
        ("augment", "tag", True, {"flip": True, "versions": 1}),
        ("captions", "keep", 3, {}),
        ("token", "init", "cat", {}),
        ("token", "vectors", 4, {}),
        ("token", "lr", 1e-4, {}),
        ("mask", "floor", 0.5, {"use": "off"}),
    ],
)
def test_what_cannot_matter_is_told_by_name(table: str, name: str, value: Any, off: dict[str, Any]) -> None:
    found = told({table: {name: value} | off})
    assert sum(one.startswith(f"{table}.{name}: has no effect") for one in found) == 1
    assert len(found) == 1 + ("flip" in off)
    assert told({table: {name: value} | ON[table]}) == []


@pytest.mark.parametrize("name", ["crop", "flip", "rotate", "colour"])
def test_one_version_is_the_plain_image(name: str) -> None:
    value = True if name == "flip" else 0.1
    reason = "has no effect, since augment.versions is 1, which is the plain image"
    assert told({"augment": {name: value, "versions": 1}}) == [f"augment.{name}: {reason}"]
    assert told({"augment": {name: value, "versions": 2}}) == told({"augment": {name: value}}) == []


def test_a_second_rate_is_for_families_of_two_encoders() -> None:
    tables = {"text": {"train": True, "lr_2": 1e-4}}
    assert {name for name in families() if told(tables, name)} == {"sd1", "sd2"}
    assert told(tables, "sd1") == ["text.lr_2: has no effect, since Stable Diffusion 1.x has one text encoder alone"]


def test_files_of_settings_that_repeat_all_are_quiet() -> None:
    for name in preset_names():
        assert told(dict(read_preset(name))) == []
    whole = tomllib.loads(to_toml(resolve(TrainLora, [{"data": {"folder": "data"}}])))
    assert told(whole) == []


def test_a_training_tells_it_first(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    tables = {"model": str(tiny_models["sd1"]), "data": {"folder": tmp_path}, "text": {"lr": 1e-4}}
    work = train_lora(resolve(TrainLora, [tables]))
    assert next(work) == Warned("text.lr: has no effect without text.train")
    work.close()
