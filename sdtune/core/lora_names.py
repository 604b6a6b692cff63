"""How LoRA files name a model's modules, and which of the model's own names they mean.

Here a module is named by the pipeline's part and diffusers' path in it, `unet.mid_block.attentions.0.proj_in`; text
encoders' paths start with `text_model.`, as in files the world over, whether the model in memory has it or not.
Kohya's form writes paths with underscores for dots, and SDXL's U-Net by the block numbers of its first publication.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, replace

from sdtune.core import original_sd3, original_unet

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
SETTINGS = "lora_adapter_metadata"
"""where diffusers keeps peft's settings in a file's metadata"""
LONGEST = 120
"""letters of a module's name, whatever the form; the longest known has under 100"""
_FLAT = re.compile(r"(lora_unet|lora_transformer|lora_te[123]?|lycoris)_(\w+)")
_FLAT_PARTS = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}
_COMFY_ENCODERS = {
    "text_encoders.clip_l.transformer": "text_encoder",
    "text_encoders.clip_h.transformer": "text_encoder",
    "text_encoders.clip_g.transformer": "text_encoder_2",
    "text_encoders.t5xxl.transformer": "text_encoder_3",
}
"""ComfyUI's names of text encoders; clip_h is that of SD2"""

_WITH_UNDERSCORES = """
    down_blocks mid_block up_blocks transformer_blocks to_q to_k to_v to_out proj_in proj_out conv_in conv_out
    conv_shortcut conv_norm_out time_embedding time_emb_proj add_embedding linear_1 linear_2 norm_out
    add_q_proj add_k_proj add_v_proj to_add_out ff_context norm1_context time_text_embed timestep_embedder
    text_embedder context_embedder pos_embed text_model self_attn q_proj k_proj v_proj out_proj text_projection
    token_embedding position_embedding layer_norm1 layer_norm2 final_layer_norm wi_0 wi_1 layer_norm
    norm_q norm_k norm_added_q norm_added_k relative_attention_bias embed_tokens
"""
_WORD = re.compile(
    "|".join(sorted(re.split(r"\s+", _WITH_UNDERSCORES.strip()), key=len, reverse=True)) + "|[A-Za-z0-9]+"
)


def _flattened(name: str) -> str:
    """With underscores for dots."""
    return name.replace(".", "_")


def _numbered_blocks() -> dict[str, str]:
    """{diffusers' path: kohya's name in SDXL's first publication} of the parts of a U-Net with 2 layers a block."""
    names = {path: _flattened(original) for path, original in (*original_unet.ENDS, *original_unet.MIDDLE)}
    for block in range(4):
        for layer in range(3):
            if layer < 2:
                names[f"down_blocks.{block}.resnets.{layer}"] = f"input_blocks_{3 * block + layer + 1}_0"
                names[f"down_blocks.{block}.attentions.{layer}"] = f"input_blocks_{3 * block + layer + 1}_1"
            names[f"up_blocks.{block}.resnets.{layer}"] = f"output_blocks_{3 * block + layer}_0"
            names[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks_{3 * block + layer}_1"
        names[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks_{3 * block + 3}_0_op"
        names[f"up_blocks.{block}.upsamplers.0.conv"] = f"output_blocks_{3 * block + 2}_2_conv"
    return names


_NUMBERED = _numbered_blocks()
_UNNUMBERED = {name: path for path, name in _NUMBERED.items()}
_IN_RESNET = {path: _flattened(original) for path, original in original_unet.RESNET}
_FROM_RESNET = {name: path for path, name in _IN_RESNET.items()}
_JOINT = re.compile(r"joint_blocks_(\d{1,2})_(\w+)")


def _joint_layers() -> dict[str, tuple[str, ...]]:
    """{"x_block_attn_qkv": diffusers' layers of equal shares of its outputs} of a block of SD3's first publication."""
    alone = (*original_sd3.BLOCK, original_sd3.NORM_OF_TEXT)
    layers = {_flattened(original): (path,) for path, original in alone}
    return layers | {_flattened(original): paths for paths, original in original_sd3.JOINED}


_JOINT_LAYERS = _joint_layers()
_AROUND_JOINT = {
    _flattened(original): path for path, original in (*original_sd3.ENDS, original_sd3.LAST) if path != original
}

_ATTENTION = r"to_q|to_k|to_v|to_out\.0"
_BLOCK = rf"transformer_blocks\.\d{{1,2}}\.(attn[12]\.({_ATTENTION})|ff\.net\.(0\.proj|2)|norm[123])"
_RESNET = r"resnets\.\d\.(conv[12]|norm[12]|time_emb_proj|conv_shortcut)"
_UNET = (
    r"conv_(norm_)?(out)|conv_in|(time|add)_embedding\.linear_[12]|(down|up)_blocks\.[0-3]\.(down|up)samplers\.0\.conv|"
    rf"(mid_block|(down|up)_blocks\.[0-3])\.({_RESNET}|attentions\.\d\.(norm|proj_in|proj_out|{_BLOCK}))"
)
_TRANSFORMER = (
    r"context_embedder|norm_out\.linear|pos_embed\.proj|proj_out|"
    r"time_text_embed\.(text|timestep)_embedder\.linear_[12]|transformer_blocks\.\d{1,2}\.("
    rf"attn2?\.({_ATTENTION}|add_[qkv]_proj|to_add_out|norm_[qk]|norm_added_[qk])|"
    r"ff(_context)?\.net\.(0\.proj|2)|norm1(_context)?\.linear)"
)
_CLIP = (
    r"text_projection|text_model\.(embeddings\.(token|position)_embedding|final_layer_norm|"
    r"encoder\.layers\.\d{1,2}\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12]|layer_norm[12]))"
)
_T5 = (
    r"shared|encoder\.(embed_tokens|final_layer_norm|block\.\d{1,2}\.layer\.[01]\."
    r"(SelfAttention\.(q|k|v|o|relative_attention_bias)|DenseReluDense\.(wi|wi_0|wi_1|wo)|layer_norm))"
)
_MODULE = re.compile(
    rf"unet\.({_UNET})|transformer\.({_TRANSFORMER})|text_encoder(_2)?\.({_CLIP})|text_encoder_3\.({_T5})"
)
"""every module of the families that may stand in a LoRA file"""


@dataclass(frozen=True)
class Named:
    """What a name in a file means."""

    modules: tuple[str, ...]
    """more than one: each has an equal share of the outputs, in this order"""
    form: str | None
    """kohya ...; None for names with dots, which several forms have"""
    original: bool = False
    """whether it is a name of SD3's first publication"""


def to_kohya(module: str, prefixes: dict[str, str], numbered: bool) -> str:
    """A module's name in kohya's form: lora_unet_..., lora_te_...; numbered is for SDXL."""
    part, path = split(module)
    if part == "unet" and numbered:
        return f"{prefixes[part]}_{_number(path)}"
    return f"{prefixes[part]}_{_flattened(path)}"


def _number(path: str) -> str:
    pieces = path.split(".")
    for end in range(len(pieces), 0, -1):
        name = _NUMBERED.get(".".join(pieces[:end]))
        if name:
            rest = ".".join(pieces[end:])
            return "_".join([name, *filter(None, [_IN_RESNET.get(rest, _flattened(rest))])])
    raise AssertionError(f"{path} is in no U-Net of SDXL's kind")


def named(name: str) -> Named | None:
    """What a name in any form means; None where it is no module of a family."""
    if len(name) > LONGEST:
        return None
    found = _flat(name) or _with_dots(name)
    known = found and found.modules and all(_MODULE.fullmatch(module) for module in found.modules)
    return found if known else None


def _flat(name: str) -> Named | None:
    """Of names with underscores for dots: lora_unet_..., lora_te_..., OneTrainer's lora_transformer_..., lycoris_..."""
    match = _FLAT.fullmatch(name)
    if not match:
        return None
    prefix, rest = match[1], match[2]
    if prefix == "lycoris":
        prefix, _, inner = rest.partition("_")
        if prefix in ("unet", *_FLAT_PARTS) or inner.startswith("transformer_blocks"):
            rest = inner
        part = _FLAT_PARTS.get(prefix) or ("text_encoder" if rest.startswith("text_model") else "unet")
    else:
        part = _FLAT_PARTS.get(prefix.removeprefix("lora_"), "unet")
    found = _in_denoiser(rest) if part == "unet" else Named((_in_encoder(part, _dotted(rest)),), "kohya")
    form = {"lycoris": "LyCORIS", "lora_transformer": "OneTrainer"}.get(match[1], found.form)
    return replace(found, form=form)


def _in_denoiser(name: str) -> Named:
    """What a name with underscores means in a U-Net or in SD3's transformer."""
    if joint := _JOINT.fullmatch(name):
        layers = _JOINT_LAYERS.get(joint[2], ())
        modules = tuple(f"transformer.transformer_blocks.{joint[1]}.{layer}" for layer in layers)
        return Named(modules, "kohya (joint blocks)", original=True)
    if name in _AROUND_JOINT:
        return Named((f"transformer.{_AROUND_JOINT[name]}",), "kohya (joint blocks)", original=True)
    pieces = re.sub(r"(output_blocks_\d+)_1_conv$", r"\1_2_conv", name).split("_")
    for end in range(min(len(pieces), 5), 0, -1):  # no block's name has more
        if start := _UNNUMBERED.get("_".join(pieces[:end])):
            rest = "_".join(pieces[end:])
            inner = _FROM_RESNET.get(rest) or _dotted(rest)
            return Named((f"unet.{start}.{inner}" if inner else f"unet.{start}",), "kohya (numbered blocks)")
    path = _dotted(name)
    of_unet = _MODULE.fullmatch(f"unet.{path}")
    return Named((f"unet.{path}" if of_unet else f"transformer.{path}",), "kohya")


def _with_dots(name: str) -> Named | None:
    """Of names with dots, of whatever form."""
    for start in ("model.diffusion_model.", "diffusion_model."):
        if name.startswith(start):
            return replace(_in_denoiser(_flattened(name.removeprefix(start))), form="ComfyUI")
    for start, part in _COMFY_ENCODERS.items():
        if name.startswith(f"{start}."):
            return Named((_in_encoder(part, name.removeprefix(f"{start}.")),), "ComfyUI")
    module = from_dotted(modernised(name))
    return Named((module,), None) if module else None


def _in_encoder(part: str, path: str) -> str:
    """A module of a text encoder, whose path in CLIP begins with text_model."""
    begins = ("text_model.", "text_projection", "encoder.block.")
    of_clip = part != "text_encoder_3" and not path.startswith(begins)
    return f"{part}.text_model.{path}" if of_clip else f"{part}.{path}"


def _dotted(name: str) -> str:
    """Dots for those underscores that are not part of a word; "" where it is no name of ours."""
    words = _WORD.findall(name)
    return ".".join(words) if "_".join(words) == name else ""


def from_dotted(name: str) -> str | None:
    """The module that a name in peft's or diffusers' form of today means; None where it is in no part of a pipeline."""
    name = name.removeprefix("base_model.model.")
    part, path = split(name)
    if part not in PARTS:
        begins = (("transformer_blocks.", "transformer"), ("encoder.block.", "text_encoder_3"))
        texts = (("text_model.", "text_encoder"), ("encoder.layers.", "text_encoder"))
        part = next((one for start, one in (*begins, *texts) if name.startswith(start)), "unet")
        path = name
    path = path.removeprefix("base_model.model.")
    if not path:
        return None
    return _in_encoder(part, path) if part.startswith("text_encoder") else f"{part}.{path}"


def modernised(name: str) -> str:
    """A name in diffusers' spelling of before 2024 (`attn1.processor.to_q`, `self_attn.to_q`) in today's."""
    name = name.replace(".processor.", ".")
    if ".self_attn." in name:
        return re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", name)
    return re.sub(r"\.to_out$", ".to_out.0", name)


def split(module: str) -> tuple[str, str]:
    """The part and the path in it."""
    part, _, path = module.partition(".")
    return part, path


def in_model(module: str, names: Container[str]) -> str:
    """The path as a model in memory spells it, whose module names these are: transformers 5.6 dropped text_model."""
    path = split(module)[1]
    flat = path.removeprefix("text_model.")
    return flat if path not in names and flat in names else path
