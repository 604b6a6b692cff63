"""A mask's file: what of an image counts, in grey (white: learnt, black: not heeded)."""

from __future__ import annotations

from PIL import Image

from sdtune.core.data.images import Decoded, decode

Drawn = tuple[Image.Image | None, tuple[str, ...]]
"""the mask of the whole upright image, mode L and of any size, and notices; None where all of the image counts"""


def drawn_mask(data: bytes, name: str, decoded: Decoded) -> Drawn:
    """The mask in a file's bytes.

    One drawn on the image before it was turned upright, as its sides tell, is turned with it. Raises DataError, one
    line that begins with the name, where it cannot be read, since without it what should be left out would be learnt.
    """
    mask = decode(data, name, background="black", smallest=1).image.convert("L")
    notices = []
    levels = [level for level, count in enumerate(mask.histogram()) if count]
    if levels[-1] == 1:
        mask = mask.point([0, *[255] * 255])
        levels = [255 * level for level in levels]
        notices.append("its mask holds 0 and 1: taken as black and white")
    if levels == [255]:
        return None, ()
    size = decoded.width, decoded.height
    if decoded.turn and mask.size != size and mask.size[::-1] == size:
        mask = mask.transpose(decoded.turn)
        notices.append("its mask lay on its side: turned as the image")
    if mask.size != size:
        notices.append(f"its mask is {mask.width} x {mask.height}: scaled to the image")
    return mask, tuple(notices)


def is_empty(mask: Image.Image) -> bool:
    """Whether it is black all over."""
    return mask.getbbox() is None
