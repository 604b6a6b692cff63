"""LoRAs as people name them: places, strengths, and strengths of blocks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from sdtune.core import lora_file
from sdtune.core.applied import Named, exists, named, read
from sdtune.core.lora import Lora, LoraModule
from sdtune.core.lora_place import lora_at
from sdtune.errors import LoraError

QUERY = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "text_encoder.text_model.encoder.layers.0.mlp.fc1"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    modules = {name: LoraModule(torch.ones(1, 8), torch.ones(8, 1), 1.0) for name in (QUERY, TEXT)}
    lora_file.write(tmp_path / "style.safetensors", Lora(modules, "sd1"))
    return tmp_path / "style.safetensors"


@pytest.mark.parametrize(
    ("told", "usual", "blocks"),
    [
        ("", 1.0, {}),
        (":0.8", 0.8, {}),
        (":-1", -1.0, {}),
        (":+.5", 0.5, {}),
        (":0.0e5", 0.0, {}),
        (":1.:M00=1E-3", 1.0, {"M00": 0.001}),
        (":0.8:text=0", 0.8, {"text": 0.0}),
        (":mid_block=0.5, text_encoder = 2", 1.0, {"mid_block": 0.5, "text_encoder": 2.0}),
        (":1:unet=0.5,M00=1e-1,BASE=0,IN00=0", 1.0, {"unet": 0.5, "M00": 0.1, "BASE": 0.0, "IN00": 0.0}),
        (":1:text_encoder_2=0", 1.0, {"text_encoder_2": 0.0}),
        (f":1:{QUERY}=3", 1.0, {QUERY: 3.0}),
    ],
)
def test_a_strength_and_those_of_blocks(file: Path, told: str, usual: float, blocks: dict[str, float]) -> None:
    one = read(f"{file}{told}")
    assert one.path == file
    assert set(one.lora.modules) == {QUERY, TEXT}
    assert (one.strength.usual, one.strength.blocks) == (usual, blocks)


def test_what_lies_there_is_meant_whatever_colons_it_has(file: Path) -> None:
    for name in ("a:0.5", "b:mid_block=2", "c=d:e"):
        other = file.rename(file.with_name(name))
        assert named(str(other)) == Named(other)
        assert named(f"{other}:0.3:x=1") == Named(other, "0.3", "x=1")
        assert named(f"{other}:x=1") == Named(other, None, "x=1")
        file = other
    assert not exists(named(f"{file}0:1"))
    assert not exists(named("x" * 5000))
    assert not exists(named("x\0y"))


def test_a_run_folder_stands_for_its_lora(file: Path) -> None:
    assert read(f"{file.parent}:0.5").path == file


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        (":", "its strength should be a number from -100 to 100, as in style.safetensors:0.8$"),
        (":strong", "its strength should be a number"),
        (":101", "its strength should be a number"),
        (":nan", "its strength should be a number"),
        (":1e999:text=0", "its strength should be a number"),
        *(
            (f":{told}", "its strength should be a number")
            for told in ("1_0", "\u0663", " 1 ", "1e-400", "0.5e-999", "0x1")
        ),
        (":1:mid_block=1_0", "mid_block: its strength should be a number"),
        (":1:mid_block=", "mid_block: its strength should be a number from -100 to 100, as in .*:text_encoder=0"),
        (":1:mid_block=inf", "mid_block: its strength should be a number"),
        (":1:mid_block=1,", "nothing is no block with its strength"),
        (":1:=1", "=1 is no block with its strength"),
        (":1:text=1,oops", "oops is no block with its strength"),
        (":1:text=1,text=1", "text is given twice"),
        (":1:mid_blok=1", r"the LoRA has no block mid_blok; did you mean mid_block\?"),
        (":1:down_blocks.0=1", "the LoRA has no block down_blocks.0; "),
        (":1:zzz=1", "no block zzz; it has mid_block, text_encoder; or letters: IN00 to IN11, M00, OUT00 to OUT11"),
        (":1:MID=1", "no block MID; it has mid_block, text_encoder; or letters"),
        (":1.5:", 'safetensors:1.5:: "1.5:" is no strength behind a LoRA; give it as in .*:0.8:text_encoder=0'),
        (":0.8:mid_block", '"0.8:mid_block" is no strength behind a LoRA; give it as in .*,mid_block=0.5$'),
        (":text_encoder=0:0.8", '"text_encoder=0:0.8" is no strength behind a LoRA'),
        (":1:IN12=1", "the LoRA has no block IN12"),
        (":1:mid_block=1,M00=2", "mid_block and M00 name the same block; give one of them"),
        (":1:text=1,BASE=2", "text and BASE name the same block"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(file: Path, told: str, problem: str) -> None:
    with pytest.raises(LoraError, match=problem) as caught:
        read(f"{file}{told}")
    assert str(caught.value).startswith(f"{file}{told}: ")
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_named_without_its_strength(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match=r"^nowhere\.safetensors: no such LoRA file or run folder; check LORA$"):
        read("nowhere.safetensors:0.5", "LORA")
    with pytest.raises(LoraError, match=r"^C:.nowhere\.safetensors: no such LoRA"):
        read("C:/nowhere.safetensors")
    (tmp_path / "fluent-3d.safetensors").touch()
    (tmp_path / "cats-1").mkdir()
    (tmp_path / "cats-1/run.toml").touch()
    for missing, near in (
        ("fluent-3.safetensors", "fluent-3d.safetensors"),
        ("fluent3d", "fluent-3d.safetensors"),
        ("cats", "cats-1"),
    ):
        with pytest.raises(LoraError, match=rf"{missing}: no such LoRA .*; did you mean {tmp_path / near}\?$"):
            read(f"{tmp_path / missing}:0.5")
        with pytest.raises(LoraError, match=rf"did you mean {tmp_path / near}\?$"):
            lora_at(tmp_path / missing)
    with pytest.raises(LoraError, match="--lora: is empty"):
        read(" ")


def test_a_strength_is_that_of_the_longest_name_that_fits(file: Path) -> None:
    strength = read(f"{file}:0.8:unet=0.1,mid_block=0.25").strength
    assert math.isclose(strength(QUERY), 0.25)
    assert math.isclose(strength(TEXT), 0.8)


def test_a_run_folder_is_shown_in_place_of_the_file_that_it_stands_for(file: Path) -> None:
    """As all runs on one data set call their LoRA the same."""
    assert read(f"{file}:0.5").shown == "style.safetensors"
    for number in (1, 2):
        run = file.parent / f"my runs {number}"
        run.mkdir()
        (run / "run.toml").write_text("")
        for name in ("style.safetensors", "style-step-000010.safetensors"):
            (run / name).write_bytes(file.read_bytes())
        assert read(f"{run}:0.5").shown == run.name
        assert read(str(run / "style.safetensors")).shown == run.name
        assert read(str(run / "style-step-000010.safetensors")).shown == f"{run.name}/style-step-000010.safetensors"
    (run / "other.safetensors").write_bytes(file.read_bytes())
    assert read(str(run / "other.safetensors")).shown == "my runs 2/other.safetensors"


def test_a_strength_of_a_block_in_which_there_is_nothing_is_told(file: Path) -> None:
    one = read(f"{file}:0.8:text_encoder_2=1.5,IN03=0,OUT01=-1,mid_block=0.5")
    assert list(one.idle()) == [
        f"{file}: text_encoder_2=1.5 changes nothing, as the LoRA has nothing there",
        f"{file}: OUT01=-1 changes nothing, as the LoRA has nothing there",
    ]
