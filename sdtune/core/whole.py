"""Whether a base model is whole, before anything is made of it: no tensor is missing, and each has its shape.

By the configs, where there are any; of a single file without, by itself: what one block has, all of its kind have.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from sdtune.core import original_sd3, original_unet
from sdtune.core.families import Family
from sdtune.core.families.base import Shapes
from sdtune.core.model_folder import FAILURES, check_configs, empty_part, kind_of_part, unloadable
from sdtune.core.weights import Weights, as_now
from sdtune.errors import ModelError

REMEDY = "download the model again"
_BLOCK = re.compile(r"(.+\.(resnets|attentions|transformer_blocks|downsamplers|upsamplers|layers|block)\.\d+)\.(.+)")
"""a tensor's block, the kind of block, and what it is within"""
_OF_SOME = (
    *("unet.resnets.conv_shortcut", "vae.resnets.conv_shortcut"),
    *(f"transformer.transformer_blocks.{name}" for name in ("attn2", "ff_context", "attn.to_add_out")),
    "text_encoder_3.block.layer.0.SelfAttention.relative_attention_bias",
)
"""how part, kind of block and name within begin of what only some blocks have, and those whole"""
_IMPLIED = {"text_encoder.text_projection.weight"}
"""of SD3, which programs take for the unit matrix where a file lacks it"""
_COUNTED = tuple(
    f".{name}."
    for name in ("input_blocks", "output_blocks", "joint_blocks", "resblocks", "layers", "down", "up", "block")
)
"""of the original layout, whose numbers begin with 0"""
_NUMBER = re.compile(r"\.(\d+)(?=\.)")


def missing_parts(weights: Weights) -> list[str]:
    """Those without which the family draws no picture, and of which the model has nothing."""
    family = weights.family
    there = {name.partition(".")[0] for name in weights.shapes}
    parts = (family.denoiser, "vae", *family.text_encoders)
    return [part for part in parts if part not in there and part not in family.optional_parts]


def check_whole(
    weights: Weights, place: str, configs: Path | None, changes: Mapping[str, Mapping[str, Any]], *, in_file: bool
) -> None:
    """Stop at a part, of those that are there, which lacks a tensor or has one of another shape.

    `changes` are {"unet": {"in_channels": 9}} of the configs; `in_file` is whether it is a file and shall be one.
    """
    if configs is None:
        if gap := _gap(weights):
            raise ModelError(f"{place}: {gap} is missing; {REMEDY}")
        return
    check_configs(configs, weights.family)
    there = {name.partition(".")[0] for name in weights.shapes}
    for part in (weights.family.denoiser, "vae", *weights.family.text_encoders):
        if part not in there:
            continue
        expected = _by_config(configs, part, weights.family, changes.get(part, {}), weights.shapes)
        missing = sorted(expected.keys() - weights.shapes.keys() - (_IMPLIED if in_file else set()))
        if missing:
            told = f"{missing[0]} is" if len(missing) == 1 else f"{missing[0]} and {len(missing) - 1} more are"
            raise ModelError(f"{place}: {told} missing, of which the config of {part} tells; {REMEDY}")
        for name, shape in expected.items():
            if weights.shapes.get(name, shape) != shape:
                told = f"{name} has the shape {weights.shapes[name]}, where the config of {part} tells of {shape}"
                raise ModelError(f"{place}: {told}; {REMEDY}")


def _by_config(configs: Path, part: str, family: Family, changes: Mapping[str, Any], there: Collection[str]) -> Shapes:
    """What a part has by its config: {name: shape}; of tensors that are the same, that which is `there`."""
    import torch

    kind = kind_of_part(configs, part)
    if kind.__module__.startswith("diffusers."):
        net = empty_part(configs, part, **changes)
    else:
        try:
            with torch.device("meta"):
                net = kind(kind.config_class.from_pretrained(configs / part, local_files_only=True))
        except FAILURES as problem:
            raise unloadable(configs / part, problem) from problem
    expected = {as_now(key, part, family): tuple(value.shape) for key, value in net.state_dict().items()}
    for same, kept in dict(getattr(net, "_tied_weights_keys", None) or {}).items():
        gone = same if f"{part}.{kept}" in there else kept  # files have one of the two
        expected.pop(gone, None)
    return {f"{part}.{key}": shape for key, shape in expected.items()}


def _gap(weights: Weights) -> str | None:
    """The first that is missing by what others have; None where none is known to be."""
    names = weights.shapes.keys()
    blocks: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        if found := _BLOCK.fullmatch(name):
            blocks[name.partition(".")[0], found[2]][found[1]].add(found[3])
    for (part, kind), alike in blocks.items():
        usual = {within for one in alike.values() for within in one}
        of_some = [one.removeprefix(f"{part}.{kind}.") for one in _OF_SOME if one.startswith(f"{part}.{kind}.")]
        for stem, has in alike.items():
            left_out = tuple(one for one in of_some if not any(within.startswith(one) for within in has))
            if lacking := sorted(within for within in usual - has if not within.startswith(left_out)):
                return f"{stem}.{lacking[0]}"
    there = {name.partition(".")[0] for name in names}
    for name in _ends(weights.family):
        if name.partition(".")[0] in there and name not in names:
            return name
    return _gap_in_numbers([piece.key for piece in weights.pieces()])


def _ends(family: Family) -> Iterator[str]:
    """The tensors that stand outside of blocks."""
    if family.denoiser == "unet":
        modules = [f"vae.{name}" for name in ("quant_conv", "post_quant_conv")]
        modules += [f"unet.{name}" for name, _ in original_unet.ENDS if family.name == "sdxl" or "add_" not in name]
    else:
        yield f"transformer.{original_sd3.ENDS[0][0]}"
        modules = [f"transformer.{name}" for name, _ in (*original_sd3.ENDS[1:], original_sd3.LAST)]
    modules += [
        f"vae.{side}.{name}" for side in ("encoder", "decoder") for name in ("conv_in", "conv_norm_out", "conv_out")
    ]
    modules += [f"{part}.text_model.final_layer_norm" for part in family.clips]
    for module in modules:
        yield from (f"{module}.weight", f"{module}.bias")
    for part in family.clips:
        yield from (f"{part}.text_model.embeddings.{kind}_embedding.weight" for kind in ("token", "position"))
    if len(family.clips) > 1:
        yield f"{family.clips[1]}.text_projection.weight"
    yield from ("text_encoder_3.encoder.final_layer_norm.weight", "text_encoder_3.shared.weight")


def _gap_in_numbers(keys: Collection[str]) -> str | None:
    """The first block that is left out of those that are counted from 0."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for key in keys:
        for found in _NUMBER.finditer(key):
            numbers[key[: found.start(1)]].add(int(found[1]))
    for stem, told in sorted(numbers.items()):
        left_out = set(range(max(told))) - told if stem.endswith(_COUNTED) else ()
        if left_out:
            return f"{stem}{min(left_out)}"
    return None
