"""LoRAs at lower ranks: nothing lost where nothing is cut, and what is lost is what is told."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sdtune.core import lora_file, model
from sdtune.core.adapters import LoraModule
from sdtune.core.adapters.difference import Difference
from sdtune.core.header import read_header
from sdtune.core.lora import Lora
from sdtune.core.lora_writer import write
from sdtune.core.low_rank import Product, spectrum
from sdtune.core.memorisation import alignment
from sdtune.core.reports import Note
from sdtune.core.resize_lora import resize_lora
from sdtune.core.weights import open_weights
from sdtune.errors import ConfigError, LoraError, OutputError
from sdtune.lora_config import LoraResize
from tests.core.some_loras import agree, apart, loha, lora, told, updates


def resized(folder: Path, of: Lora, **options: Any) -> tuple[Path, Path, Any]:
    """The file before, the one after, and what was said in the end."""
    before, after = folder / "before.safetensors", folder / "after.safetensors"
    if not before.exists():
        write(before, of, dtype="fp32")
    written = told(resize_lora(LoraResize(lora=before, out=after, overwrite=True, **options)))
    return before, after, written


@pytest.mark.parametrize("limits", [{"rank": 4}, {"share": 1.0}, {"ratio": 1e6}, {"rank": 64}])
def test_nothing_is_lost_where_nothing_is_cut(family_name: str, limits: Any, tmp_path: Path) -> None:
    before, after, written = resized(tmp_path, lora(family_name, 4), **limits)
    agree(updates(after), updates(before), 1e-6)
    assert (written.rank, written.lost, written.blocks, written.dtype) == ("4", None, (), "fp32")


@pytest.mark.parametrize("limits", [{"rank": 2}, {"share": 0.8}, {"ratio": 1.3}, {"rank": 3, "share": 0.9}])
def test_what_is_lost_is_what_is_told(limits: Any, tmp_path: Path) -> None:
    before, after, written = resized(tmp_path, lora("sd1", 4), **limits)
    mine, theirs = updates(after), updates(before)
    ranks = {name: module.rank or 0 for name, module in lora_file.read(after).modules.items()}
    assert written.lost == pytest.approx(apart(mine, theirs), rel=1e-4)
    assert sum(block.modules for block in written.blocks) == len(theirs)
    for block in written.blocks:
        names = [name for name in theirs if block.block in name]
        lost = apart({name: mine[name] for name in names}, {name: theirs[name] for name in names})
        assert block.lost == pytest.approx(lost, rel=1e-4)
        least, most = (wanted(ranks[name] for name in names) for wanted in (min, max))
        assert block.rank == (f"{least}-{most}" if least < most else str(most))
        assert block.before == "4"
    for name, update in theirs.items():
        cut = torch.linalg.svdvals(update)
        found = ranks[name]
        lost = torch.linalg.vector_norm(mine[name] - update)
        assert lost == pytest.approx(float(cut[found:].norm()), rel=1e-4, abs=1e-5), "as little as can be"
        if "share" in limits and limits != {"rank": 3, "share": 0.9}:
            assert cut[:found].norm() >= limits["share"] * cut.norm() > cut[: found - 1].norm()


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"rank": 64}, "its rank is 4, below --rank 64; give a lower one"),
        ({"share": 1.0}, "its rank is 4, and all of it is within what was asked for; give a lower --rank or --share"),
        ({"rank": 2}, None),
    ],
)
def test_a_lora_that_stays_as_it_is_is_told(limits: Any, said: str | None, tmp_path: Path) -> None:
    before = tmp_path / "before.safetensors"
    write(before, lora("sd1", 4))
    reports = list(resize_lora(LoraResize(lora=before, out=tmp_path / "after.safetensors", **limits)))
    found = [one.text for one in reports if isinstance(one, Note)]
    assert found == ([f"nothing is taken away: {said}"] if said else [])


def test_the_stricter_of_two_limits_holds_in_each_module(tmp_path: Path) -> None:
    one, both, other = (
        {
            name: module.rank or 0
            for name, module in lora_file.read(resized(tmp_path, lora("sd1", 8), **limits)[1]).modules.items()
        }
        for limits in ({"share": 0.9}, {"share": 0.9, "ratio": 1.8}, {"ratio": 1.8})
    )
    assert both == {name: min(one[name], other[name]) for name in one}
    assert one != both != other


def test_precision_and_metadata_stay_and_the_same_gives_the_same(tmp_path: Path) -> None:
    before = tmp_path / "before.safetensors"
    write(before, lora("sd1", 4, metadata={"modelspec.title": "cats", "ss_steps": "30"}), dtype="bf16")
    _, after, written = resized(tmp_path, lora("sd1"), rank=2)
    first = after.read_bytes()
    resized(tmp_path, lora("sd1"), rank=2)
    assert after.read_bytes() == first
    header = read_header(after, LoraError)
    assert written.dtype == "bf16"
    assert "BF16" in header.dtypes.values()
    assert (header.metadata["modelspec.title"], header.metadata["ss_steps"]) == ("cats", "30")
    assert header.metadata["ss_network_dim"] == "2"
    assert written.made == "rank 4 to 2"


def test_other_networks_become_plain_without_a_limit(tmp_path: Path) -> None:
    before, after, written = resized(tmp_path, loha("sd1"))
    agree(updates(after), updates(before), 1e-5)
    modules = lora_file.read(after).modules
    assert {one.kind for one in modules.values()} == {"LoRA"}
    assert written.rank == "4", "of two of rank 2, number by number"
    assert written.lost is None


def test_norms_and_biases_stay_as_they_are(tmp_path: Path) -> None:
    plain, norm = lora("sd1", 4), torch.linspace(0, 1, 32)
    name = next(name for name in plain.modules if name.endswith("conv1"))
    modules = {**plain.modules, "unet.mid_block.resnets.0.norm1": Difference(norm, "w_norm")}
    _, after, _ = resized(tmp_path, replace(plain, modules=modules, biases={name: norm}), rank=1)
    again = lora_file.read(after)
    assert torch.equal(again.biases[name], norm)
    assert torch.equal(again.modules["unet.mid_block.resnets.0.norm1"].delta().flatten(), norm)


def test_biases_alone_stay_and_nothing_is_lost(tmp_path: Path) -> None:
    bias = torch.linspace(0, 1, 32)
    _, after, written = resized(tmp_path, Lora({}, "sd1", {}, {"unet.conv_in": bias}), rank=1)
    assert torch.equal(lora_file.read(after).biases["unet.conv_in"], bias)
    assert (written.modules, written.rank, written.lost) == (1, "-", None)


def test_a_module_that_adds_nothing_stays_one(tmp_path: Path) -> None:
    plain = lora("sd1", 4)
    name, one = next(iter(plain.modules.items()))
    assert isinstance(one, LoraModule)
    dead = {**plain.modules, name: LoraModule(one.down, torch.zeros_like(one.up), 1.0)}
    _, after, _ = resized(tmp_path, replace(plain, modules=dead), rank=2)
    assert not lora_file.read(after).modules[name].delta().any()


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_the_filter_damps_what_the_base_does_least(
    strength: float, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    plain, base = lora("sd1", 4), str(tiny_models["sd1"])
    before, after, written = resized(tmp_path, plain, filter_memorisation=strength, model=base)
    mine, theirs = updates(after), updates(before)
    if not strength:
        agree(mine, theirs, 1e-6)
        return
    assert written.lost == pytest.approx(apart(mine, theirs), rel=1e-4)
    assert f"filtered by {strength:g}" in written.made
    weights = open_weights(model.identify(base))
    for name, module in lora_file.read(before).modules.items():
        assert isinstance(module, LoraModule)
        found = spectrum(Product(*module.factors()))
        aligned = alignment(found, weights.read(f"{name}.weight").float().flatten(1))
        kept = torch.stack(
            [left @ mine[name].double() @ right for left, right in zip(found.left.T, found.right, strict=True)]
        )
        shares = kept / found.values
        weakness = (aligned.max() - aligned) / (aligned.max() - aligned.min())
        assert torch.allclose(shares, 1 - strength * weakness, atol=1e-4)
        assert shares[aligned.argmax()] == pytest.approx(1, abs=1e-4)
        assert shares[aligned.argmin()] == pytest.approx(1 - strength, abs=1e-4)


def test_what_cannot_be_done_is_refused_before_anything_is_written(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="say how small"):
        resized(tmp_path, lora("sd1"))
    with pytest.raises(ConfigError, match="give it with --model"):
        resized(tmp_path, lora("sd1"), filter_memorisation=0.5)
    with pytest.raises(LoraError, match="give those of one family"):
        resized(tmp_path, lora("sd1"), filter_memorisation=0.5, model=str(tiny_models["sdxl"]))
    before = tmp_path / "before.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == [before.name]
    with pytest.raises(OutputError, match="is what the work begins with"):
        told(resize_lora(LoraResize(lora=before, out=before, rank=2)))


def test_no_file_of_the_model_is_replaced(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    base, before = tmp_path / "base", tmp_path / "before.safetensors"
    shutil.copytree(tiny_models["sd1"], base)
    write(before, lora("sd1"))
    weights = base / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    with pytest.raises(OutputError, match="is of the model base, which stays"):
        told(resize_lora(LoraResize(lora=before, out=weights, rank=2, model=str(base), overwrite=True)))
    assert weights.read_bytes() == whole
