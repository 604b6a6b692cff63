"""A LoRA that a user names is found: the finished one of a run, the only one of a folder; else all there is is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from sdtune.core.lora_place import kept_in, lora_at, lora_in, step_of, used_of
from sdtune.core.run_folder import RunFolder
from sdtune.errors import LoraError
from tests import foreign

ONES = torch.ones(8, 4)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_lora_of_a_run_is_the_finished_one_else_the_latest() -> None:
    run = RunFolder(Path("run"), "cats")
    run.path.mkdir()
    with pytest.raises(LoraError, match="in this folder"):
        lora_in(run.path)
    (run.path / ".cats-left-over.safetensors").touch()
    for step in (10, 200, 30):
        run.partial(step).touch()
    assert lora_in(run.path) == run.partial(200)
    run.lora.touch()
    assert lora_in(run.path) == run.lora


def test_best_and_kept_loras_are_not_taken_for_the_finished_one() -> None:
    run = RunFolder(Path("runs/cats-1"), "cats").create("", '{"name": "cats", "images": []}')
    run.best.touch()
    for step in (900, 1000, 99):
        run.partial(step).touch()
    assert lora_in(run.path) == run.partial(1000)
    run.lora.touch()
    assert lora_in(run.path) == run.lora


def test_the_lora_in_two_forms_is_one_wherever_the_folder_has_come() -> None:
    run = RunFolder(Path("renamed"), "cats")  # without data.json, so that nothing names it
    run.path.mkdir()
    for path in (run.lora, run.lora_of_peft, run.partial(100)):
        path.touch()
    assert lora_in(run.path) == run.lora
    run.lora.unlink()
    assert lora_in(run.path) == run.lora_of_peft


def test_of_several_files_those_that_are_loras_are_named() -> None:
    folder = Path("mixed")
    folder.mkdir()
    (folder / "empty.safetensors").touch()
    foreign.saved(folder / "model.safetensors", {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": ONES})
    with pytest.raises(LoraError, match=r"mixed: none of its 2 \.safetensors is a LoRA; give"):
        lora_in(folder)
    for number in range(9):
        foreign.saved(folder / f"cats{number}.safetensors", foreign.plain("lora_unet_mid_block_attentions_0_proj_in"))
        if not number:
            assert lora_in(folder) == folder / "cats0.safetensors"
    with pytest.raises(LoraError) as problem:
        lora_in(folder)
    named = ", ".join(f"cats{number}.safetensors" for number in range(6))
    assert str(problem.value) == f"mixed: holds several LoRAs; give one of {named} and 3 more"


def test_a_model_is_no_run_folder() -> None:
    folder = Path("model")
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(LoraError, match="model: a model, not a LoRA; give a LoRA file or a run folder"):
        lora_at(folder)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere", "nowhere: no such LoRA file or run folder; check its name"),
        ("nowhere.safetensors", "no such LoRA file"),
        ("nowhere.pt", ".pt is a pickle"),
        ("x" * 5000, "no such LoRA file"),
        ("a\0b", "no such LoRA file"),
    ],
)
def test_a_place_with_nothing_is_told(name: str, told: str) -> None:
    with pytest.raises(LoraError, match=re.escape(told)):
        lora_at(Path(name))


@pytest.mark.parametrize("name", ["cats-best", "cats-step-000100", "a.b"])
def test_the_lora_of_a_data_set_with_a_confusing_name_is_found(name: str) -> None:
    run = RunFolder(Path("out"), name).create(f'[data]\nfolder = "sets/{name}"\n')
    run.partial(20).touch()
    assert RunFolder.at(run.path) == RunFolder(run.path, name)
    assert lora_in(run.path) == run.partial(20)
    run.best.touch()
    run.lora.touch()
    assert lora_in(run.path) == run.lora


def test_the_loras_of_a_run_stand_in_the_order_of_its_training() -> None:
    run = RunFolder(Path("run"), "cats").create("", '{"name": "cats", "images": []}')
    for step in (1000, 200, 30):
        run.partial(step).touch()
    (run.path / "dogs-step-000007.safetensors").touch()
    run.lora_of_peft.touch()
    partials = [(f"step {step}", run.partial(step)) for step in (30, 200, 1000)]
    assert kept_in(run) == partials
    run.best.touch()  # of a step that nobody tells
    assert kept_in(run) == [*partials, ("best", run.best)]
    assert used_of(run) == run.partial(1000)
    run.lora.touch()
    run.finish({"steps": 2000, "best": 200})
    assert kept_in(run) == [partials[0], ("best", run.best), partials[2], ("end", run.lora)]
    assert used_of(run) == run.best
    for best in (0, None, "200", True):
        run.finish({"steps": 2000, "best": best})
        assert used_of(run) == run.lora
    run.finish({"best": 200})
    run.best.unlink()
    assert used_of(run) == run.lora
    assert step_of(run.partial(30)) == 30
    assert step_of(run.lora) is None
