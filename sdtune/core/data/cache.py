"""The cache: small tensors kept by what they were made of, in memory as far as there is room, and on disk.

An entry is a safetensors file. Its metadata hold the BLAKE2b of the key and of every other byte of the file, so that
what is damaged is found and made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import struct
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from sdtune.core.data.cache_folder import DAY, path_of
from sdtune.core.data.cache_folder import usual_folder as usual_folder

FORMAT = 1
"""of keys and entries; a higher one makes everything anew"""
ENTRY_BYTES = 2**30  # an image of 4096 x 4096 takes 10 MB, sixteen wordings for T5 130 MB
HEADER_BYTES = 2**20
_DIGEST = 20  # bytes
_NAME = re.compile(r"[A-Za-z0-9_.\-/]{1,512}")
_CHECKSUM = b'"blake2b":"'
_HASHERS = 4  # threads: they share what cores there are

_SAYS_NOTHING = ("transformers_version", "dtype", "torch_dtype", "architectures")
"""of a config: versions, and what the weights say themselves"""


def key_of(*facts: object) -> str:
    """40 hex digits that stand for what is made of these facts: str, int, float, bool, None, bytes, tuples of them."""
    return blake2b(_spelt((FORMAT, facts)), digest_size=_DIGEST).hexdigest()


def identity_of(module: nn.Module) -> str:
    """40 hex digits that stand for a part's weights, buffers and config, wherever it lies."""
    tensors = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    names = sorted(tensors)
    with ThreadPoolExecutor(_HASHERS) as pool:
        hashes = list(pool.map(_hash, (tensors[name] for name in names)))
    weights = tuple(
        (name, str(tensors[name].dtype), tuple(tensors[name].shape), told)
        for name, told in zip(names, hashes, strict=True)
    )
    config = getattr(module, "config", None)
    told = json.dumps(_lasting(config), sort_keys=True, default=str) if config is not None else None
    return key_of(type(module).__name__, weights, told)


class Store:
    """Tensors by content key; several threads and several processes may use one folder at once.

    What cannot be written to the folder is held in memory, whatever the room.
    """

    def __init__(self, folder: Path | None, room: int) -> None:
        self.folder = folder
        """None: memory alone"""
        self.room = room
        """bytes of main memory for entries that stand on disk, too"""
        self.writable = folder is not None
        self.why_not: str | None = None
        """why the folder cannot be written, once that is known"""
        self.damaged: list[str] = []
        """keys of entries that could not be used"""
        self.held = 0
        """bytes in memory"""
        self.made = 0
        """how many were put"""
        self._held: dict[str, dict[str, Tensor]] = {}
        self._on_disk: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def entries(self) -> int:
        """How many were put or got."""
        return len(self._held.keys() | self._on_disk.keys())

    @property
    def on_disk(self) -> int:
        """Bytes of the files of entries that were put or got."""
        return sum(self._on_disk.values())

    def __contains__(self, key: str) -> bool:
        """Whether it is held, or a file of its name stands there; what the file holds, `get` will find out."""
        return key in self._held or (self.folder is not None and os.path.isfile(self._path(key)))

    def get(self, key: str) -> dict[str, Tensor]:
        """The tensors, on the CPU unless `to` moved them, not to be written to; KeyError where none can be had."""
        held = self._held.get(key)
        if held is not None:
            return dict(held)
        if self.folder is None:
            raise KeyError(key)
        try:
            data = _read(self._path(key))
            tensors = _unpacked(key, data)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            raise KeyError(key) from None
        except (OSError, ValueError):
            with contextlib.suppress(OSError):
                self._path(key).unlink()
            with self._lock:
                self.damaged.append(key)
            raise KeyError(key) from None
        self._hold(key, tensors)
        with self._lock:
            self._on_disk[key] = len(data)
        return dict(tensors)

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep copies of the tensors under the key, on disk, and in memory while there is room."""
        copies = {
            name: one.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, one in tensors.items()
        }
        self.made += 1
        written = self.writable and self._written(key, copies)
        self._hold(key, copies, by_all_means=not written)

    def to(self, device: torch.device) -> bool:
        """Move what is held to a device, if half of what is free there is enough for it; False: it stays."""
        if device.type == "cuda" and self.held > torch.cuda.mem_get_info(device)[0] // 2:
            return False
        with self._lock:
            for key, tensors in self._held.items():
                self._held[key] = {name: one.to(device) for name, one in tensors.items()}
        return True

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return path_of(self.folder, key)

    def _hold(self, key: str, tensors: dict[str, Tensor], *, by_all_means: bool = False) -> None:
        size = sum(one.nbytes for one in tensors.values())
        with self._lock:
            before = sum(one.nbytes for one in self._held.get(key, {}).values())
            if by_all_means or before or self.held - before + size <= self.room:
                self._held[key] = tensors
                self.held += size - before

    def _written(self, key: str, tensors: dict[str, Tensor]) -> bool:
        """Whether the entry now stands on disk."""
        data = _packed(key, tensors)
        try:
            _write(self._path(key), data)
        except OSError as error:
            if not isinstance(error, IsADirectoryError):  # which takes the place of this one entry alone
                self.writable = False
                self.why_not = f"{self.folder}: {error.strerror or error}"
            return False
        with self._lock:
            self._on_disk[key] = len(data)
        return True


def _spelt(fact: object) -> bytes:
    """A fact as bytes that no other fact has: its type, its length, itself."""
    if isinstance(fact, tuple):
        parts = [_spelt(one) for one in fact]
        return b"t%d:" % len(parts) + b"".join(parts)
    if isinstance(fact, bool) or fact is None:
        kind, told = b"c", str(fact).encode()
    elif isinstance(fact, int):
        kind, told = b"i", b"%d" % fact
    elif isinstance(fact, float):
        kind, told = b"f", struct.pack(">d", fact)
    elif isinstance(fact, str):
        kind, told = b"s", fact.encode("utf-8", "surrogatepass")
    elif isinstance(fact, bytes):
        kind, told = b"b", fact
    else:
        raise TypeError(f"a {type(fact).__name__} is no fact that a key can be made of")
    return kind + b"%d:" % len(told) + told


def _hash(tensor: Tensor) -> bytes:
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return blake2b(raw.numpy().data, digest_size=_DIGEST).digest()


def _lasting(config: Any) -> Any:
    """A config without what differs from process to process or place to place, at every depth."""
    told = config.to_dict() if hasattr(config, "to_dict") else config
    if isinstance(told, Mapping):
        return {
            str(name): _lasting(value)
            for name, value in told.items()
            if not str(name).startswith("_") and name not in _SAYS_NOTHING
        }
    return told


def _packed(key: str, tensors: dict[str, Tensor]) -> bytearray:
    """The bytes of an entry's file."""
    assert all(_NAME.fullmatch(name) for name in tensors), "names that a safetensors file may have"
    data = bytearray(save(tensors, metadata={"blake2b": "0" * 2 * _DIGEST}))
    assert len(data) <= ENTRY_BYTES, "an entry that could not be read again"
    begin, end = _checksum_in(data)
    data[begin:end] = _checksum(key, data, begin, end)
    return data


def _unpacked(key: str, data: bytes) -> dict[str, Tensor]:
    """The tensors of an entry's file; ValueError for bytes that were not packed for this key."""
    begin, end = _checksum_in(data)
    if data[begin:end] != _checksum(key, data, begin, end):
        raise ValueError("a wrong checksum")
    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError("not a safetensors file") from error
    if not all(_NAME.fullmatch(name) for name in tensors):
        raise ValueError("names that no entry has")
    return tensors


def _checksum_in(data: bytes | bytearray) -> tuple[int, int]:
    """Where the checksum begins and ends; safetensors puts metadata first."""
    length = int.from_bytes(data[:8], "little")
    begin = data.find(_CHECKSUM, 8, 8 + min(length, HEADER_BYTES)) + len(_CHECKSUM)
    if length > HEADER_BYTES or begin < len(_CHECKSUM):
        raise ValueError("no checksum")
    return begin, begin + 2 * _DIGEST


def _checksum(key: str, data: bytes | bytearray, begin: int, end: int) -> bytes:
    hashed = blake2b(key.encode(), digest_size=_DIGEST)
    hashed.update(memoryview(data)[:begin])
    hashed.update(memoryview(data)[end:])
    return hashed.hexdigest().encode()


def _read(path: Path) -> bytes:
    """The bytes of a file, which is marked as used; ValueError for what is no file of an entry's size."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > ENTRY_BYTES:  # a pipe would be waited for
        raise ValueError("no file of an entry's size")
    data = path.read_bytes()
    if time.time() - found.st_mtime > DAY:
        with contextlib.suppress(OSError):
            os.utime(path)
    return data


def _write(path: Path, data: bytearray) -> None:
    """The file is there whole or not at all; not flushed to disk, since a damaged entry is made again."""
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with _opened(partial) as file:
            file.write(data)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _opened(partial: Path) -> BinaryIO:
    """The new file, its folder made where it is not there; a pruning that takes it away again is given way twice."""
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError):
            return partial.open("xb")
        partial.parent.mkdir(parents=True, exist_ok=True)
    return partial.open("xb")
