"""How LoRA files name a model's modules, and which of the model's own names they mean.

Here a module is named by the pipeline's part and diffusers' path in it, `unet.mid_block.attentions.0.proj_in`; text
encoders' paths start with `text_model.`, as in files the world over, whether the model in memory has it or not.
Kohya's form writes paths with underscores for dots, and SDXL's U-Net by the block numbers of its first publication.
"""

from __future__ import annotations

import re
from collections.abc import Container

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
SETTINGS = "lora_adapter_metadata"
"""where diffusers keeps peft's settings in a file's metadata"""
_KOHYA = {"lora_te": "text_encoder", "lora_te1": "text_encoder", "lora_te2": "text_encoder_2"} | {
    "lora_te3": "text_encoder_3",
    "lora_unet": "unet",
}

_WITH_UNDERSCORES = """
    down_blocks mid_block up_blocks transformer_blocks to_q to_k to_v to_out proj_in proj_out conv_in conv_out
    conv_shortcut conv_norm_out time_embedding time_emb_proj add_embedding linear_1 linear_2 norm_out
    add_q_proj add_k_proj add_v_proj to_add_out ff_context norm1_context time_text_embed timestep_embedder
    text_embedder context_embedder pos_embed text_model self_attn q_proj k_proj v_proj out_proj text_projection
    token_embedding position_embedding layer_norm1 layer_norm2 final_layer_norm wi_0 wi_1 layer_norm
"""
_WORD = re.compile(
    "|".join(sorted(re.split(r"\s+", _WITH_UNDERSCORES.strip()), key=len, reverse=True)) + "|[A-Za-z0-9]+"
)


def _numbered_blocks() -> dict[str, str]:
    """{diffusers' path: kohya's name in SDXL's first publication} of the parts of a U-Net with 2 layers a block."""
    names = {
        "conv_in": "input_blocks_0_0",
        "conv_out": "out_2",
        "time_embedding.linear_1": "time_embed_0",
        "time_embedding.linear_2": "time_embed_2",
        "add_embedding.linear_1": "label_emb_0_0",
        "add_embedding.linear_2": "label_emb_0_2",
        "mid_block.resnets.0": "middle_block_0",
        "mid_block.attentions.0": "middle_block_1",
        "mid_block.resnets.1": "middle_block_2",
    }
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
_IN_RESNET = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}
_FROM_RESNET = {name: path for path, name in _IN_RESNET.items()}


def to_kohya(module: str, prefixes: dict[str, str], numbered: bool) -> str:
    """A module's name in kohya's form: lora_unet_..., lora_te_...; numbered is for SDXL."""
    part, path = split(module)
    if part == "unet" and numbered:
        return f"{prefixes[part]}_{_number(path)}"
    return f"{prefixes[part]}_{path.replace('.', '_')}"


def _number(path: str) -> str:
    pieces = path.split(".")
    for end in range(len(pieces), 0, -1):
        name = _NUMBERED.get(".".join(pieces[:end]))
        if name:
            rest = ".".join(pieces[end:])
            return "_".join([name, *filter(None, [_IN_RESNET.get(rest, rest.replace(".", "_"))])])
    raise AssertionError(f"{path} is in no U-Net of SDXL's kind")


def from_kohya(name: str) -> str | None:
    """The module that a name in kohya's form means; None where it is none."""
    prefix, _, rest = re.match(r"(lora_[a-z0-9]+)?(_?)(.*)", name).groups()  # type: ignore[union-attr]
    if prefix not in _KOHYA or not rest:
        return None
    part = _KOHYA[prefix]
    if part == "unet" and rest.startswith("transformer_blocks_"):
        part = "transformer"
    if part == "unet":
        pieces = rest.split("_")
        for end in range(len(pieces), 0, -1):
            start = _UNNUMBERED.get(re.sub(r"(output_blocks_\d+)_1_conv$", r"\1_2_conv", "_".join(pieces[:end])))
            if start:
                rest = "_".join(pieces[end:])
                return ".".join(["unet", start, *filter(None, [_FROM_RESNET.get(rest) or _dotted(rest)])])
    path = _dotted(rest)
    return f"{part}.{path}" if path else None


def _dotted(name: str) -> str:
    """Dots for those underscores that are not part of a word; "" where it is no name of ours."""
    words = _WORD.findall(name)
    return ".".join(words) if "_".join(words) == name else ""


def from_dotted(name: str) -> str | None:
    """The module that a name in peft's or diffusers' form means, of today or of old; None where it is none."""
    name = name.removeprefix("base_model.model.")
    if name.startswith(("down_blocks.", "mid_block.", "up_blocks.", "conv_in", "conv_out")):
        name = f"unet.{name}"
    elif name.startswith("transformer_blocks."):
        name = f"transformer.{name}"
    part, path = split(name)
    if part not in PARTS or not path:
        return None
    if part.startswith("text_encoder") and not path.startswith(("text_model.", "text_projection", "encoder.block.")):
        path = f"text_model.{path}"
    return f"{part}.{path}"


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
