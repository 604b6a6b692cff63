"""What a file is that is no LoRA of our families, told by its tensors' names and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from sdtune.core.families import families
from sdtune.core.families.base import Shapes

_NETWORKS = {
    r"\.on_input$|\.ia3_l": "an (IA)3",
    r"\.[ab][12]\.weight$": "a GLoRA",
    r"\.vera_lambda_": "a VeRA",
    r"\.boft_[RS]|\.boft_": "a BOFT of PEFT",
    r"\.oft_[rR](\.|$)": "an OFT of PEFT",
    r"\.hra_u": "an HRA",
    r"\.lora_E$|\.ranknum$": "an AdaLoRA",
    r"\.fourierft_spectrum": "a FourierFT",
    r"\.lora_embedding_[AB]": "a LoRA of token embeddings",
    r"\.bias_(indices|values|size)$": "a LyCORIS with sparse biases",
    r"\.lora_B(\.default)?\.bias$": "a LoRA with biases of its own",
}
_FAMILIES = {
    r"lora_prior_|prior_unet": "Stable Cascade",
    r"motion_modules|temporal_transformer_blocks|temporal_attentions": "AnimateDiff or Stable Video Diffusion",
    r"individual_token_refiner|_mod_linear\.|_mod\.linear\.": "HunyuanVideo",
    r"double_stream_blocks|single_stream_blocks": "HiDream",
    r"joint_transformer_blocks|double_layers[_.]\d": "AuraFlow",
    r"single_transformer_blocks|(double|single)_blocks[_.]\d": "Flux",
    r"transformer_blocks[_.]\d+[_.](img|txt)_(mlp|mod)": "Qwen-Image",
    r"(^|[_.])layers[_.]\d+[_.](attention|feed_forward|adaLN_modulation)[_.]": "Z-Image or Lumina",
    r"model\.layers[_.]\d+[_.](self_attn|mlp)[_.]|(^|\.)transformer\.h\.\d+\.": "a language model",
    r"(?<!transformer)(^|[_.])blocks[_.]\d+[_.](self_attn|cross_attn|attn[12]|ffn|mlp)[_.]": "Wan, or one of videos",
    r"^(transformer\.|base_model\.model\.)?transformer_blocks\.\d+\.attn1\.": "PixArt, LTX-Video or CogVideoX",
}
_OF_LORA = re.compile(r"\.(lora|hada|lokr|oft)_|_lora\.|\.(alpha|dora_scale|diff|diff_b|w_norm|b_norm)$")
_OTHERS = {
    r"^(control_model|controlnet_|input_hint_block|zero_convs|lora_controlnet)": "a ControlNet",
    r"^(ip_adapter|image_proj)\b": "an IP-Adapter",
    r"^(emb_params|clip_[lg]|string_to_param.*|t5xxl)$": "a textual inversion",
    r"^(first_stage_model|encoder\.(down|mid)|decoder\.(up|mid)|(post_)?quant_conv)": "a VAE",
    r"^(down_blocks|mid_block|up_blocks|transformer_blocks|model\.diffusion_model|input_blocks)\.": "a denoiser alone",
    r"^(text_model|cond_stage_model|conditioner|encoder\.(layers|block)|te[12]_)": "a text encoder alone",
}


_LOOKED_AT, _LONGEST = 4096, 200
"""keys that are looked at, and letters of them: more than any known file needs, and no work to speak of"""


def what_else(shapes: Shapes, unknown: Sequence[str]) -> str | None:
    """What a file with these tensors is, told by those of no LoRA of ours, and what to do; None where nobody knows."""
    if any(family.recognises(shapes) for family in families().values()):
        return "a whole model, not a LoRA; it is for sdtune sample --model, or for sdtune merge to put LoRAs into"
    is_lora = any(map(_OF_LORA.search, _some(shapes)))
    keys = _some(unknown)
    if is_lora and (family := _first(_FAMILIES, keys)):
        return _for(family)
    if network := _first(_NETWORKS, keys):
        return f"{network}, which sdtune does not read; choose a LoRA, DoRA, LoHa, LoKr or OFT"
    other = None if is_lora else _first(_OTHERS, keys)
    return other and f"{other}, not a LoRA; choose another file"


def _some(keys: Iterable[str]) -> list[str]:
    """As many as are looked at."""
    short = [key for key in keys if len(key) <= _LONGEST]
    return short[:: len(short) // _LOOKED_AT + 1]


def other_family(widths: Mapping[str, int]) -> str | None:
    """The same of a LoRA whose modules are named like ours, by how many inputs they have; None: it may be ours."""
    for module, width in widths.items():
        if width == 3072 and re.search(r"^transformer\..*\.(to_q|to_k|to_v|add_[qkv]_proj)$", module):
            return _for("Flux or Qwen-Image")
        if width == 1280 and re.search(r"^unet\..*\.attn2\.to_[kv]$", module):
            return _for("the SDXL refiner")
    return None


def _first(kinds: Mapping[str, str], keys: Iterable[str]) -> str | None:
    """The first kind of which there is a key."""
    return next((kind for mark, kind in kinds.items() if any(map(re.compile(mark).search, keys))), None)


def _for(family: str) -> str:
    titles = " or ".join(known.title for known in families().values())
    return f"a LoRA for {family}, which sdtune does not draw with; choose one for {titles}"
