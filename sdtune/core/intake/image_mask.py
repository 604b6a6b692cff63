"""An image's mask: from a file or from transparency, in grey, of any size (white: learnt, black: not heeded)."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from sdtune.core.data.image_file import contents
from sdtune.core.data.images import Decoded
from sdtune.core.data.mask_file import drawn_mask, is_empty
from sdtune.core.intake.facts import Job

Found = tuple[Image.Image | None, str | None, tuple[str, ...]]
"""the mask in mode L, where it came from, and notices"""

BLACK = "its mask is wholly black: nothing of it would be learnt"
CLEAR = "wholly transparent: nothing of it would be learnt"


def find_mask(job: Job, decoded: Decoded, payload: bytes | None) -> Found:
    """The mask of the whole upright image; none where it would be white or opaque all over.

    Raises DataError where the mask's file cannot be read.
    """
    if payload is None and job.mask_path is None:
        if not job.alpha_mask or decoded.alpha is None:
            return None, None, ()
        return decoded.alpha, "alpha", (CLEAR,) if is_empty(decoded.alpha) else ()
    name = f"{job.name}: its mask"
    mask, notices = drawn_mask(contents(Path(job.mask_path or ""), name) if payload is None else payload, name, decoded)
    if mask is None:
        return None, None, notices
    if is_empty(mask):
        notices += (BLACK,)
    return mask, "file", notices
