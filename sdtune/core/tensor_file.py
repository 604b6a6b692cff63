"""A safetensors file written one tensor at a time, whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from sdtune.core.header import read_header
from sdtune.core.run_folder import beside
from sdtune.errors import DISK_FULL, FULL, ModelError, SdtuneError

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""by their names in safetensors"""


@dataclass(frozen=True)
class Slot:
    """What a tensor will be."""

    dtype: str
    """as safetensors names it: F16"""
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """That it takes."""
        return math.prod(self.shape) * TORCH_DTYPES[self.dtype].itemsize


class TensorFile:
    """A file in the making; every slot is to be filled once, in any order."""

    def __init__(self, path: Path, file: BinaryIO, slots: Mapping[str, Slot], begins: Mapping[str, int]) -> None:
        self._path = path
        self._file = file
        self._slots = slots
        self._begins = begins
        self.missing = set(slots)
        """keys of the slots that are empty yet"""

    def add(self, key: str, value: Tensor, *, as_is: bool = False) -> None:
        """Put a tensor of the slot's shape into its place, in the slot's precision; what is no number then is refused.

        `as_is` is for tensors of that precision that are carried over byte for byte.
        """
        slot = self._slots[key]
        dtype = TORCH_DTYPES[slot.dtype]
        assert tuple(value.shape) == slot.shape, f"{key}: {tuple(value.shape)} for a slot of {slot.shape}"
        assert value.dtype == dtype or not as_is, f"{key}: {value.dtype} as it is for a slot of {slot.dtype}"
        assert key in self.missing, f"{key}: added twice"
        kept = value.detach().to("cpu", dtype).contiguous()
        if not as_is and not finite(kept):
            told = f"{self._path}: not written, as {key}"
            if not finite(value):
                raise SdtuneError(f"{told} holds what is no number; get what it is made of again")
            remedy = "fp32" if slot.dtype == "BF16" else "bf16 or fp32"
            raise SdtuneError(f"{told} has values too large for {slot.dtype}; give --dtype {remedy}")
        self._file.seek(self._begins[key])
        self._file.write(kept.reshape(-1).view(torch.uint8).numpy().data)
        self.missing.remove(key)


@contextmanager
def writing(path: Path, slots: Mapping[str, Slot], metadata: Mapping[str, str]) -> Iterator[TensorFile]:
    """The file is at its place when the block ends well; not at all, or as it was, when it does not."""
    header, begins = header_of(slots, metadata)
    try:
        with beside(path) as temporary:
            with temporary.open("wb") as file:
                file.write(header)
                made = TensorFile(path, file, slots, begins)
                yield made
                assert not made.missing, f"never added: {', '.join(sorted(made.missing))[:200]}"
            _must_read_back(temporary, path, slots, metadata)
    except OSError as problem:
        told = DISK_FULL if problem.errno in FULL else f"cannot be written ({problem.strerror}); choose another place"
        raise SdtuneError(f"{path}: {told}") from None


def _must_read_back(temporary: Path, path: Path, slots: Mapping[str, Slot], metadata: Mapping[str, str]) -> None:
    """Stop where what is on the disk is not what was to be written, or what no program should read."""
    try:
        header = read_header(temporary, ModelError)
    except ModelError as problem:
        told = str(problem).replace(f"{temporary}: ", "").rpartition("; ")[0]
        raise SdtuneError(f"{path}: not written, as it does not read back: {told}; check the disk") from None
    there = {key: Slot(header.dtypes[key], shape) for key, shape in header.shapes.items()}
    if there != dict(slots) or header.metadata != dict(metadata):
        raise SdtuneError(f"{path}: not written, as it does not read back as it was written; check the disk")


def header_of(slots: Mapping[str, Slot], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """All before the tensors, and where in the file each of them begins: in the order of size and name.

    Metadata are in sorted order, so that the same contents make the same file (the library keeps no order).
    """
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    begins, end = {}, 0
    for key in sorted(slots, key=lambda key: (-TORCH_DTYPES[slots[key].dtype].itemsize, key)):
        slot = slots[key]
        begins[key] = end
        end += slot.bytes
        entries[key] = {"dtype": slot.dtype, "shape": list(slot.shape), "data_offsets": [begins[key], end]}
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    start = 8 + len(header)
    return len(header).to_bytes(8, "little") + header, {key: start + begin for key, begin in begins.items()}


def finite(value: Tensor) -> bool:
    """Whether all of it are numbers, and none of them endless; 0.4 ns each."""
    if not value.is_floating_point() or not value.numel():
        return True
    wide = value.float() if value.element_size() == 1 else value  # 8 bits compare with nothing
    return all(bool(end.isfinite()) for end in wide.aminmax())
