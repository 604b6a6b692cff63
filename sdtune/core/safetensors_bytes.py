"""The bytes of a safetensors file whose tensors are in memory, the same for the same tensors, and hashes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sdtune.core.tensor_file import TORCH_DTYPES, Slot, header_of

_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def serialised(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A whole file."""
    return b"".join(pieces(tensors, metadata))


def pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Sequence[bytes | memoryview]:
    """What stands in a file one after the other: all before the tensors, then each tensor, without a copy of it."""
    kept = {key: value.contiguous() for key, value in tensors.items()}
    slots = {key: Slot(_NAMES[value.dtype], tuple(value.shape)) for key, value in kept.items()}
    header, begins = header_of(slots, metadata)
    return [header, *(_bytes(kept[key]) for key in begins)]


def _bytes(tensor: Tensor) -> memoryview:
    view: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return view


def kohya_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, str]:
    """sshs_model_hash: SHA-256 of all after the header; sshs_legacy_hash: of 64 KB at 1 MB, with ss_ metadata alone.

    As kohya's programs compute them (sd-scripts, library/train_util.py, precalculate_safetensors_hashes).
    """
    all_ = pieces(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    whole, legacy, place = hashlib.sha256(), hashlib.sha256(), 0
    for number, piece in enumerate(all_):
        if number:
            whole.update(piece)
        legacy.update(piece[max(0, 0x100000 - place) : max(0, 0x110000 - place)])
        place += len(piece)
    return whole.hexdigest(), legacy.hexdigest()[:8]
