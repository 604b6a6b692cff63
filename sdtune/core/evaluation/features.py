"""Features: what an encoder makes of pictures and texts, each picture once and kept by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import torch
from PIL import Image

from sdtune.core.data.cache import Store, key_of
from sdtune.core.data.image_file import contents, told
from sdtune.core.data.images import decode
from sdtune.core.evaluation.encoders.base import Encoder
from sdtune.core.evaluation.intervals import Array
from sdtune.core.reports import Progress, Telling
from sdtune.errors import DataError, SdtuneError

PHASE = "looking at pictures"
NAME = "features"
"""of the tensor in an entry of the store"""


def features_of(pictures: Sequence[Path], encoder: Encoder, store: Store) -> Telling[Array]:
    """[n, d] unit vectors of image files, in their order; DataError, one line, names the first that cannot be read.

    What the store has is not looked at again, and each picture once, however many files hold it.
    """
    keys: list[str] = []
    found: dict[str, Array] = {}
    waiting: dict[str, tuple[Path, bytes]] = {}
    for number, picture in enumerate(pictures, 1):
        data = _read(picture)
        key = key_of("features", hashlib.sha256(data).hexdigest(), encoder.fingerprint)
        keys.append(key)
        if key not in found:
            known = _kept(key, encoder, store)
            if known is None:
                waiting[key] = (picture, data)
            else:
                found[key] = known
        if len(waiting) == encoder.at_once or (waiting and number == len(pictures)):
            found |= _seen(waiting, encoder, store)
            waiting = {}
        yield Progress(PHASE, number - len(waiting), len(pictures))
    return numpy.stack([found[key] for key in keys]) if keys else numpy.zeros((0, encoder.width))


def texts_of(texts: Sequence[str], encoder: Encoder) -> Array:
    """[n, d] unit vectors of texts, each read once; only of an encoder that reads them."""
    different = list(dict.fromkeys(texts))
    if not different:
        return numpy.zeros((0, encoder.width))
    rows = encoder.texts(different)
    places = {text: place for place, text in enumerate(different)}
    return rows[[places[text] for text in texts]]


def _read(picture: Path) -> bytes:
    try:
        return contents(picture, str(picture))
    except DataError:
        if picture.exists() or picture.is_symlink():
            raise
        raise SdtuneError(f"{picture}: is gone, though it was there; put it back, or run it again") from None


def _kept(key: str, encoder: Encoder, store: Store) -> Array | None:
    try:
        tensor = store.get(key)[NAME]
    except KeyError:
        return None
    row: Array = tensor.numpy()
    return row if row.shape == (encoder.width,) and row.dtype == numpy.float64 else None


def _seen(waiting: dict[str, tuple[Path, bytes]], encoder: Encoder, store: Store) -> dict[str, Array]:
    """{key: features} of pictures that are not in the store, where they are put."""
    with ThreadPoolExecutor(min(len(waiting), encoder.at_once)) as pool:
        images = list(pool.map(lambda one: _image(*one), waiting.values()))
    rows = dict(zip(waiting, encoder.images(images), strict=True))
    for key, row in rows.items():
        store.put(key, {NAME: torch.from_numpy(numpy.ascontiguousarray(row))})
    return rows


def _image(path: Path, data: bytes) -> Image.Image:
    """Upright RGB on white."""
    try:
        return decode(data, str(path)).image
    except MemoryError as error:
        raise DataError(f"{path}: {told(error)}") from None
