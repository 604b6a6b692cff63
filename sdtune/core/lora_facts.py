"""What the header of a LoRA file tells of its modules, and the few bytes that hold each alpha; without torch."""

from __future__ import annotations

import math
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sdtune.core.blocks import block_of
from sdtune.core.header import Header
from sdtune.core.lora_keys import Keys
from sdtune.core.lora_reports import BlockFacts
from sdtune.core.lora_settings import told_alphas
from sdtune.errors import LoraError

_RANKED = ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
"""roles whose tensors are [rank, ...]; the first that is there tells the rank"""
_FORMATS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b", "U8": "<B"}
_ORDER = ("text_encoder", "conv_in", "pos_embed", "time", "add", "context", "down", "mid", "up", "transformer", "")
"""how the names of blocks start, in the order in which they are run"""


@dataclass(frozen=True)
class Module:
    """What a header tells of a module."""

    kind: str
    rank: int | None
    """None where the network has none"""
    alpha: float | None
    """None where the file does not say"""

    @property
    def acting(self) -> float | None:
        """Alpha as programs take it: the rank, where none is given."""
        return self.rank if self.alpha is None else self.alpha


def modules_of(path: Path, header: Header, keys: Keys) -> dict[str, Module]:
    """Every module, in the order of their names."""
    found, settings = {}, told_alphas(path, header)
    with path.open("rb") as file:
        for name, roles in sorted(keys.modules.items()):
            rank = next((header.shapes[roles[role]][0] for role in _RANKED if role in roles), None)
            alpha = settings(name, rank) if rank is not None else None
            if "alpha" in roles:
                alpha = _number(path, file, header, roles["alpha"])
            found[name] = Module(keys.kinds[name], rank, alpha)
    return found


def blocks_of(modules: Mapping[str, Module]) -> tuple[BlockFacts, ...]:
    """Its blocks, in the order in which they are run."""
    return tuple(
        BlockFacts(
            block,
            len(names),
            ", ".join(networks_in(modules[name] for name in names)),
            spread(modules[name].rank for name in names),
            spread(modules[name].acting for name in names),
        )
        for block, names in by_block(modules).items()
    )


def by_block(modules: Iterable[str]) -> dict[str, list[str]]:
    """{block: its modules}, in the order in which they are run."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in modules:
        found[block_of(name)].append(name)
    return dict(sorted(found.items(), key=lambda one: _place(one[0])))


def networks_in(modules: Iterable[Module]) -> tuple[str, ...]:
    """Their kinds, the most frequent first."""
    kinds = [one.kind for one in modules]
    return tuple(sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind)))


def spread(values: Iterable[float | None]) -> str:
    """ "16", "3-16", or "-" of nothing."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return "-"
    least, most = f"{known[0]:g}", f"{known[-1]:g}"
    return least if least == most else f"{least}-{most}"


def dtype_of(header: Header, keys: Sequence[str]) -> str:
    """ "fp16", or several, that of most numbers first; alphas do not count."""
    names = {"F8_E4M3": "fp8", "F8_E5M2": "fp8", "BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64"}
    sizes: dict[str, int] = defaultdict(int)
    for key in keys:
        told = header.dtypes[key]
        sizes[names.get(told, told.lower())] += math.prod(header.shapes[key])
    return ", ".join(sorted(sizes, key=lambda name: (-sizes[name], name)))


def _place(block: str) -> tuple[int, list[int], str]:
    start = next(place for place, start in enumerate(_ORDER) if block.startswith(start))
    return start, [int(number) for number in re.findall(r"\d+", block)], block


def _number(path: Path, file: BinaryIO, header: Header, key: str) -> float:
    """The one number of a tensor."""
    dtype = header.dtypes[key]
    file.seek(header.offsets[key])
    if math.prod(header.shapes[key]) == 1:
        if dtype == "BF16":
            value = float(struct.unpack("<f", b"\0\0" + file.read(2))[0])
        elif dtype == "F8_E5M2":  # the upper half of an F16
            value = float(struct.unpack("<e", b"\0" + file.read(1))[0])
        elif dtype == "F8_E4M3":
            value = _e4m3(file.read(1)[0])
        elif dtype in _FORMATS:
            value = float(struct.unpack(_FORMATS[dtype], file.read(struct.calcsize(_FORMATS[dtype])))[0])
        else:
            value = math.nan
        if math.isfinite(value):
            return value
    raise LoraError(f"{path}: {key} is no number; the file is broken, choose another")


def _e4m3(byte: int) -> float:
    """A sign, 4 bits of exponent and 3 of fraction, without infinity (Micikevicius et al. 2022, arXiv:2209.05433)."""
    sign, exponent, fraction = -1 if byte & 0x80 else 1, byte >> 3 & 15, byte & 7
    if exponent == 15 and fraction == 7:
        return math.nan
    return sign * (math.ldexp(8 + fraction, exponent - 10) if exponent else math.ldexp(fraction, -9))
