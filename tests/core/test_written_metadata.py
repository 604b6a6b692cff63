"""What metadata says of a LoRA, and that it says nothing of a machine or its people."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from sdtune.core.adapters import LoraModule
from sdtune.core.lora import Lora
from sdtune.core.written_metadata import LONGEST_TAG, MOST_TAGS, of_structure, tag_frequency

NAME = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def lora(metadata: dict[str, str] | None = None, family: str | None = "sd1", **modules: LoraModule) -> Lora:
    one = LoraModule(torch.ones(4, 8), torch.ones(8, 4), 2.0)
    return Lora(modules or {NAME: one}, family, metadata or {})


def test_the_structure_is_that_of_the_lora_whatever_was_said() -> None:
    said = {"ss_network_dim": "99", "ss_network_alpha": "9", "ss_network_module": "lycoris.kohya"}
    told = of_structure(lora(said))
    assert (told["ss_network_module"], told["ss_network_dim"], told["ss_network_alpha"]) == ("networks.lora", "4", "2")
    two = {NAME: LoraModule(torch.ones(4, 8), torch.ones(8, 4), 2.0)}
    two["unet.conv_in"] = LoraModule(torch.ones(2, 8), torch.ones(8, 2), 1.0)
    mixed = of_structure(Lora(two, "sd1"))
    assert (mixed["ss_network_dim"], mixed["ss_network_alpha"]) == ("Dynamic", "Dynamic")


@pytest.mark.parametrize(
    ("family", "said", "version", "architecture"),
    [
        ("sd1", {}, "sd_v1", "stable-diffusion-v1/lora"),
        ("sd2", {"modelspec.prediction_type": "v"}, "sd_v2_v", "stable-diffusion-v2-768-v/lora"),
        ("sd2", {"ss_base_model_version": "sd_v2_v"}, "sd_v2_v", "stable-diffusion-v2-512/lora"),
        ("sdxl", {"ss_base_model_version": "sd_v1"}, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_the_base_is_told_as_before_where_that_is_of_the_family(
    family: str, said: dict[str, str], version: str, architecture: str
) -> None:
    told = of_structure(lora(said, family))
    assert (told["ss_base_model_version"], told["modelspec.architecture"]) == (version, architecture)


def test_an_unknown_family_is_not_made_up() -> None:
    told = of_structure(lora(family=None))
    assert not {"ss_base_model_version", "modelspec.architecture", "ss_v2"} & told.keys()


def test_the_most_frequent_tags_come_first_and_the_rest_is_bounded() -> None:
    captions: list[tuple[str, int]] = [("a cat, red , ,red", 2), ("a cat", 3), ("b" * (LONGEST_TAG + 1), 9)]
    told: dict[str, Any] = json.loads(tag_frequency("cats", captions))
    assert list(told["cats"].items()) == [("a cat", 5), ("red", 4)]
    many = json.loads(tag_frequency("cats", [(f"tag {n}", 1) for n in range(2 * MOST_TAGS)]))
    assert len(many["cats"]) == MOST_TAGS
