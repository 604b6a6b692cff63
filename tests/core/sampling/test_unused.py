"""A setting that was given and cannot matter is told, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdtune.choices.samplers import DPMpp2M, UniPC
from sdtune.config import Sample, resolve
from sdtune.core import memory
from sdtune.core.reports import Note, Report, Warned
from sdtune.core.sample import sample
from sdtune.core.sampling.recipe import Recipe
from sdtune.core.sampling.unused import unused_in, unused_settings
from sdtune.errors import ConfigError
from sdtune.sample_config import Hires
from tests import tiny
from tests.core.sampling.recipes import recipe


def told(**tables: Any) -> list[str]:
    return list(unused_settings(resolve(Sample, [{"prompt": ["a cat"]}, tables])))


@pytest.mark.parametrize(
    ("given", "begins", "mended"),
    [
        ({"combinations": True, "syntax": "plain"}, "--combinations: has no effect without", {"syntax": "a1111"}),
        ({"wildcards": "w", "syntax": "plain"}, "--wildcards: has no effect without --syntax", {"syntax": "a1111"}),
        ({"lora_folder": "w", "syntax": "plain"}, "--lora-folder: has no effect without", {"syntax": "a1111"}),
        ({"add_trigger": False}, "--no-add-trigger: has no effect without --run", {"run": "runs/cats"}),
        ({"hires": {"strength": 0.3}}, "--hires.strength: has no effect without --hires", {"hires": {"scale": 2}}),
        ({"hires": {"steps": 9}}, "--hires.steps: has no effect without --hires", {"hires": {"scale": 2}}),
        ({"out": "a.png", "name": "{seed}"}, "--name: has no effect, since --out a.png is", {"out": "a"}),
        (
            {"init": "a.png", "structure": 0.5, "strength": 0.0},
            "--structure: has no effect, since --strength is 0",
            {"strength": 0.1},
        ),
    ],
)
def test_what_cannot_matter_is_told_by_name(given: dict[str, Any], begins: str, mended: dict[str, Any]) -> None:
    (line,) = told(**given)
    assert line.startswith(begins)
    assert list(unused_settings(resolve(Sample, [{"prompt": ["a cat"]}, given, mended]))) == []


def test_usual_commands_are_quiet() -> None:
    assert told() == []
    assert told(out="sheet.png", grid=["seed=1..2"], name="{seed}") == []
    assert told(run="runs/cats", add_trigger=False, hires={"scale": 2, "steps": 9}, combinations=True) == []


def found(one: Recipe, base: str = "sd1", **tables: Any) -> list[str]:
    config = resolve(Sample, [{"prompt": ["a cat"]}, tables])
    return list(unused_in(config, [one], tiny.pipeline(base).scheduler, 8))


def test_without_guidance_nothing_is_held_against_the_prompt() -> None:
    free = recipe(guidance=1.0, negative="dark")
    assert found(free, guidance_rescale=0.7) == [
        "--guidance-rescale: has no effect, since guidance is 1",
        "--negative: has no effect, since guidance is 1",
    ]
    assert found(free.model_copy(update={"guidance": 2.0}), guidance_rescale=0.7) == []
    assert found(free.model_copy(update={"negative": ""})) == []


def test_a_second_pass_that_is_no_larger_is_told() -> None:
    one = recipe(width=128, height=128, hires=Hires(scale=1.01))
    assert found(one) == ["--hires 1.01: the second pass is no larger than the first, 128 x 128 pixels"]
    assert found(one.model_copy(update={"hires": Hires(scale=1.1)})) == []
    assert found(one.model_copy(update={"hires": Hires()})) == []


def test_a_flow_has_no_karras_levels() -> None:
    line = "--no-sampler.karras: has no effect, since the steps of SD3 follow its flow"
    assert found(recipe(sampler=DPMpp2M(karras=False)), "sd3") == [line]
    assert found(recipe(sampler=DPMpp2M(karras=False))) == found(recipe(sampler=DPMpp2M()), "sd3") == []
    assert found(recipe(sampler=UniPC()), "sd3") == []


def drawn(model: Path, **tables: Any) -> list[Report]:
    return list(sample(resolve(Sample, [{"prompt": ["a cat"], "steps": 2, "model": str(model)}, tables])))


def test_a_drawing_tells_it_and_draws(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    tables = {"guidance": 1.0, "guidance_rescale": 0.5, "hires": {"strength": 0.3}, "memory": {"attention": "xformers"}}
    reports = drawn(tiny_models["sd1"], out=tmp_path / "a.png", **tables)
    warned = [report.text for report in reports if isinstance(report, Warned)]
    assert warned[0] == "--hires.strength: has no effect without --hires"
    assert warned[1].startswith("attention: sdpa, since xformers ")
    assert warned[2] == "--guidance-rescale: has no effect, since guidance is 1"
    assert b'"attention":"sdpa"' in (tmp_path / "a.png").read_bytes(), "what was used is what is recorded"


def test_a_drawing_is_deterministic_on_a_card_where_that_is_asked(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "device_for", lambda *_, **__: torch.device("cuda"))
    with pytest.raises(ConfigError, match="xformers is not the same bits each time; use sdpa with --deterministic"):
        drawn(tiny_models["sd1"], memory={"deterministic": True, "attention": "xformers"})


def test_the_second_pass_is_named(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    reports = drawn(tiny_models["sd1"], out=tmp_path / "a.png", hires={"scale": 1.5})
    notes = [report.text for report in reports if isinstance(report, Note)]
    assert "drawing with DPM++ 2M, 2 steps, guidance 5, 64 x 64 pixels, then 96 x 96 in 1 of 2 steps" in notes
