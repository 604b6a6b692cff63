"""An image's mask: from a file or from transparency, in grey, of any size (white: learnt, black: not heeded)."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from sdtune.core.data.image_file import contents
from sdtune.core.data.images import Decoded, decode
from sdtune.core.intake.facts import Job

Found = tuple[Image.Image | None, str | None, tuple[str, ...]]
"""the mask in mode L, where it came from, and notices"""


def find_mask(job: Job, decoded: Decoded, payload: bytes | None) -> Found:
    """The mask of the whole upright image; none where it would be white or opaque all over.

    A mask drawn on the image before it was turned upright, as its sides tell, is turned with it. Raises DataError
    where the mask's file cannot be read, since without it what should be left out would be learnt.
    """
    if payload is None and job.mask_path is None:
        return (decoded.alpha, "alpha", ()) if job.alpha_mask and decoded.alpha else (None, None, ())
    name = f"{job.name}: its mask"
    data = contents(Path(job.mask_path or ""), name) if payload is None else payload
    mask = decode(data, name, background="black", smallest=1).image.convert("L")
    notices = []
    levels = [level for level, count in enumerate(mask.histogram()) if count]
    if levels[-1] == 1:
        mask = mask.point([0, *[255] * 255])
        levels = [255 * level for level in levels]
        notices.append("its mask holds 0 and 1: taken as black and white")
    if levels == [255]:
        return None, None, ()
    size = decoded.width, decoded.height
    if decoded.turn and mask.size != size and mask.size[::-1] == size:
        mask = mask.transpose(decoded.turn)
        notices.append("its mask lay on its side: turned as the image")
    if mask.size != size:
        notices.append(f"its mask is {mask.width} x {mask.height}: scaled to the image")
    if levels == [0]:
        notices.append("its mask is wholly black: nothing of it would be learnt")
    return mask, "file", tuple(notices)
