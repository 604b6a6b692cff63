"""A small picture of what a LoRA draws, as text in a file's metadata."""

from __future__ import annotations

import base64
import io

from PIL import Image

SIDE = 256
"""pixels of the longer side"""


def thumbnail_of(picture: Image.Image) -> str:
    """modelspec.thumbnail: a JPEG as a data URI, without what the picture's file says besides its pixels."""
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    bare = Image.new("RGB", small.size)
    bare.paste(small)
    data = io.BytesIO()
    bare.save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
