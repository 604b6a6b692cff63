"""What is given to other programs, and how the answer is held against what is due; no other program is here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sdtune.core import lora_file
from tools.interop import others
from tools.interop.outcome import STRENGTH, Changes, Program, outcome
from tools.interop.released import Released
from tools.interop.reload import Diffusers
from tools.interop.subject import Trained

PROJECTION = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def released() -> Released:
    return Released("sd1")


@pytest.fixture(scope="module")
def subject(released: Released) -> Trained:
    """Of one block and one layer of text alone, so that it takes a second."""
    whole = Trained("sd1", released.parts())
    modules = {name: whole.lora.modules[name] for name in whole.lora.modules if others.SOME.search(name)}
    few = [name for name in sorted(modules) if name.startswith("text_")] + sorted(modules)[::5]
    whole.lora = lora_file.Lora({name: modules[name] for name in few}, "sd1")
    return whole


def test_the_released_models_have_their_known_sizes(released: Released) -> None:
    sizes = {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863}
    for part, size in sizes.items():
        assert (
            sum(torch.Size(shape).numel() for name, shape in released.shapes.items() if name.startswith(f"{part}."))
            == size
        )


def test_a_checkpoint_has_the_keys_of_the_first_publication(released: Released) -> None:
    checkpoint = released.checkpoint
    assert checkpoint["model.diffusion_model.input_blocks.0.0.weight"].shape == (320, 4, 3, 3)
    assert checkpoint["cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc2.weight"].shape == (768, 3072)
    assert released.places[f"{PROJECTION}.weight"].key == (
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    )


def test_fused_weights_are_told_apart_by_their_rows() -> None:
    places = Released("sd3").places
    query, key = (places[f"transformer.transformer_blocks.3.attn.to_{one}.weight"] for one in "qk")
    assert query.key == key.key == "model.diffusion_model.joint_blocks.3.x_block.attn.qkv.weight"
    assert (query.start, query.end, key.start) == (0, 1536, 1536)


@pytest.mark.parametrize("network", [*others.NETWORKS])
def test_every_network_is_written_whole(network: str, subject: Trained, released: Released, tmp_path: Path) -> None:
    made = others.made(network, subject.lora, released.shapes)
    path = tmp_path / "lora.safetensors"
    lora_file.write(path, made.lora, "kohya", "fp32")
    assert {key.split(".")[0] for key in load_file(path)} == {
        "lora_" + ("te_" if name.startswith("text_encoder") else "unet_") + name.split(".", 1)[1].replace(".", "_")
        for name in made.lora.modules
    }


def test_diffusers_loads_what_was_written(subject: Trained, released: Released, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    lora_file.write(path, subject.lora, "kohya", "fp32")
    found = outcome(Diffusers(), path, subject, "kohya", released)
    assert (found.right, found.wrong, found.surplus) == (len(subject.lora.modules), 0, 0)
    assert found.difference < 1e-5


class Pretending(Program):
    """Changes weights as told."""

    name = "pretending"

    def __init__(self, subject: Trained, factor: float | None) -> None:
        self.subject, self.factor = subject, factor

    def changes(self, *_: object) -> Changes:
        def change(module: str) -> tuple[Tensor, Tensor] | None:
            due = self.subject.delta(module, torch.zeros(()))
            return None if self.factor is None else (torch.zeros_like(due), self.factor * due)

        return Changes(change)


@pytest.mark.parametrize(("factor", "right", "wrong"), [(STRENGTH, 1, 0), (1.01 * STRENGTH, 0, 1), (None, 0, 0)])
def test_modules_count_as_right_wrong_or_left_alone(
    factor: float | None, right: int, wrong: int, subject: Trained, released: Released, tmp_path: Path
) -> None:
    found = outcome(Pretending(subject, factor), tmp_path, subject, "kohya", released)
    of = len(subject.lora.modules)
    assert (found.right, found.wrong, found.of) == (right * of, wrong * of, of)
