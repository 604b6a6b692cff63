"""Fingerprints: whether files are the same as when a picture was drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from sdtune.core.families import Family, family_named
from sdtune.core.identity import Identity
from sdtune.core.model_folder import check_weights, folder_of, weight_files
from sdtune.core.reports import Progress, Telling
from sdtune.core.sampling.hash_memo import Stand
from sdtune.errors import DataError, InputError, ModelError, why

AT_ONCE = 2**20  # bytes
TOLD = 10**9
"""bytes from which it is told how far hashing has come: some seconds"""
UNIT = 10**8
"""bytes that it is told in"""
VOCABULARY = (".json", ".txt", ".model")
"""endings of a tokenizer's files"""


def of_model(identity: Identity) -> Telling[str]:
    """64 hex digits for a base model's files, wherever they are, by every byte of them.

    Of a single file they are its SHA-256, whatever its name. Of a folder's the names in it count, too: those of its
    weights, its configs and its tokenizers' files. Large files are read once, as long as they are not changed.
    """
    family = family_named(identity.family)
    folder = folder_of(identity, family)
    if folder is None:
        (digest,) = yield from _hashed([Path(identity.location)])
        return digest
    files = dict(_files(folder, family))
    hashes = yield from _hashed(list(files.values()))
    told = "".join(f"{name}\n{digest}\n" for name, digest in zip(files, hashes, strict=True))
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()


def of_file(path: Path, error: type[InputError] = DataError) -> str:
    """The SHA-256 of a file; where it cannot be read, an error of this kind."""
    digest = hashlib.sha256()
    for data in _read(path, error):
        digest.update(data)
    return digest.hexdigest()


def _files(folder: Path, family: Family) -> Iterator[tuple[str, Path]]:
    """(name in the folder, file) of the configs, the weights and the vocabularies of all parts."""
    for part in (family.denoiser, "vae", *family.text_encoders):
        if part in family.optional_parts and not weight_files(folder, part)[1]:
            continue
        check_weights(folder, part)
        for file in (folder / part / "config.json", *weight_files(folder, part)[1]):
            yield f"{part}/{file.name}", file
        if part in family.text_encoders:
            tokenizer = folder / part.replace("text_encoder", "tokenizer")
            for file in sorted(tokenizer.glob("*")):
                if file.suffix in VOCABULARY and file.is_file() and not file.name.startswith("."):
                    yield f"{tokenizer.name}/{file.name}", file
    yield "scheduler", folder / "scheduler" / "scheduler_config.json"


def _hashed(files: list[Path]) -> Telling[list[str]]:
    """The SHA-256 of each, as it was kept or is found now; that is told where it takes long."""
    try:
        stands = {file: Stand(file) for file in files}
    except (OSError, ValueError) as problem:
        raise _unreadable(Path(getattr(problem, "filename", None) or files[0]), problem, ModelError) from None
    hashes = {file: stand.kept() for file, stand in stands.items()}
    new = [file for file in files if hashes[file] is None]
    total, done = sum(stands[file].size for file in new), 0
    for file in new:
        digest = hashlib.sha256()
        for data in _read(file, ModelError):
            digest.update(data)
            before, done = done, done + len(data)
            if total > TOLD and before // UNIT < done // UNIT:
                yield Progress("hashing the model", min(done, total) // UNIT, total // UNIT)
        hashes[file] = digest.hexdigest()
        stands[file].keep(digest.hexdigest())
    return [hashes[file] or "" for file in files]


def _read(path: Path, error: type[InputError]) -> Iterator[memoryview]:
    """The bytes of a file, part by part, in one and the same place."""
    place = memoryview(bytearray(AT_ONCE))
    try:
        with path.open("rb", buffering=0) as file:
            while length := file.readinto(place):
                yield place[:length]
    except (OSError, ValueError) as problem:
        raise _unreadable(path, problem, error) from None


def _unreadable(path: Path, problem: Exception, error: type[InputError]) -> InputError:
    return error(f"{path}: cannot be read ({why(problem)}); check that it is there, and its permissions")
