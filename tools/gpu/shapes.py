"""The released models' denoisers and VAE by their public configs: real shapes, without their weights.

Speed and memory do not depend on the values of weights, so these stand for the released models in measurements.
"""

from __future__ import annotations

from typing import Any

DENOISERS: dict[str, dict[str, Any]] = {
    "sd1": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "sd3": {  # 3.5-medium
        "sample_size": 128,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 384,
        "dual_attention_layers": tuple(range(13)),
        "qk_norm": "rms_norm",
    },
}
"""family -> config of its denoiser"""

TEXT_ENCODERS = {"sd1": 123e6, "sd2": 340e6, "sdxl": 123e6 + 695e6, "sd3": 123e6 + 695e6 + 4762e6}
"""family -> parameters of its text encoders in all: CLIP ViT-L 123 M, ViT-H 340 M, ViT-bigG 695 M, T5-XXL 4762 M"""

CAPTIONS: dict[str, dict[str, tuple[int, ...]]] = {
    "sd1": {"encoder_hidden_states": (77, 768)},
    "sd2": {"encoder_hidden_states": (77, 1024)},
    "sdxl": {"encoder_hidden_states": (77, 2048), "text_embeds": (1280,), "time_ids": (6,)},
    "sd3": {"encoder_hidden_states": (333, 4096), "pooled_projections": (2048,)},
}
"""family -> shapes of what the denoiser is told of one caption"""


def denoiser(family: str) -> Any:
    """A family's denoiser in the default dtype on the default device, with random weights."""
    from diffusers import SD3Transformer2DModel, UNet2DConditionModel

    return (SD3Transformer2DModel if family == "sd3" else UNet2DConditionModel)(**DENOISERS[family])


def vae(family: str) -> Any:
    """The autoencoder of Stable Diffusion (4 channels, sd3: 16), 84 M parameters."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=16 if family == "sd3" else 4,
        use_quant_conv=family != "sd3",
        use_post_quant_conv=family != "sd3",
    )
