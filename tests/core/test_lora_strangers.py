"""Files that hold no LoRA of ours, or a broken one: each is named by what it is, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdtune.core.header import read_header
from sdtune.core.lora_keys import keys_of
from sdtune.errors import LoraError
from tests import foreign
from tests.foreign import of, plain

DOWN, UP = torch.ones(4, 8), torch.ones(8, 4)
NAME = "lora_unet_mid_block_attentions_0_proj_in"
LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
BLOCK = "transformer_blocks.0.attn.to_q"


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        (plain("lora_unet_double_blocks_0_img_attn_qkv"), "a LoRA for Flux, which sdtune does not draw with; choose"),
        (plain("transformer.single_transformer_blocks.0.attn.to_q"), "a LoRA for Flux"),
        (plain(f"transformer.{BLOCK}", 3072), "a LoRA for Flux or Qwen-Image"),
        (plain("transformer.transformer_blocks.0.img_mlp.net.2"), "a LoRA for Qwen-Image"),
        (plain("lora_unet_double_blocks_0_img_mod_linear"), "a LoRA for HunyuanVideo"),
        (plain("lora_unet_blocks_0_cross_attn_k"), "a LoRA for Wan"),
        (plain("diffusion_model.blocks.0.self_attn.q"), "a LoRA for Wan"),
        (plain("diffusion_model.layers.0.attention.qkv"), "a LoRA for Z-Image or Lumina"),
        (plain("unet.down_blocks.0.motion_modules.0.proj_in"), "a LoRA for AnimateDiff"),
        (plain("lora_prior_unet_x"), "a LoRA for Stable Cascade"),
        (plain("base_model.model.model.layers.0.self_attn.q_proj"), "a LoRA for a language model"),
        (plain("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 1280), "a LoRA for the SDXL refiner"),
        (of(NAME, weight=(8, 1), on_input=()), "an (IA)3, which sdtune does not read"),
        (of(NAME, a1__weight=(4, 8), a2__weight=(8, 4), b1__weight=(4, 8), b2__weight=(8, 4)), "a GLoRA"),
        (of(f"base_model.model.{BLOCK}", oft_R__weight=(2, 3)), "an OFT of PEFT"),
        ({"first_stage_model.encoder.conv_in.weight": UP}, "a VAE, not a LoRA"),
        ({"control_model.input_blocks.0.0.weight": UP}, "a ControlNet, not a LoRA"),
        ({"emb_params": UP}, "a textual inversion, not a LoRA"),
        ({"clip_l": UP, "clip_g": UP}, "a textual inversion, not a LoRA"),
        ({"down_blocks.0.resnets.0.conv1.weight": UP}, "a denoiser alone, not a LoRA"),
        ({"text_model.encoder.layers.0.mlp.fc1.weight": UP}, "a text encoder alone, not a LoRA"),
        ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": UP}, "a whole model, not a LoRA; it is for"),
        (plain(NAME) | {f"{NAME}.foo": UP, f"{NAME}.bar": UP}, f"(it does not know {NAME}.bar and 1 more)"),
        (plain(LAYER) | {"iteration": UP}, "(it does not know iteration)"),
        (plain(LAYER) | {f"{LAYER}.scale": UP}, f"(it does not know {LAYER}.scale)"),
        (plain(LAYER) | plain("lora_unet_nonsense"), "know lora_unet_nonsense.lora_down.weight and 1 more)"),
        (plain(LAYER) | plain("lora_unet_blocks_0_attn1_k"), "a LoRA for Wan"),
        (of(NAME, diff_b=(8,), b_norm=(8,)), "names unet.mid_block.attentions.0.proj_in twice"),
        ({"bundle_emb.cat.clip_l": UP}, "new words alone (cat), not a LoRA"),
        (plain(NAME) | {"bundle_emb.cat.foo": UP}, "(it does not know bundle_emb.cat.foo)"),
        (plain(NAME) | plain("unet.mid_block.attentions.0.proj_in"), "names unet.mid_block.attentions.0.proj_in twice"),
        (plain(NAME) | plain("lora_unet_middle_block_1_proj_in"), "names unet.mid_block.attentions.0.proj_in twice"),
        (plain(NAME) | {f"{NAME}.lora_A.weight": DOWN}, "twice"),
        (
            {f"{NAME}.lora_down.weight": DOWN, "unet.mid_block.attentions.0.proj_in.lora_up.weight": UP},
            "twice",
        ),
        (
            plain(f"transformer.{BLOCK}") | plain("lora_unet_joint_blocks_0_x_block_attn_qkv"),
            f"names transformer.{BLOCK} twice",
        ),
        (plain(NAME) | of(NAME, hada_w1_a=(8, 4)), "has hada_w1_a and lora_down.weight and lora_up.weight alone"),
        (of(NAME, lora_down__weight=(4, 8)), "has lora_down.weight alone; the file is not whole, get it again"),
        (of(NAME, lokr_w1=(2, 2), lokr_w2_a=(2, 2)), "has lokr_w1 and lokr_w2_a alone"),
        (of(NAME, dora_scale=(8, 1)), "has dora_scale alone"),
        (of(NAME, alpha=()), "has alpha alone"),
        (plain(NAME) | of(NAME, alpha=(2,)), "has an alpha of 2 numbers"),
        (plain(NAME) | {"bundle_emb.cat.clip_l": torch.ones(2, 2, 2)}, "its word cat have shape (2, 2, 2)"),
        (plain(NAME) | {"bundle_emb.cat.clip_l": UP, "bundle_emb.cat.emb_params": UP}, "holds the word cat twice"),
    ],
)
def test_what_is_no_lora_of_ours_is_named(tensors: foreign.Tensors, told: str, tmp_path: Path) -> None:
    path = foreign.saved(tmp_path / "x.safetensors", tensors)
    with pytest.raises(LoraError) as problem:
        keys_of(path, read_header(path, LoraError))
    (said,) = problem.value.problems
    assert said.startswith(f"{path}: ")
    assert told in said
    assert "; " in said
    assert "\n" not in said
