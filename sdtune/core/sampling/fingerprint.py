"""Fingerprints: whether files are the same as when a picture was drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sdtune.core.families import Family, family_named
from sdtune.core.header import MAX_BYTES
from sdtune.core.identity import Identity
from sdtune.core.model_folder import check_weights, folder_of, weight_files
from sdtune.errors import DataError, InputError, ModelError, why

BLOCKS = 16
"""that are read of each file of weights"""
BLOCK = 2**16  # bytes
AT_ONCE = 2**20  # bytes


def of_model(identity: Identity) -> str:
    """64 hex digits for a base model's files, wherever they are.

    Of each file of weights its size, its header and 16 blocks of 64 KB spread evenly over the rest count, which takes
    milliseconds; of a folder's also the names in it and the configs. A single file's own name does not count.
    """
    family = family_named(identity.family)
    folder = folder_of(identity, family)
    digest = hashlib.sha256()
    if folder is None:
        _add_weights(digest, Path(identity.location))
        return digest.hexdigest()
    scheduler = folder / "scheduler" / "scheduler_config.json"
    for name, file in [*_files(folder, family), ("scheduler", scheduler)]:
        digest.update(f"{name}\n".encode())
        if file.suffix == ".json":
            digest.update(of_file(file, ModelError).encode())
        else:
            _add_weights(digest, file)
    return digest.hexdigest()


def of_file(path: Path, error: type[InputError] = DataError) -> str:
    """The SHA-256 of a file; where it cannot be read, an error of this kind."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(AT_ONCE):
                digest.update(data)
    except (OSError, ValueError) as problem:
        raise _unreadable(path, problem, error) from None
    return digest.hexdigest()


def _files(folder: Path, family: Family) -> Iterator[tuple[str, Path]]:
    """(name in the folder, file) of the configs and weights of each part."""
    for part in (family.denoiser, "vae", *family.text_encoders):
        if part in family.optional_parts and not weight_files(folder, part)[1]:
            continue
        check_weights(folder, part)
        for file in (folder / part / "config.json", *weight_files(folder, part)[1]):
            yield f"{part}/{file.name}", file


def _add_weights(digest: hashlib._Hash, path: Path) -> None:
    """The size, the header and some blocks of a file; all of a small one."""
    try:
        size = path.stat().st_size
        digest.update(f"{size}\n".encode())
        with path.open("rb") as file:
            start = 8 + int.from_bytes(_read(digest, file, 0, 8), "little")
            start = min(start, 8 + MAX_BYTES, size)
            _read(digest, file, 8, start - 8)
            for place, length in _blocks(start, size):
                _read(digest, file, place, length)
    except (OSError, ValueError) as problem:
        raise _unreadable(path, problem, ModelError) from None


def _blocks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """(place, length) of what is read between these places: the first and the last block, and others between them."""
    rest = end - start
    if rest <= BLOCKS * BLOCK:
        yield start, rest
        return
    for number in range(BLOCKS):
        yield start + number * (rest - BLOCK) // (BLOCKS - 1), BLOCK


def _read(digest: hashlib._Hash, file: BinaryIO, place: int, length: int) -> bytes:
    file.seek(place)
    data = file.read(max(length, 0))
    digest.update(data)
    return data


def _unreadable(path: Path, problem: Exception, error: type[InputError]) -> InputError:
    return error(f"{path}: cannot be read ({why(problem)}); check that it is there, and its permissions")
