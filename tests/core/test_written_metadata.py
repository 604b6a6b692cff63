"""What metadata says of a LoRA, and that it says nothing of a machine or its people."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from sdtune.core.adapters import LoraModule
from sdtune.core.lora import Lora
from sdtune.core.written_metadata import LONGEST_TAG, MOST_TAGS, carried_over, of_structure, shareable, tag_frequency

NAME = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def lora(metadata: dict[str, str] | None = None, family: str | None = "sd1", **modules: LoraModule) -> Lora:
    one = LoraModule(torch.ones(4, 8), torch.ones(8, 4), 2.0)
    return Lora(modules or {NAME: one}, family, metadata or {})


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("/home/CANARY/models/sd15.safetensors", "sd15.safetensors"),
        ("/home/CANARY HOME/my models/sd 15.safetensors", "sd 15.safetensors"),
        (r"C:\Users\CANARY\models\sd15.safetensors", "sd15.safetensors"),
        (r"C:\Users\CANARY NAME\my models\sd 15.safetensors", "sd 15.safetensors"),
        ("D:/CANARY/models/sd15.safetensors", "sd15.safetensors"),
        (r"\\CANARY\share\sd15.safetensors", "sd15.safetensors"),
        ("~CANARY/models/sd15.safetensors", "sd15.safetensors"),
        ("~/CANARY/sd15.safetensors", "sd15.safetensors"),
        ("file:///home/CANARY/sd15.safetensors", "sd15.safetensors"),
        ("/home/CANARY/cats/", "cats"),
        ("trained on /home/CANARY/cats with care", "trained on cats with care"),
        ("log=/mnt/CANARY/logs", "log=logs"),
        ("dirs: '/data/CANARY/a', \"/data/CANARY/b\"", "dirs: 'a', \"b\""),
        (r"from C:\Users\CANARY\cats, at night", "from cats, at night"),
        ('{"dirs": ["/home/CANARY/cats"], "n": 3}', '{"dirs": ["cats"], "n": 3}'),
        ('{"/home/CANARY/cats": {"n_repeats": 2}}', '{"cats": {"n_repeats": 2}}'),
        ('{"hostname": "CANARY", "user": "CANARY", "hf_token": "CANARY", "rank": 4}', '{"rank": 4}'),
        ('{"a": {"b": ["C:\\\\Users\\\\CANARY\\\\x"]}}', '{"a": {"b": ["x"]}}'),
    ],
)
def test_of_a_path_the_last_name_is_kept(told: str, kept: str) -> None:
    assert shareable(told) == kept


@pytest.mark.parametrize(
    "told",
    [
        "a photo of a cat, 1/2 view, and/or :/ \\m/ saber \\(fate\\)",
        "https://civitai.com/models/1234?type=a/b",
        "see https://example.org/a/b/c for more",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "stable-diffusion-xl-v1-base/lora",
        "data:image/jpeg;base64,/9j/4AAQSkZJRg/abc/def==",
        "2024/01/02 10:20",
        "(512, 512)",
        "[1, 2]",
        '{"10_cats":{"a / b":3,"w/o":1}}',
        "{not json",
        "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1)",
    ],
)
def test_all_other_text_stays_as_it_is(told: str) -> None:
    assert shareable(told) == told


def test_keys_that_name_people_machines_or_the_file_itself_are_left_out() -> None:
    gone = {"ss_session_id": "CANARY", "hostname": "CANARY", "training.user": "CANARY", "sshs_model_hash": "CANARY"}
    gone |= {"modelspec.hash_sha256": "CANARY", "format": "CANARY", "lora_adapter_metadata": "CANARY"}
    kept = {"ss_training_comment": "by day", "modelspec.author": "a cat", "ss_max_token_length": "75", "x": "y"}
    assert carried_over(gone | kept) == kept


@pytest.mark.parametrize("many", ["_", "/", "\\", "/a ", " /a", "a:/", "~", "[", '{"a":', "\\\\a"])
def test_long_and_deep_nonsense_is_looked_at_in_one_pass(many: str) -> None:
    text = many * 200_000
    assert carried_over({text: text}) == {text: shareable(text)}


def test_what_is_carried_over_says_so_once_for_all() -> None:
    told = {"ss_dataset_dirs": '{"/home/CANARY/cats": 1}', "a": "/home/CANARY/cats"}
    once = carried_over(told)
    assert carried_over(once) == once
    assert "CANARY" not in json.dumps(once)


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
