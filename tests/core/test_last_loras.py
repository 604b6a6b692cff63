"""The average of the last LoRAs of a run: of their updates, at the rank that they have."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdtune.core.merge_loras import merge_loras
from sdtune.core.reports import Note
from sdtune.errors import LoraError
from sdtune.lora_config import Merge
from tests.core.some_loras import apart, applied, lora, told, updates


def run(folder: Path, steps: tuple[int, ...] = (10, 20, 30)) -> Path:
    """A run folder with LoRAs of these steps, the last of them finished, and the best beside them."""
    folder.mkdir()
    (folder / "run.toml").write_text('[data]\nfolder = "cats"\n')
    for step in steps:
        name = "cats" if step == steps[-1] else f"cats-step-{step}"
        applied(folder / f"{name}.safetensors", lora("sd1", seed=step, metadata={"ss_steps": str(step)}))
    applied(folder / "cats-best.safetensors", lora("sd1", seed=20, metadata={"ss_steps": "20"}))
    return folder / "cats.safetensors"


def test_the_last_ones_of_a_run_are_averaged(tmp_path: Path) -> None:
    path, out = run(tmp_path / "run"), tmp_path / "c.safetensors"
    of_run = applied(path, lora("sd1", seed=30), 0.5)
    *reports, written = merge_loras(Merge(given=("run",), out=out, last=2, rank=8, dtype="fp32"), [of_run])
    first, second = (updates(lora("sd1", seed=step)) for step in (20, 30))
    mean = {name: 0.5 * (first[name] + second[name]) / 2 for name in first}
    lost = apart(updates(out), mean)
    (said,) = [one.text for one in reports if isinstance(one, Note) and "average" in one.text]
    assert "steps 20, 30" in said
    assert f"{100 * lost:.2g} % of it is lost" in said, "each has rank 4, and their mean 8"
    assert written.rank == "4"


def test_more_than_a_run_has_is_refused(tmp_path: Path) -> None:
    path = run(tmp_path / "run")
    with pytest.raises(LoraError, match=r"has 3 LoRAs of different steps (.*), fewer than --last 4"):
        told(merge_loras(Merge(given=("run",), out=tmp_path / "c.safetensors", last=4), [applied(path, lora("sd1"))]))
    alone = applied(tmp_path / "a.safetensors", lora("sd1"))
    with pytest.raises(LoraError, match="lies in no run folder"):
        told(merge_loras(Merge(given=("a",), out=tmp_path / "c.safetensors", last=2), [alone]))
