"""The strength at which a LoRA is best, put into its file: into the metadata, while every tensor stays as it is.

SwarmUI begins with the weight in modelspec.lora_default_weight and shows modelspec.usage_hint, which the ModelSpec
standard (github.com/Stability-AI/ModelSpec) has for a few words on use. (A1111 keeps its preferred weight in a JSON
beside the file, where people write their own; it is left alone.) Hashes of the tensors, as kohya's programs and
ModelSpec have them, cover nothing of this.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sdtune.core.header import Header, read_header
from sdtune.core.lora_metadata import STRENGTH
from sdtune.core.run_folder import beside
from sdtune.core.shareable import clean
from sdtune.errors import FULL, LoraError, OutputError, SdtuneError

HINT = "modelspec.usage_hint"
EVALUATED = "sdtune.evaluated"
"""what the recommendation is of, in JSON"""
_OURS = re.compile(r"(?:; )?recommended strength \S+(?: \(sdtune eval\))$")
"""how a hint ends that we have written"""
PIECE = 2**20
"""bytes at a time"""


def check_writable(lora: Path) -> None:
    """Stop at a file that the strength could not be put into, before any work."""
    place = Path(os.path.realpath(lora))
    read_header(place, LoraError)
    mode = place.stat().st_mode
    todo = "make it writable, or leave --write-strength out"
    if not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or not os.access(place, os.W_OK):
        raise OutputError(f"{lora}: is read-only; {todo}")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{lora}: nothing can be written in its folder; {todo}")


def write_strength(lora: Path, strength: float, evaluated: Mapping[str, str]) -> None:
    """Put the recommended strength into a LoRA's metadata, and what it was found by; whole or not at all.

    Of a link the file that it leads to is replaced. Other hard links of it keep what they have.
    """
    check_writable(lora)
    place = Path(os.path.realpath(lora))
    before = place.stat()
    header = read_header(place, LoraError)
    try:
        with beside(place) as temporary:
            _copy(place, temporary, replace(header, metadata=_told(header.metadata, strength, evaluated)))
            if _state(place.stat()) != _state(before):
                raise SdtuneError(f"{lora}: another program has changed it meanwhile; run it again when that is done")
        place.chmod(stat.S_IMODE(before.st_mode))
    except OSError as problem:
        full = "the disk is full, so that the strength is not in it; free some space and run it again"
        told = full if problem.errno in FULL else f"cannot be written ({problem.strerror}); it is as it was"
        raise SdtuneError(f"{lora}: {told}") from None


def _told(metadata: Mapping[str, str], strength: float, evaluated: Mapping[str, str]) -> dict[str, str]:
    """The metadata with the strength; a hint that is somebody's own stays before it."""
    hint = _OURS.sub("", metadata.get(HINT, ""))
    found = {name: text.encode(errors="replace").decode() for name, text in clean(evaluated).items()}
    return {
        **metadata,
        STRENGTH: f"{strength:g}",
        HINT: f"{hint}; recommended strength {strength:g} (sdtune eval)".removeprefix("; "),
        EVALUATED: json.dumps({"strength": f"{strength:g}", **found}, ensure_ascii=False),
    }


def _copy(source: Path, target: Path, header: Header) -> None:
    """The tensors of a file, byte for byte, behind another header; read again before it takes its place."""
    with source.open("rb") as old, target.open("wb") as new:
        length = int.from_bytes(old.read(8), "little")
        entries = json.loads(old.read(length))
        entries.pop("__metadata__", None)
        body = json.dumps(
            {"__metadata__": dict(sorted(header.metadata.items())), **entries},
            separators=(",", ":"),
            ensure_ascii=False,
        ).encode()
        body += b" " * (-len(body) % 8)
        new.write(len(body).to_bytes(8, "little") + body)
        shutil.copyfileobj(old, new, PIECE)
    moved = len(body) - length
    try:
        again = read_header(target, LoraError)
    except LoraError:
        raise OSError(None, "its metadata leave no room for more") from None
    if again != replace(header, offsets={name: begin + moved for name, begin in header.offsets.items()}):
        raise OSError(None, "what was read back is not what was written")


def _state(file: os.stat_result) -> tuple[int, int, int]:
    return file.st_ino, file.st_size, file.st_mtime_ns
