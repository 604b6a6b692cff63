"""sdtune merge tells by what is given whether a model or a LoRA is to be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdtune.config import resolve
from sdtune.core import lora_file
from sdtune.core.adapters import LoraModule
from sdtune.core.lora import Lora
from sdtune.core.lora_reports import Merged, Written
from sdtune.core.merge import merge
from sdtune.core.model import identify
from sdtune.core.reports import Note, Report, Warned
from sdtune.core.weights import open_weights
from sdtune.errors import ConfigError, InputError, LoraError, ModelError
from sdtune.lora_config import Merge
from tests import original, tiny

QUERY = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    down, up = torch.randn(2, tiny.WIDTH), torch.randn(tiny.WIDTH, 2)
    lora_file.write(tmp_path / "style.safetensors", Lora({QUERY: LoraModule(down, up, 2.0)}, "sd1"))
    return tmp_path / "style.safetensors"


def merged(*given: str | Path, **told: Any) -> list[Report]:
    return list(merge(resolve(Merge, [{"given": [str(one) for one in given], **told}])))


def test_a_folder_or_file_of_a_model_and_a_lora_make_a_model(
    tiny_models: dict[str, Path], lora: Path, tmp_path: Path
) -> None:
    single = original.save(tiny.pipeline("sd1"), "sd1", tmp_path / "model.safetensors")
    for number, base in enumerate((tiny_models["sd1"], single)):
        report = merged(base, f"{lora}:0.5", out=tmp_path / f"{number}.safetensors", verify=False)[-1]
        assert isinstance(report, Merged)
        assert identify(str(tmp_path / f"{number}.safetensors")).family == "sd1"


def test_loras_alone_make_a_lora(lora: Path, tmp_path: Path) -> None:
    report = merged(f"{lora}:0.7", f"{lora}:0.4:unet=-0.2", out=tmp_path / "out.safetensors")[-1]
    assert isinstance(report, Written)
    was, now = (lora_file.read(path).modules[QUERY].delta() for path in (lora, tmp_path / "out.safetensors"))
    torch.testing.assert_close(now, 0.5 * was, rtol=1e-2, atol=1e-2)


def test_a_run_folder_is_a_lora(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "cats-1"
    run.mkdir(parents=True)
    lora.rename(run / "cats.safetensors")
    report = merged(tiny_models["sd1"], run, out=tmp_path / "merged", verify=False)[-1]
    assert isinstance(report, Merged)
    report = merged(run, out=tmp_path / "other.safetensors")[-1]
    assert isinstance(report, Written)


def test_the_average_of_a_runs_last_goes_into_a_base(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(0)
    changes = {}
    for run in ("cats", "dogs"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "run.toml").write_text("")
        for step in (10, 20, 30):
            down = torch.randn(2, tiny.WIDTH, generator=draws)
            one = LoraModule(down, torch.randn(tiny.WIDTH, 2, generator=draws), 2.0)
            file = tmp_path / run / f"{run}-step-{step:06d}.safetensors"
            lora_file.write(file, Lora({QUERY: one}, "sd1", {"ss_steps": str(step)}), dtype="fp32")
            changes[run, step] = one.delta()
    # two LoRAs of rank 2 have a sum of rank 4, of which the best of rank 2 is kept
    expected = torch.zeros(tiny.WIDTH, tiny.WIDTH)
    for run, strength in (("cats", 0.5), ("dogs", 1.0)):
        u, s, v = torch.linalg.svd((changes[run, 20] + changes[run, 30]) / 2)
        expected += strength * (u[:, :2] * s[:2]) @ v[:2]
    given = (tiny_models["sd1"], f"{tmp_path / 'cats'}:0.5", tmp_path / "dogs")
    reports = merged(*given, out=tmp_path / "merged", last=2)
    before, after = (open_weights(identify(str(place))) for place in (tiny_models["sd1"], tmp_path / "merged"))
    change = after.read(f"{QUERY}.weight") - before.read(f"{QUERY}.weight")
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-4)
    notes = [report.text for report in reports if isinstance(report, Note)]
    assert sum("the average of the LoRAs after steps 20, 30" in note for note in notes) == 2
    report = reports[-1]
    assert isinstance(report, Merged)
    assert report.denoised is not None
    assert report.denoised < 1e-5


def test_strengths_for_what_a_lora_has_not_are_told(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    given = f"{lora}:0.8:text_encoder=1.5"
    for number, names in enumerate(((tiny_models["sd1"], given), (lora, given))):
        reports = merged(*names, out=tmp_path / f"{number}.safetensors", **({} if number else {"verify": False}))
        warned = [report.text for report in reports if isinstance(report, Warned)]
        assert warned == [f"{lora}: text_encoder=1.5 changes nothing, as the LoRA has nothing there"]


@pytest.mark.parametrize(
    ("given", "told", "error", "problem"),
    [
        (("BASE",), {}, ConfigError, "a base model alone; give LoRAs to put into it behind it"),
        (("mini",), {}, ConfigError, "mini: a base model alone"),
        (("BASE", "BASE", "LORA"), {}, ConfigError, "a second base model"),
        (("BASE", "LORA", "mini"), {}, ConfigError, "mini: a second base model"),
        (("LORA", "mini:0.8"), {}, ConfigError, "mini:0.8: a base model behind a LoRA; give the base model first"),
        (("BASE", "LORA", "mini:0.8"), {}, ConfigError, "mini:0.8: a second base model"),
        (("BASE", "nothere"), {}, LoraError, "nothere: no such LoRA file or run folder; check its name"),
        (("LORA", "BASE"), {}, ConfigError, "a base model behind a LoRA; give the base model first"),
        (("BASE:0.5", "LORA"), {}, ConfigError, "a base model has no strength"),
        (("sdxl:0.5", "LORA"), {}, ConfigError, "sdxl:0.5: a base model has no strength"),
        (("BASE", " "), {}, ConfigError, "one of the names is empty"),
        (("BASE", "nowhere.safetensors:2"), {}, LoraError, "nowhere.safetensors: no such LoRA file or run folder"),
        (("nowhere.safetensors", "LORA"), {}, LoraError, "nowhere.safetensors: no such base model, LoRA file or run"),
        (("runs/nowhere-1", "LORA"), {}, LoraError, "runs/nowhere-1: no such base model, LoRA file or run folder"),
        (("nowhere", "LORA"), {}, ModelError, "nowhere: no such folder or file"),
        (("BASE", "LORA:9:mid_blok=1"), {}, LoraError, r"the LoRA has no block mid_blok; did you mean mid_block\?"),
        (("BASE", "LORA"), {"rank": 4}, ConfigError, "--rank: is for LoRAs alone, and a base model is given"),
        (("BASE", "LORA"), {"method": "ties"}, ConfigError, "--method: is for LoRAs alone"),
        (("BASE", "LORA"), {"last": 3}, LoraError, "style.safetensors: lies in no run folder, so --last knows"),
        (("BASE", "LORA"), {"form": "peft"}, ConfigError, "--form: is for LoRAs alone"),
        (("BASE", "LORA"), {"model": "mini"}, ConfigError, "--model: is for LoRAs alone"),
        (("LORA", "LORA"), {"verify": True}, ConfigError, "--verify: is for a base model with LoRAs in it"),
    ],
)
def test_what_is_given_wrongly_is_told_in_a_line(
    given: tuple[str, ...],
    told: dict[str, Any],
    error: type[InputError],
    problem: str,
    tiny_models: dict[str, Path],
    lora: Path,
    tmp_path: Path,
) -> None:
    names = [one.replace("BASE", str(tiny_models["sd1"])).replace("LORA", str(lora)) for one in given]
    with pytest.raises(error, match=problem) as caught:
        merged(*names, out=tmp_path / "out.safetensors", **told)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [lora]
