"""LoRAs made one: exactly what they are together, or told how far from it."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sdtune.choices.blends import DARE, TIES, Concat, Linear
from sdtune.core import lora_file, model
from sdtune.core.adapters import LoraModule, adapters
from sdtune.core.adapters.difference import Difference
from sdtune.core.applied import Applied
from sdtune.core.header import read_header
from sdtune.core.lora import Lora, load_into
from sdtune.core.lora_updates import inside_of
from sdtune.core.merge_loras import merge_loras
from sdtune.core.reports import Note
from sdtune.core.weights import open_weights
from sdtune.errors import LoraError, OutputError
from sdtune.lora_config import Merge
from tests import tiny
from tests.core.some_loras import agree, apart, applied, loha, lora, summed, told, updates

QUERY = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def config(out: Path, **options: Any) -> Merge:
    return Merge(given=("a", "b"), out=out, **({"dtype": "fp32"} | options))


def two(folder: Path, family: str = "sd1", first: float = 0.7, second: float = -0.4) -> list[Applied]:
    """Of different ranks, alphas and strengths, one of them negative."""
    return [
        applied(folder / "a.safetensors", lora(family, 4, 2.0, 0), first),
        applied(folder / "b.safetensors", lora(family, 3, 3.0, 1), second),
    ]


def test_the_sum_is_what_they_are_together(family_name: str, tmp_path: Path) -> None:
    loras, out = two(tmp_path, family_name), tmp_path / "c.safetensors"
    written = told(merge_loras(config(out), loras))
    agree(updates(out), summed(loras))
    assert (written.lost, written.blocks, written.rank) == (None, (), "7")
    assert (written.family, written.dtype, written.size) == (family_name, "fp32", out.stat().st_size)


def test_a_model_draws_with_the_sum_as_with_both(tmp_path: Path) -> None:
    loras, out = two(tmp_path), tmp_path / "c.safetensors"
    told(merge_loras(config(out), loras))
    stacked, merged = tiny.pipeline("sd1"), tiny.pipeline("sd1")
    for number, one in enumerate(loras):
        load_into(stacked, one.lora, one.strength.usual, f"lora{number}")
    load_into(merged, lora_file.read(out))
    x_t, words = torch.randn(1, 4, 8, 8), torch.randn(1, 7, tiny.WIDTH)
    with torch.no_grad():
        both, one, base = (
            pipe.unet(x_t, torch.tensor([500]), encoder_hidden_states=words).sample
            for pipe in (stacked, merged, tiny.pipeline("sd1"))
        )
    assert (both - base).abs().max() > 1e-3
    assert torch.allclose(one, both, atol=1e-5)


def test_blocks_have_their_strengths_and_modules_of_one_alone_are_kept(tmp_path: Path) -> None:
    whole, part = lora("sd1", seed=0), lora("sd1", seed=1)
    part = replace(part, modules={name: one for name, one in part.modules.items() if "mid_block" in name})
    loras = [
        applied(tmp_path / "a.safetensors", whole, 1.0, {"text_encoder": 0.0, "mid_block": 0.5}),
        applied(tmp_path / "b.safetensors", part, 2.0),
    ]
    out = tmp_path / "c.safetensors"
    told(merge_loras(config(out), loras))
    expected = {name: one for name, one in summed(loras).items() if not name.startswith("text_encoder")}
    agree(updates(out), expected)


def test_more_than_a_layer_can_have_is_told_exactly_in_fewer(tmp_path: Path) -> None:
    """Layers are 32 wide, so that three of rank 16 are more than they can tell apart."""
    loras = [applied(tmp_path / f"{n}.safetensors", lora("sd1", 16, 8.0, n)) for n in range(3)]
    out = tmp_path / "c.safetensors"
    written = told(merge_loras(config(out), loras))
    agree(updates(out), summed(loras), 1e-5)
    assert written.lost is None
    modules = lora_file.read(out).modules
    assert all(one.rank is not None and one.rank <= min(48, *one.shape) for one in modules.values())
    assert modules[QUERY].rank == 32


@pytest.mark.parametrize("method", [Concat(), TIES(density=0.5), DARE(drop=0.3, seed=5)])
def test_what_a_lower_rank_loses_is_what_is_told(method: Any, tmp_path: Path) -> None:
    loras, out = two(tmp_path), tmp_path / "c.safetensors"
    exact = tmp_path / "exact.safetensors"
    told(merge_loras(config(exact, method=method, rank=1024), loras))
    written = told(merge_loras(config(out, method=method, rank=2), loras))
    mine, theirs = updates(out), updates(exact)
    assert written.rank == "2"
    assert written.measured == (
        "the LoRAs' sum" if method == Concat() else f"what {type(method).__name__} makes of them"
    )
    assert written.lost == pytest.approx(apart(mine, theirs), rel=1e-3)
    assert 0.05 < written.lost < 1
    for block in written.blocks:
        names = [name for name in theirs if block.block in name]
        lost = apart({name: mine[name] for name in names}, {name: theirs[name] for name in names})
        assert (block.modules, block.rank) == (len(names), "2")
        assert block.lost == pytest.approx(lost, rel=1e-3)


@pytest.mark.parametrize("method", [TIES(), DARE()])
def test_sums_without_a_low_rank_get_the_largest_given(method: Any, tmp_path: Path) -> None:
    out = tmp_path / "c.safetensors"
    *reports, written = merge_loras(config(out, method=method), two(tmp_path))
    assert written.rank == "4"
    (said,) = [one.text for one in reports if isinstance(one, Note) and "has no place" in one.text]
    assert said == (
        f"{100 * written.lost:.2g} % of what {type(method).__name__} makes of them has no place in rank 4; "
        "--rank 16 keeps more"
    )
    more = told(merge_loras(config(out, method=method, rank=16, overwrite=True), two(tmp_path)))
    assert (more.lost or 0) < written.lost
    assert written.lost is not None


def by_hand(values: list[list[float]]) -> Lora:
    """A LoRA that adds this to one module."""
    return Lora({QUERY: LoraModule(torch.eye(2), torch.tensor(values), 2.0)}, "sd1", {})


def test_ties_is_what_the_paper_says(tmp_path: Path) -> None:
    """Half of four numbers are kept: 4 and -3 of one, 2 and 5 of the other; where they disagree, the larger wins."""
    loras = [
        applied(tmp_path / "a.safetensors", by_hand([[4.0, -3.0], [1.0, 0.5]]), 1.0),
        applied(tmp_path / "b.safetensors", by_hand([[2.0, 5.0], [0.1, -1.0]]), 1.0),
    ]
    out = tmp_path / "c.safetensors"
    told(merge_loras(config(out, method=TIES(density=0.5)), loras))
    (update,) = updates(out).values()
    assert torch.allclose(update, torch.tensor([[3.0, 5.0], [0.0, 0.0]]), atol=1e-5)
    loras[1] = applied(loras[1].path, loras[1].lora, 0.5)  # -3 beats 2.5 now
    told(merge_loras(config(out, method=TIES(density=0.5), overwrite=True), loras))
    (update,) = updates(out).values()
    assert torch.allclose(update, torch.tensor([[2.5, -3.0], [0.0, 0.0]]), atol=1e-5)


def test_dare_drops_some_and_makes_up_for_it(tmp_path: Path) -> None:
    same = by_hand([[1.0, 1.0], [1.0, 1.0]])
    kept = torch.zeros(4)
    for seed in range(60):
        out = tmp_path / f"{seed}.safetensors"
        told(merge_loras(config(out, method=DARE(drop=0.75, seed=seed)), [applied(tmp_path / "a.safetensors", same)]))
        (update,) = updates(out).values()
        assert all(min(abs(value), abs(value - 4)) < 1e-4 for value in update.flatten().tolist())
        kept += update.flatten() / 60
    assert 0.6 < kept.mean() < 1.4


def test_dare_of_nothing_dropped_is_the_sum(tmp_path: Path) -> None:
    loras, out = two(tmp_path), tmp_path / "c.safetensors"
    told(merge_loras(config(out, method=DARE(drop=0.0), rank=7), loras))
    agree(updates(out), summed(loras), 1e-4)


def test_linear_adds_matrices(tmp_path: Path) -> None:
    first, second = lora("sd1", 4, 2.0, 0), lora("sd1", 4, 4.0, 1)
    loras = [applied(tmp_path / "a.safetensors", first, 0.7), applied(tmp_path / "b.safetensors", second, -0.4)]
    out = tmp_path / "c.safetensors"
    written = told(merge_loras(config(out, method=Linear()), loras))
    assert (written.rank, written.lost) == ("4", None)
    for name, update in updates(out).items():
        one, other = loras[0].lora.modules[name], loras[1].lora.modules[name]
        assert isinstance(one, LoraModule)
        assert isinstance(other, LoraModule)
        up = (0.7**0.5 * one.up * one.alpha**0.5 - 0.4**0.5 * other.up * other.alpha**0.5).flatten(1)
        down = (0.7**0.5 * one.down * one.alpha**0.5 + 0.4**0.5 * other.down * other.alpha**0.5).flatten(1)
        expected = up @ down / 4
        assert torch.linalg.vector_norm(update - expected) < 1e-5 * torch.linalg.vector_norm(expected)


def test_linear_of_one_is_that_one_at_its_strength(tmp_path: Path) -> None:
    loras, out = [applied(tmp_path / "a.safetensors", lora("sd1"), -0.5)], tmp_path / "c.safetensors"
    told(merge_loras(config(out, method=Linear()), loras))
    agree(updates(out), summed(loras))


@pytest.mark.parametrize(
    ("module", "inside"),
    [
        ("transformer.pos_embed.proj", (16, 2, 2)),
        ("unet.conv_in", (4, 3, 3)),
        ("unet.up_blocks.0.resnets.0.conv_shortcut", (64, 1, 1)),
        ("transformer.transformer_blocks.0.attn.to_q", (64,)),
    ],
)
def test_kernels_are_told_by_names_where_no_plain_lora_tells_them(module: str, inside: tuple[int, ...]) -> None:
    assert inside_of(module, [], math.prod(inside)) == inside


def test_that_a_network_becomes_a_plain_lora_is_said_once(tmp_path: Path) -> None:
    twice = [applied(tmp_path / "a.safetensors", loha("sd1"), 0.5)] * 2
    *reports, _ = merge_loras(config(tmp_path / "c.safetensors"), twice)
    assert sum("becomes a plain LoRA" in one.text for one in reports if isinstance(one, Note)) == 1


def test_other_networks_and_differences_are_added_exactly(tmp_path: Path) -> None:
    plain, other = lora("sd1", seed=0), loha("sd1")
    norm, bias = torch.linspace(0, 1, 32), torch.linspace(-1, 1, 32)
    conv = next(name for name in plain.modules if name.endswith("conv1"))
    plain = replace(
        plain,
        modules={**plain.modules, "unet.mid_block.resnets.0.norm1": Difference(norm, "w_norm")},
        biases={conv: bias, "unet.mid_block.resnets.0.norm1": bias},
    )
    loras = [applied(tmp_path / "a.safetensors", plain, 0.5), applied(tmp_path / "b.safetensors", other, 0.8)]
    out = tmp_path / "c.safetensors"
    *reports, _ = merge_loras(config(out), loras)
    agree(updates(out), summed(loras))
    again = lora_file.read(out)
    assert torch.allclose(again.biases[conv], 0.5 * bias)
    assert {one.kind for one in again.modules.values()} == {"LoRA", "difference"}
    assert any("LoHa becomes a plain LoRA" in one.text for one in reports if isinstance(one, Note))
    assert isinstance(kernel := again.modules[conv], LoraModule)
    assert kernel.down.ndim == 4


def test_changes_that_depend_on_the_base_need_it(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    weights = open_weights(model.identify(str(tiny_models["sd1"])))
    plain, doras, expected = lora("sd1", 4), {}, {}
    for name, one in plain.modules.items():
        base = weights.read(f"{name}.weight").flatten(1)
        ones = [1] * (weights.read(f"{name}.weight").ndim - 2)
        magnitude = 1.2 * base.norm(dim=1).reshape(-1, 1, *ones)
        tensors = {role: value for role, value in one.tensors().items() if role != "alpha"}
        doras[name] = adapters()["DoRA"].from_tensors(tensors | {"dora_scale": magnitude}, 2.0)
        expected[name] = 0.5 * doras[name].delta(base) + one.delta()
    out = tmp_path / "c.safetensors"
    loras = [
        applied(tmp_path / "d.safetensors", replace(plain, modules=doras), 0.5),
        applied(tmp_path / "a.safetensors", plain),
    ]
    with pytest.raises(LoraError, match="is a DoRA, whose change depends on the model; give it with --model"):
        told(merge_loras(config(out), loras))
    assert told(merge_loras(config(out, model=str(tiny_models["sd1"])), loras)).lost is None
    agree(updates(out), expected)


def test_names_and_words_are_joined_and_nothing_is_said_of_trainings(tmp_path: Path) -> None:
    told_of = {"ss_steps": "100", "ss_learning_rate": "1e-4", "modelspec.prediction_type": "epsilon"}
    loras = [
        applied(
            tmp_path / f"{name}.safetensors",
            lora("sd1", metadata=told_of | {"modelspec.title": name, "modelspec.trigger_phrase": trigger}),
            strength,
        )
        for name, trigger, strength in (("cats", "zzcat, photo", 0.7), ("style", "photo, ink", 0.4))
    ]
    out = tmp_path / "c.safetensors"
    written = told(merge_loras(config(out), loras))
    metadata = read_header(out, LoraError).metadata
    assert metadata["modelspec.title"] == "cats + style"
    assert metadata["modelspec.merged_from"] == "cats:0.7, style:0.4"
    assert metadata["modelspec.trigger_phrase"] == "zzcat, photo, ink"
    assert metadata["modelspec.prediction_type"] == "epsilon"
    assert not {"ss_steps", "ss_learning_rate"} & metadata.keys()
    assert str(tmp_path) not in str(metadata)
    assert written.made == "2 LoRAs added"


def test_two_runs_of_one_data_set_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    loras = []
    for number, strength in ((1, 0.7), (2, 0.4)):
        folder = tmp_path / f"cats-{number}"
        folder.mkdir()
        (folder / "run.toml").write_text('[data]\nfolder = "cats"\n')
        of = lora("sd1", seed=number, metadata={"modelspec.title": "cats"})
        loras.append(applied(folder / "cats.safetensors", of, strength))
    out = tmp_path / "c.safetensors"
    first, *_ = merge_loras(config(out), loras)
    assert isinstance(first, Note)
    assert first.text == "cats-1 at 0.7; cats-2 at 0.4"
    metadata = read_header(out, LoraError).metadata
    assert metadata["modelspec.title"] == "cats-1 + cats-2"
    assert metadata["modelspec.merged_from"] == "cats-1:0.7, cats-2:0.4"


@pytest.mark.parametrize("method", [Concat(), TIES(), DARE()])
def test_the_same_merge_gives_the_same_bytes(method: Any, tmp_path: Path) -> None:
    loras, out = two(tmp_path), tmp_path / "c.safetensors"
    files = []
    for _ in range(2):
        told(merge_loras(config(out, method=method, dtype=None, rank=3, overwrite=True), loras))
        files.append(out.read_bytes())
    assert files[0] == files[1]
    assert set(read_header(out, LoraError).dtypes.values()) <= {"F16", "F32"}


def test_what_cannot_be_made_one_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "c.safetensors"
    sd1, sdxl = two(tmp_path)[0], applied(tmp_path / "x.safetensors", lora("sdxl"))
    with pytest.raises(LoraError, match="give those of one family"):
        told(merge_loras(config(out), [sd1, sdxl]))
    with pytest.raises(LoraError, match=r"has rank 3, but .* has 4"):
        told(merge_loras(config(out, method=Linear()), two(tmp_path)))
    with pytest.raises(LoraError, match="is a LoHa, whose matrices cannot be added"):
        told(merge_loras(config(out, method=Linear()), [sd1, applied(tmp_path / "h.safetensors", loha("sd1"))]))
    narrow = {QUERY: LoraModule(torch.ones(1, 4), torch.ones(8, 1), 1.0)}
    with pytest.raises(LoraError, match="give LoRAs for one model"):
        told(merge_loras(config(out), [sd1, applied(tmp_path / "n.safetensors", Lora(narrow, "sd1"))]))
    with pytest.raises(LoraError, match="nothing is left"):
        told(merge_loras(config(out), two(tmp_path, first=0, second=0)))
    assert not out.exists()
    with pytest.raises(OutputError, match="is what the work begins with"):
        told(merge_loras(config(sd1.path), [sd1]))


def test_no_file_of_the_model_is_replaced(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_models["sd1"], base)
    weights = base / "vae" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    with pytest.raises(OutputError, match="is of the model base, which stays"):
        told(merge_loras(config(weights, model=str(base), overwrite=True), two(tmp_path)))
    assert weights.read_bytes() == before


def test_what_is_joined_of_long_metadata_can_be_read_again(tmp_path: Path) -> None:
    said = {"modelspec.trigger_phrase": "x" * 900_000, "modelspec.title": "y" * 900_000, "ss_output_name": "z" * 9_000}
    loras = [
        applied(
            tmp_path / f"{number}.safetensors",
            replace(lora("sd1"), metadata=said | {"modelspec.tags": ", ".join(f"{number}-{n}" for n in range(50_000))}),
        )
        for number in range(6)
    ]
    written = told(merge_loras(config(tmp_path / "all.safetensors"), loras))
    again = lora_file.read(written.out).metadata
    assert again["modelspec.tags"].startswith("0-0, 0-1, ")
    assert max(map(len, again.values())) <= 2**14
    assert len(written.try_next) < 1000
