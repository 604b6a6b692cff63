"""Weights that files hold in fewer bits with numbers beside them, and what they unpack to.

bitsandbytes (Dettmers et al. 2023, arXiv:2305.14314): 4 bits with a quant_state, 8 bits with a scale a row (SCB);
8-bit floats with a scale (scale_weight or weight_scale), as files for ComfyUI have them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.core.header import Header

if TYPE_CHECKING:
    from torch import Tensor

Read = Callable[[str], "Tensor"]
_STATES = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")
_SCALES = ("scale_weight", "weight_scale")
_FLOATS = ("F64", "F32", "F16", "BF16")
_LONGEST_STATE, _LARGEST_BLOCK = 2**16, 2**12
"""bytes of a quant_state, and weights that share a largest value"""
_NAMES = {"float32": "F16", "float16": "F16", "bfloat16": "BF16"}


class PackingError(ValueError):
    """Weights are packed in a way that is not known here; the text says which."""


@dataclass(frozen=True)
class Packed:
    """A weight in fewer bits."""

    kind: str
    """nf4, fp4, int8; of 8-bit floats as safetensors names them"""
    shape: tuple[int, ...]
    """of what it unpacks to"""
    dtype: str
    """that holds it, as safetensors names it: BF16 where it says that it was of that before, else F16"""
    beside: tuple[str, ...]
    """keys of the tensors that say how it is unpacked"""
    unpack: Callable[[Read], Tensor]
    """into float32"""


def packed_weights(header: Header, read: Read) -> tuple[dict[str, Packed], set[str]]:
    """The packed weights of a file, and the keys of all that stands there for their sake; a few bytes are read."""
    found: dict[str, Packed] = {}
    others = set()

    def put(weight: str, packed: Packed) -> None:
        if weight in found:
            raise PackingError(f"{weight} is packed in two ways ({found[weight].beside[0]} and {packed.beside[0]})")
        found[weight] = packed

    for key in header.shapes:
        stem, _, last = key.rpartition(".")
        weight = f"{stem}.weight"
        if key.endswith(_STATES):
            weight = key[: key.index(".quant_state.")]
            put(weight, _four_bits(weight, key, header, read))
        elif last == "SCB":
            put(weight, _eight_bits(stem, header, read))
        elif last in _SCALES and header.dtypes.get(weight, "").startswith("F8"):
            put(weight, _scaled(weight, key, header))
        elif last in ("scaled_fp8", "comfy_quant", "scale_input", "input_scale"):
            others.add(key)
    others |= {key for one in found.values() for key in one.beside}
    for key, dtype in header.dtypes.items():
        is_weight = key.endswith((".weight", ".weight._data", ".qweight")) and len(header.shapes[key]) > 1
        if is_weight and key not in found and not dtype.startswith("F8") and dtype not in _FLOATS:
            raise PackingError(f"{key} is packed ({dtype}) in a way that is not known")
    return found, others


def _four_bits(weight: str, state_key: str, header: Header, read: Read) -> Packed:
    """Blocks of 4 bits that count in a table, each block with a largest value, which may be packed in its turn.

    bitsandbytes' own way on the CPU is not taken: version 0.50 errs where a row does not end with a block.
    """
    tables = {name: f"{weight}.{name}" for name in ("absmax", "quant_map", "nested_absmax", "nested_quant_map")}
    there = {name: key for name, key in tables.items() if key in header.shapes}
    if math.prod(header.shapes[state_key]) > _LONGEST_STATE or header.dtypes[state_key] != "U8":
        raise PackingError(f"{state_key} does not tell how its weight is packed")
    try:
        told = json.loads(read(state_key).numpy().tobytes())
        shape, dtype, block = tuple(int(n) for n in told["shape"]), _NAMES[told["dtype"]], int(told["blocksize"])
        offset, outer = float(told.get("nested_offset", 0)), int(told.get("nested_blocksize", 0))
        nested = "nested_absmax" in there
        if (
            shape != tuple(told["shape"])
            or min(shape, default=1) < 1
            or not 0 < block <= _LARGEST_BLOCK
            or not 0 <= outer <= _LARGEST_BLOCK
        ):
            raise ValueError
        count = math.prod(shape)
        blocks = math.ceil(count / block)
        expected = {"absmax": (blocks,), "quant_map": (16,)}
        if nested:
            expected |= {"nested_absmax": (math.ceil(blocks / outer),), "nested_quant_map": (256,)}
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        raise PackingError(f"{state_key} does not tell how its weight is packed") from None
    sound = {name: header.shapes[key] for name, key in there.items()} == expected and all(
        header.dtypes[key] == "U8" if nested and name == "absmax" else header.dtypes[key] in _FLOATS
        for name, key in there.items()
    )
    if (
        not sound
        or math.prod(header.shapes.get(weight, ())) != math.ceil(count / 2)
        or header.dtypes.get(weight) != "U8"
    ):
        raise PackingError(f"{state_key} does not fit its weight")

    def unpack(read: Read) -> Tensor:
        import torch

        both = read(weight).reshape(-1)
        numbers = torch.stack([both >> 4, both & 15], 1).reshape(-1)[:count]
        largest = read(there["absmax"])
        if nested:
            table, scale = read(there["nested_quant_map"]).float(), read(there["nested_absmax"]).float()
            largest = table[largest.int()] * scale.repeat_interleave(outer)[: len(largest)] + offset
        values = read(there["quant_map"]).float()[numbers.int()]
        return (values * largest.float().repeat_interleave(block)[:count]).reshape(shape)

    return Packed(state_key[-3:], shape, dtype, (state_key, *there.values()), unpack)


def _eight_bits(stem: str, header: Header, read: Read) -> Packed:
    """Whole numbers of up to 127, each row with a largest value."""
    weight, scale, order = f"{stem}.weight", f"{stem}.SCB", f"{stem}.weight_format"
    shape = header.shapes.get(weight, ())
    if header.dtypes.get(weight) != "I8" or len(shape) != 2 or header.shapes[scale] != shape[:1]:
        raise PackingError(f"{scale} does not fit its weight")
    if header.dtypes.get(order, "U8") != "U8" or (order in header.shapes and int(read(order).sum())):
        raise PackingError(f"{weight} is packed in the order of a certain card")

    def unpack(read: Read) -> Tensor:
        return read(weight).float() * (read(scale).float() / 127).reshape(-1, 1)

    beside = tuple(key for key in (scale, order) if key in header.shapes)
    return Packed("int8", shape, "F16", beside, unpack)


def _scaled(weight: str, scale: str, header: Header) -> Packed:
    """Floats of 8 bits, all or each row multiplied by one number."""
    shape, count = header.shapes[weight], math.prod(header.shapes[scale])
    if count != 1 and (count,) != shape[:1]:
        raise PackingError(f"{scale} does not fit its weight")

    def unpack(read: Read) -> Tensor:
        return read(weight).float() * read(scale).float().reshape(-1, *(1,) * (len(shape) - 1))

    return Packed(header.dtypes[weight], shape, "F16", (scale,), unpack)
