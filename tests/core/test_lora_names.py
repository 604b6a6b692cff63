"""Names of modules in files: every layer's leads back to it, however it is spelt."""

from __future__ import annotations

import pytest

from sdtune.core import lora_names
from sdtune.core.families import family_named
from tests import tiny


@pytest.mark.parametrize(
    ("kohya", "module"),
    [
        (
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        ),
        ("lora_unet_input_blocks_3_0_op", "unet.down_blocks.0.downsamplers.0.conv"),
        ("lora_unet_middle_block_1_proj_in", "unet.mid_block.attentions.0.proj_in"),
        (
            "lora_unet_output_blocks_5_1_transformer_blocks_1_ff_net_0_proj",
            "unet.up_blocks.1.attentions.2.transformer_blocks.1.ff.net.0.proj",
        ),
        ("lora_unet_output_blocks_2_2_conv", "unet.up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_output_blocks_8_0_skip_connection", "unet.up_blocks.2.resnets.2.conv_shortcut"),
        ("lora_unet_input_blocks_1_0_in_layers_0", "unet.down_blocks.0.resnets.0.norm1"),
        ("lora_unet_input_blocks_1_0_out_layers_0", "unet.down_blocks.0.resnets.0.norm2"),
        ("lora_unet_input_blocks_0_0", "unet.conv_in"),
        ("lora_unet_out_2", "unet.conv_out"),
        ("lora_unet_time_embed_2", "unet.time_embedding.linear_2"),
        ("lora_te1_text_model_encoder_layers_3_mlp_fc1", "text_encoder.text_model.encoder.layers.3.mlp.fc1"),
        (
            "lora_te2_text_model_encoder_layers_3_self_attn_out_proj",
            "text_encoder_2.text_model.encoder.layers.3.self_attn.out_proj",
        ),
    ],
)
def test_names_of_sdxl_as_the_world_writes_them(kohya: str, module: str) -> None:
    named = lora_names.named(kohya)
    assert named
    assert named.modules == (module,)
    assert lora_names.to_kohya(module, family_named("sdxl").kohya_prefixes, numbered=True) == kohya


@pytest.mark.parametrize("numbered", [False, True])
def test_every_layer_has_a_kohya_name_of_its_own_that_leads_back(family_name: str, numbered: bool) -> None:
    family, pipe = family_named(family_name), tiny.pipeline(family_name)
    seen = set()
    for part in (family.denoiser, *family.text_encoders):
        for path, layer in getattr(pipe, part).named_modules() if getattr(pipe, part) else ():
            if not any(True for _ in layer.parameters(recurse=False)):
                continue
            module = lora_names.from_dotted(f"{part}.{path}")
            assert module
            name = lora_names.to_kohya(module, family.kohya_prefixes, numbered)
            seen.add(name)
            for spelt in (name, module, f"{part}.{path}"):
                named = lora_names.named(spelt)
                assert named, spelt
                assert named.modules == (module,)
            layers = dict(getattr(pipe, part).named_modules())
            assert layers[lora_names.in_model(module, layers)] is layer
    assert len(seen) > 20


ATTENTION = "text_encoder_3.encoder.block.3.layer.0.SelfAttention.q"
FEED_FORWARD = "text_encoder_3.encoder.block.3.layer.1.DenseReluDense.wi_0"
BLOCK = "transformer.transformer_blocks.7"


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("lora_te3_encoder_block_3_layer_0_SelfAttention_q", [ATTENTION]),
        ("lora_te3_encoder_block_3_layer_1_DenseReluDense_wi_0", [FEED_FORWARD]),
        ("text_encoders.t5xxl.transformer.encoder.block.3.layer.1.DenseReluDense.wi_0", [FEED_FORWARD]),
        (ATTENTION, [ATTENTION]),
        ("base_model.model.encoder.block.3.layer.0.SelfAttention.q", [ATTENTION]),
        ("lora_te2_text_projection", ["text_encoder_2.text_projection"]),
        ("text_encoders.clip_h.transformer.text_model.final_layer_norm", ["text_encoder.text_model.final_layer_norm"]),
        ("base_model.model.text_model.encoder.layers.0.mlp.fc1", ["text_encoder.text_model.encoder.layers.0.mlp.fc1"]),
        ("model.diffusion_model.input_blocks.0.0", ["unet.conv_in"]),
        ("lora_unet_output_blocks_2_1_conv", ["unet.up_blocks.0.upsamplers.0.conv"]),
        ("lora_unet_in_layers_2", None),
        ("lora_unet_joint_blocks_7_x_block_attn2_qkv", [f"{BLOCK}.attn2.to_{letter}" for letter in "qkv"]),
        ("lora_unet_joint_blocks_7_context_block_attn_qkv", [f"{BLOCK}.attn.add_{letter}_proj" for letter in "qkv"]),
        ("lora_unet_joint_blocks_7_context_block_attn_ln_k", [f"{BLOCK}.attn.norm_added_k"]),
        ("diffusion_model.joint_blocks.7.x_block.mlp.fc1", [f"{BLOCK}.ff.net.0.proj"]),
        ("diffusion_model.t_embedder.mlp.2", ["transformer.time_text_embed.timestep_embedder.linear_2"]),
        ("lora_transformer_transformer_blocks_7_norm1_context_linear", [f"{BLOCK}.norm1_context.linear"]),
        ("lycoris_transformer_blocks_7_ff_context_net_2", [f"{BLOCK}.ff_context.net.2"]),
        ("lycoris_transformer_transformer_blocks_7_ff_net_2", [f"{BLOCK}.ff.net.2"]),
    ],
)
def test_names_of_every_part(name: str, modules: list[str] | None) -> None:
    named = lora_names.named(name)
    assert (list(named.modules) if named else None) == modules


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_double_blocks_0_img_attn_qkv",
        "lora_unet_joint_blocks_0_x_block_attn_qkw",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_qq",
        "lora_unet_input_blocks_99_1_proj_in",
        "lora_unet_out_2_5",
        "lora_unet_",
        "lora_te4_text_model_encoder_layers_0_mlp_fc1",
        "lora_te_text_model_encoder_layers_0_mlp_fc3",
        "lora_te1_encoder_block_0_layer_0_SelfAttention_q",
        "lora_prior_unet_mid_block_attentions_0_proj_in",
        "unet.down_blocks.4.attentions.0.proj_in",
        "unet.down_blocks.0.attentions.0.proj_in.more",
        "transformer.single_transformer_blocks.0.attn.to_q",
        "transformer.unet.conv_in",
        "text_encoder_3.text_model.encoder.layers.0.mlp.fc1",
        "text_encoders.clip_x.transformer.text_model.encoder.layers.0.mlp.fc1",
        "model.layers.0.self_attn.q_proj",
        "conv_in ",
        "",
    ],
)
def test_names_of_no_module_are_none(name: str) -> None:
    assert lora_names.named(name) is None
