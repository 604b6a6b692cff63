"""One image file: looked at, measured, and written as training can use it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from sdtune.core.data.image_file import contents
from sdtune.core.data.images import decode
from sdtune.core.intake.borders import find_border
from sdtune.core.intake.facts import Job, Measured
from sdtune.core.intake.image_mask import find_mask
from sdtune.core.intake.measures import contrast, fingerprint, grey_of, sharpness, tints
from sdtune.core.intake.shapes import covering, shape_of, shaped
from sdtune.core.intake.whole_file import save_whole
from sdtune.errors import DataError

THUMBNAIL = 192  # pixels a side, at most
LONGEST_WEBP = 16383  # pixels
SAVED: dict[str, tuple[str, dict[str, Any]]] = {
    "png": (".png", {"format": "PNG", "compress_level": 1}),
    "jpeg": (".jpg", {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}),
    "webp": (".webp", {"format": "WEBP", "lossless": True, "quality": 20, "method": 0}),
}
"""{form: (suffix, how Pillow saves it)}. A noisy photograph of 1 megapixel on one core: png takes 0.07 s and a tenth
more bytes than at Pillow's usual level, which takes 0.36 s; webp takes 0.05 s and a quarter fewer bytes than png."""


def handle(job: Job, payload: bytes | None = None, mask_payload: bytes | None = None) -> Measured:
    """What the image is and, where the job has a stem, its prepared form, mask and thumbnail on disk.

    Raises DataError, one line that begins with the job's name, where the image cannot be used; OutputError where
    what is made of it cannot be written.
    """
    data = contents(Path(job.path or ""), job.name) if payload is None else payload
    decoded = decode(
        data,
        job.name,
        background=job.background,
        at_least=lambda width, height: covering(width, height, job.resolution),
    )
    border = find_border(decoded.image)
    if border and decoded.reduced > 1:  # measured to the pixel only where every pixel is there
        decoded = decode(data, job.name, background=job.background)
        border = find_border(decoded.image)
    digest, size = hashlib.sha256(data).hexdigest(), len(data)
    del data, payload
    whole_mask, source, notices = find_mask(job, decoded, mask_payload)
    shape = shape_of(decoded.width, decoded.height, border if job.crop_borders else None, job.resolution)
    image = shaped(decoded.image, shape)
    mask = shaped(whole_mask, shape) if whole_mask else None
    grey = grey_of(image)
    written = _write(job, image, mask) if job.stem is not None else 0
    return Measured(
        sha256=digest,
        bytes=size,
        kind=decoded.kind,
        width=decoded.width,
        height=decoded.height,
        border=border,
        prepared=image.size,
        sharpness=round(sharpness(grey), 3),
        contrast=round(contrast(grey), 3),
        fingerprint=fingerprint(grey),
        tints=tints(image),
        notices=decoded.notices + notices,
        mask=source,
        written=written,
        made=hashlib.sha256(target(job).read_bytes()).hexdigest() if written else "",
    )


def target(job: Job) -> Path:
    """Where the job's prepared image is put."""
    assert job.stem is not None, "a job that only looks has no target"
    return Path(job.stem + SAVED[job.form][0])


def save_thumbnail(image: Image.Image, path: Path) -> None:
    """The image, which is made small by it, for the report."""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    save_whole(image, path, format="JPEG", quality=85)


def _write(job: Job, image: Image.Image, mask: Image.Image | None) -> int:
    """Bytes of the prepared image, which is put last: where it is, all is there."""
    if job.form == "webp" and max(image.size) > LONGEST_WEBP:
        raise DataError(f"{job.name}: {image.width} x {image.height} is too long for WebP; use --format png")
    save_thumbnail(image.copy(), Path(f"{job.stem}-thumb.jpg"))
    if mask:
        save_whole(mask, Path(f"{job.stem}-mask.png"), **SAVED["png"][1])
    return save_whole(image, target(job), **SAVED[job.form][1])
