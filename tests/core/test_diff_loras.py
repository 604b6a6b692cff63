"""How far two LoRAs are apart is what their updates, made out whole, are apart; equal ones are so to the last digit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sdtune.core import lora_file
from sdtune.core.adapters import Adapter, LoraModule, adapters
from sdtune.core.diff_loras import compared, diff_loras, small
from sdtune.core.lora import Lora
from sdtune.core.lora_reports import Apart, Differing
from sdtune.core.low_rank import Product
from sdtune.errors import LoraError
from sdtune.inspect_config import LoraDiff
from tests.core import some_loras
from tests.core.loras import trained


def differing(first: Path, second: Path, **more: Any) -> Differing:
    *_, last = diff_loras(LoraDiff(first=first, second=second, **more))
    assert isinstance(last, Differing)
    return last


def written(path: Path, lora: Lora, form: Any = "kohya", dtype: Any = "fp32") -> Path:
    lora_file.write(path, lora, form, dtype)
    return path


def both(tmp_path: Path, first: Lora, second: Lora) -> Differing:
    return differing(written(tmp_path / "a.safetensors", first), written(tmp_path / "b.safetensors", second))


def scaled(lora: Lora, by: float) -> Lora:
    modules: dict[str, Adapter] = {
        name: replace(one, up=by * one.up) for name, one in lora.modules.items() if isinstance(one, LoraModule)
    }
    return replace(lora, modules=modules)


def whole(lora: Lora) -> torch.Tensor:
    """All that it adds, one number after another."""
    return torch.cat([one.delta().double().flatten() for _, one in sorted(lora.modules.items())])


def test_the_same_lora_in_two_forms_is_equal(family_name: str, tmp_path: Path) -> None:
    lora = trained(family_name)[0]
    first = written(tmp_path / "a.safetensors", lora)
    second = written(tmp_path / "b.safetensors", lora, "peft")
    told = differing(first, second)
    assert told.equal
    assert told.difference < 1e-7
    assert told.cosine == pytest.approx(1, abs=1e-12)
    assert sum(block.modules for block in told.blocks) == len(lora.modules)
    assert (told.only_first, told.only_second) == ((), ())
    again = differing(first, first)
    assert again.difference < 1e-14  # of the sum of squares 1e-8 would be left
    assert again.metadata == {}


@pytest.mark.parametrize(("by", "difference", "cosine"), [(2, 0.5, 1), (-1, 2, -1), (1 + 1e-4, 1e-4, 1), (0, 1, 0)])
def test_a_lora_and_a_multiple_of_it(by: float, difference: float, cosine: float, tmp_path: Path) -> None:
    lora = some_loras.lora("sd1")
    told = both(tmp_path, lora, scaled(lora, by))
    for one in (told, *told.blocks):
        assert one.difference == pytest.approx(difference, rel=1e-3)
        assert one.cosine == pytest.approx(cosine, abs=1e-6)
    assert not told.equal
    for block in told.blocks:
        assert block.second == pytest.approx(abs(by) * block.first, rel=1e-5)


@pytest.mark.parametrize("ranks", [(4, 4), (2, 7), (1, 20)])
def test_two_of_any_ranks_against_their_updates(family_name: str, ranks: tuple[int, int], tmp_path: Path) -> None:
    first, second = (some_loras.lora(family_name, rank, seed=number) for number, rank in enumerate(ranks))
    told = both(tmp_path, first, second)
    a, b = whole(first), whole(second)
    assert told.difference == pytest.approx(float((a - b).norm() / max(a.norm(), b.norm())), rel=1e-5)
    assert told.cosine == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-5)
    assert math.hypot(*(block.first for block in told.blocks)) == pytest.approx(float(a.norm()), rel=1e-5)
    assert math.hypot(*(block.second for block in told.blocks)) == pytest.approx(float(b.norm()), rel=1e-5)


def test_networks_of_two_kinds(tmp_path: Path) -> None:
    first, second = some_loras.lora("sd1"), some_loras.loha("sd1")
    told = both(tmp_path, first, second)
    a, b = whole(first), whole(second)
    assert told.difference == pytest.approx(float((a - b).norm() / max(a.norm(), b.norm())), rel=1e-5)
    assert told.cosine == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-5)
    assert differing(told.second, told.second).equal


def test_a_difference_next_to_nothing_keeps_its_digits() -> None:
    drawn = torch.Generator().manual_seed(0)
    left, right = (torch.randn(shape, generator=drawn, dtype=torch.float64) for shape in ((50, 4), (4, 60)))
    other = left + 1e-10 * torch.randn(50, 4, generator=drawn, dtype=torch.float64)
    found = compared(Product(left, right), Product(other, right)).difference
    assert found == pytest.approx(float(((left - other) @ right).norm()), rel=1e-4)
    assert small(Product(left, right)) == pytest.approx(float((left @ right).norm()), rel=1e-12)


def test_what_one_alone_has_is_named(tmp_path: Path) -> None:
    lora = some_loras.lora("sd1")
    names = list(lora.modules)
    word = {"text_encoder": torch.ones(2, 32)}
    first = replace(lora, modules={name: lora.modules[name] for name in names[1:]}, embeddings={"ohwx": word})
    second = replace(lora, modules={name: lora.modules[name] for name in names[:-1]}, biases={names[1]: torch.ones(8)})
    told = both(tmp_path, first, second)
    assert told.only_first == (names[-1], "text_encoder.new_word.ohwx")
    assert set(told.only_second) == {names[0], f"{names[1]}.bias"}
    assert told.difference < 1e-14
    assert not told.equal


def test_biases_and_new_words_count(tmp_path: Path) -> None:
    lora = some_loras.lora("sd1")
    name = next(iter(lora.modules))
    first, second = (
        replace(
            lora, biases={name: torch.full((8,), value)}, embeddings={"w": {"text_encoder": torch.ones(1, 32) * value}}
        )
        for value in (1.0, 2.0)
    )
    assert both(tmp_path, first, first).equal
    told = both(tmp_path, first, second)
    assert not told.equal
    assert 0 < told.difference < 1


def test_what_the_metadata_say_differently(tmp_path: Path) -> None:
    lora = some_loras.lora("sd1")
    first = replace(lora, metadata={"ss_seed": "1", "ss_steps": "5", "modelspec.title": "a"})
    second = replace(lora, metadata={"ss_seed": "2", "modelspec.title": "a"})
    told = both(tmp_path, first, second)
    assert told.equal
    mine = {name: said for name, said in told.metadata.items() if not name.startswith("sshs")}
    assert mine == {"ss_seed": ("1", "2"), "ss_steps": ("5", None)}


def test_a_lora_that_adds_nothing_is_equal_to_another(tmp_path: Path) -> None:
    lora = scaled(some_loras.lora("sd1"), 0)
    told = both(tmp_path, lora, lora)
    assert told.equal
    assert (told.difference, told.cosine) == (0, 1)


def test_loras_of_two_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match=r"for Stable Diffusion XL, but .* is for Stable Diffusion 3"):
        both(tmp_path, some_loras.lora("sd3"), some_loras.lora("sdxl"))


def test_modules_of_other_sizes_are_refused(tmp_path: Path) -> None:
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    first, second = (
        Lora({name: LoraModule(torch.ones(2, width), torch.ones(8, 2), 2.0)}, "sd1") for width in (320, 640)
    )
    with pytest.raises(LoraError, match=r"changes .*to_q as \(8, 640\), and .* as \(8, 320\); compare LoRAs"):
        both(tmp_path, first, second)


def test_what_depends_on_the_base_wants_it(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    lora = trained("sd1", text=False)[0]
    modules: dict[str, Adapter] = {}
    for number, (name, one) in enumerate(lora.modules.items()):
        magnitude = torch.linspace(0.5, 1.5 + number / 100, one.shape[0])[:, None]
        modules[name] = adapters()["DoRA"].from_tensors(
            {role: value for role, value in one.tensors().items() if role != "alpha"} | {"dora_scale": magnitude}, 2.0
        )
    first = written(tmp_path / "a.safetensors", replace(lora, modules=modules))
    second = written(tmp_path / "b.safetensors", lora)
    with pytest.raises(LoraError, match="depends on the model; give it with --model"):
        differing(first, second)
    told = differing(first, second, model=str(tiny_models["sd1"]))
    assert told.difference > 0.1
    assert differing(first, first, model=str(tiny_models["sd1"])).equal
    with pytest.raises(LoraError, match="for Stable Diffusion"):
        differing(first, first, model=str(tiny_models["sdxl"]))


def test_blocks_come_in_the_order_in_which_they_are_run(tmp_path: Path) -> None:
    lora = some_loras.lora("sdxl")
    names = [one.block for one in both(tmp_path, lora, lora).blocks if isinstance(one, Apart)]
    starts = [name.partition("_")[0] for name in names]
    assert [start for number, start in enumerate(starts) if start not in starts[:number]] == [
        "text",
        "down",
        "mid",
        "up",
    ]
