"""The bytes of a safetensors file whose tensors are in memory, the same for the same tensors, and hashes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def serialised(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A whole file."""
    return b"".join(pieces(tensors, metadata))


def pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Sequence[bytes | memoryview]:
    """What stands in a file one after the other, without a copy of the tensors.

    Metadata are in sorted order, tensors in that of size and name (the library keeps no order).
    """
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    found, end = [], 0
    for key in sorted(tensors, key=lambda key: (-tensors[key].element_size(), key)):
        value = tensors[key].contiguous()
        piece = value.reshape(-1).view(torch.uint8).numpy().data
        offsets = [end, end := end + piece.nbytes]
        entries[key] = {"dtype": _NAMES[value.dtype], "shape": list(value.shape), "data_offsets": offsets}
        found.append(piece)
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return [len(header).to_bytes(8, "little") + header, *found]


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
