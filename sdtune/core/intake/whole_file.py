"""Whole files: an image is on disk complete and without metadata, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from PIL import Image

from sdtune.errors import DISK_FULL, FULL, OutputError, SdtuneError

PART = ".part"
"""suffix of what a killed process may leave behind; the name begins with a dot"""


def save_whole(image: Image.Image, path: Path, **options: Any) -> int:
    """Bytes written; raises OutputError where the place cannot be written, SdtuneError where the disk is full."""
    # Of the name's hash, since the name may be as long as a name can be; the same again for the next attempt.
    part = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:24]}{PART}")
    image.info.clear()  # Pillow writes profiles and comments out of it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(part, **options)
        written = part.stat().st_size
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.errno in FULL:
            raise SdtuneError(f"{path.parent}: {DISK_FULL}") from None
        if isinstance(error, OSError):
            raise OutputError(f"{path}: cannot be written ({error.strerror or error}); check the place") from None
        raise
    return written
