"""The header of a safetensors file: names, shapes and metadata, read with limits and without torch.

Layout: 8 bytes of length, that many bytes of JSON, then the tensors' bytes. What the safetensors library lets pass
(keys given twice, headers of 100 MB, names that climb out of folders) is refused here.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sdtune.errors import InputError, why

MAX_BYTES = 16 * 2**20
"""of the JSON; the header of the largest known model takes 0.4 MB"""
MAX_ELEMENTS = 2**36
MAX_TENSORS = 2**15
"""the largest known model has under 10,000"""
MAX_COMMAS = 2**20
"""of the JSON, so that reading it takes no second; 2**15 tensors take a fifth of that, tags in metadata the rest"""
MAX_VALUE, MAX_METADATA = 2**20, 2**22
"""bytes of metadata: of one value, and of all of it"""
_NAME = re.compile(r"[A-Za-z0-9_.\-/]{1,512}|bundle_emb\.[A-Za-z0-9_\-+ <>()\[\]]{1,128}\.[a-z0-9_]{1,32}(\.\*)?")
"""of new words bundled with a LoRA as people spell them, behind which A1111 keeps string_to_param.*"""
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 8),
}
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


class _HeaderError(ValueError):
    """What is wrong with a header, in a few words."""


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    """as safetensors writes them: F32, BF16 ..."""
    metadata: Mapping[str, str]
    offsets: Mapping[str, int]
    """where each tensor's bytes begin in the file"""


def read_header(path: Path, error: type[InputError]) -> Header:
    """The header of a whole and well-formed safetensors file; anything else is an error of this kind."""
    refuse_pickle(path, error)
    what_is(path, error)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            body = file.read(length) if length <= MAX_BYTES else b""
    except (OSError, ValueError) as problem:
        raise error(f"{path}: cannot be read: {why(problem)}; check the file and its permissions") from None
    if body[:1] != b"{":
        if start[:2] == b"PK" or re.match(rb"\x80[\x02-\x05]", start):
            raise error(f"{path}: a pickle under the name of a safetensors file; {_REMEDY}")
        if path.suffix.lower() != ".safetensors":
            raise error(f"{path}: not a .safetensors file; give one")
        if not size:
            raise error(f"{path}: empty; download it again")
        raise error(f"{path}: not a safetensors file (no header of at most {MAX_BYTES >> 20} MB); download it again")
    if len(body) < length:
        raise error(f"{path}: cut short within its header; download it again")
    try:
        entries = _entries(body)
        metadata = entries.pop("__metadata__", {})
        _check_metadata(metadata)
        places = [_place(name, entry) for name, entry in entries.items()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        told = str(problem) if isinstance(problem, _HeaderError) else "its header is not as safetensors writes it"
        raise error(f"{path}: a broken safetensors file ({told}); get it again from where it came") from None
    expected = 8 + length + max((end for _, end, _ in places), default=0)
    if size != expected:
        raise error(f"{path}: {size} bytes where its header tells of {expected}; download it again")
    end = 0
    for begin, after, name in sorted(places):
        if begin != end:
            told = "lies in another tensor" if begin < end else "begins after a hole"
            raise error(f"{path}: a broken safetensors file ({name[:80]} {told}); get it again from where it came")
        end = after
    return Header(
        {name: tuple(entry["shape"]) for name, entry in entries.items()},
        {name: entry["dtype"] for name, entry in entries.items()},
        metadata,
        {name: 8 + length + entry["data_offsets"][0] for name, entry in entries.items()},
    )


_REMEDY = "pickles can run any code when opened, so sdtune reads none; get or convert it to .safetensors"


def what_is(path: Path, error: type[InputError]) -> Literal["folder", "file"] | None:
    """What lies there, None for nothing; a device, or what may not be looked at, is an error of this kind."""
    try:
        mode = path.stat().st_mode
    except PermissionError:
        raise error(f"{path}: cannot be read (Permission denied); check the permissions of its folders") from None
    except (OSError, ValueError):  # also a name that no file can have
        return None
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        raise error(f"{path}: not a regular file; give a .safetensors file")
    return "file"


def refuse_pickle(path: Path, error: type[InputError]) -> None:
    """Stop at a name that stands for a pickle, whether the file exists or not."""
    if path.suffix.lower() in _PICKLES:
        raise error(f"{path}: {path.suffix.lower()} is a pickle; {_REMEDY}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise _HeaderError("a name is given twice")
    return entries


def _entries(body: bytes) -> dict[str, Any]:
    """The JSON of a header, unless it is made to take long."""
    if body.count(b'"data_offsets"') > MAX_TENSORS:
        raise _HeaderError(f"more than {MAX_TENSORS} tensors")
    if max(body.count(sign) for sign in (b",", b"[", b"{")) > MAX_COMMAS:
        raise _HeaderError("more in its header than tensors and metadata take")
    entries: dict[str, Any] = json.loads(body, object_pairs_hook=_unique)
    return entries


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    sizes = []
    for name, value in metadata.items():
        if not isinstance(value, str):
            raise _HeaderError("metadata that is not text")
        sizes.append(len(value.encode()))
        if sizes[-1] > MAX_VALUE:
            raise _HeaderError(f"{name[:80]!a} in its metadata has more than {MAX_VALUE >> 20} MB")
    if sum(sizes) + sum(len(name.encode()) for name in metadata) > MAX_METADATA:
        raise _HeaderError(f"more than {MAX_METADATA >> 20} MB of metadata")


def _place(name: str, entry: dict[str, Any]) -> tuple[int, int, str]:
    """Where the tensor's bytes begin and end, counted from the header's end."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise _HeaderError(f"the tensor name {name[:80]!a}")
    short = name[:80]
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in _BITS:
        raise _HeaderError(f"{short} is of type {str(dtype)[:20]!a}")
    if len(shape) > 8 or not all(type(n) is int and 0 <= n <= MAX_ELEMENTS for n in shape):
        raise _HeaderError(f"{short} has an impossible shape")
    if not (type(begin) is type(end) is int and 0 <= begin <= end):
        raise _HeaderError(f"{short} lies at an impossible place")
    if end - begin != math.prod(shape) * _BITS[dtype] // 8:
        raise _HeaderError(f"{short} takes {end - begin} bytes, which its shape does not")
    return begin, end, name
