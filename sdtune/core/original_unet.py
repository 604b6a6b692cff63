"""The U-Net in the original layout, where blocks have one number from the entrance to the exit.

After CompVis' openaimodel.py: input_blocks.0 is the first convolution; every residual block has a number of its own,
and the transformer behind it stands beside it; what halves the size has one, too, what doubles it has none.
"""

from __future__ import annotations

from collections.abc import Collection

from sdtune.core.original_room import Room, numbers, rooms_of

PREFIX = "model.diffusion_model."
ENDS = (
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)
RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
MIDDLE = (
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
)


def rooms(names: Collection[str]) -> list[Room]:
    """Of a U-Net whose tensors diffusers names so (down_blocks.0.resnets.0.norm1.weight ...)."""
    there = _stems(names)
    pairs, number = [], 1
    for block in numbers(names, r"down_blocks\.(\d+)\."):
        for layer in numbers(names, rf"down_blocks\.{block}\.resnets\.(\d+)\."):
            pairs.append((f"down_blocks.{block}.resnets.{layer}", f"input_blocks.{number}.0"))
            pairs.append((f"down_blocks.{block}.attentions.{layer}", f"input_blocks.{number}.1"))
            number += 1
        if f"down_blocks.{block}.downsamplers.0" in there:
            pairs.append((f"down_blocks.{block}.downsamplers.0.conv", f"input_blocks.{number}.0.op"))
            number += 1
    number = 0
    for block in numbers(names, r"up_blocks\.(\d+)\."):
        layers = numbers(names, rf"up_blocks\.{block}\.resnets\.(\d+)\.")
        for layer in layers:
            pairs.append((f"up_blocks.{block}.resnets.{layer}", f"output_blocks.{number}.0"))
            attends = f"up_blocks.{block}.attentions.{layer}" in there
            if attends:
                pairs.append((f"up_blocks.{block}.attentions.{layer}", f"output_blocks.{number}.1"))
            if layer == layers[-1]:
                pairs.append((f"up_blocks.{block}.upsamplers.0", f"output_blocks.{number}.{1 + attends}"))
            number += 1
    return _complete(pairs)


def rooms_of_file(keys: Collection[str]) -> list[Room]:
    """Of a U-Net whose tensors have these names in the original layout, without what all begin with."""
    there = _stems(keys)
    pairs, block, layer = [], 0, 0
    for number in numbers(keys, r"input_blocks\.(\d+)\.")[1:]:
        here = f"input_blocks.{number}"
        if f"{here}.0.op" in there:
            pairs.append((f"down_blocks.{block}.downsamplers.0.conv", f"{here}.0.op"))
            block, layer = block + 1, 0
            continue
        pairs.append((f"down_blocks.{block}.resnets.{layer}", f"{here}.0"))
        pairs.append((f"down_blocks.{block}.attentions.{layer}", f"{here}.1"))
        layer += 1
    block, layer = 0, 0
    for number in numbers(keys, r"output_blocks\.(\d+)\."):
        here = f"output_blocks.{number}"
        pairs.append((f"up_blocks.{block}.resnets.{layer}", f"{here}.0"))
        doubles = next((place for place in (1, 2) if f"{here}.{place}.conv" in there), None)
        if doubles != 1:
            pairs.append((f"up_blocks.{block}.attentions.{layer}", f"{here}.1"))
        layer += 1
        if doubles is not None:
            pairs.append((f"up_blocks.{block}.upsamplers.0", f"{here}.{doubles}"))
            block, layer = block + 1, 0
    return _complete(pairs)


def _complete(pairs: list[tuple[str, str]]) -> list[Room]:
    """With what does not depend on the numbers, and the names within residual blocks."""
    inner = []
    for name, key in (*pairs, *MIDDLE):
        within = RESNET if ".resnets." in name else (("", ""),)
        inner += [(f"{name}.{own}".rstrip("."), f"{key}.{original}".rstrip(".")) for own, original in within]
    return rooms_of((*ENDS, *inner), "unet", PREFIX)


def _stems(keys: Collection[str]) -> set[str]:
    """The modules that these names begin with, as far as their number in their block and one word more."""
    return {".".join(key.split(".")[:4]) for key in keys}
