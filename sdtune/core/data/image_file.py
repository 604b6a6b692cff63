"""An image's file: its bytes, and in our words why they cannot be had or decoded."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from sdtune.errors import DataError

FILE_BYTES = 64 * 2**20


def contents(path: Path, name: str) -> bytes:
    """The bytes of a file that may be an image; raises DataError, one line that begins with the name."""
    try:
        return read(path)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    except OSError as error:
        raise DataError(f"{name}: {told(error)}") from None


def read(path: Path) -> bytes:
    """A plain file's bytes, without ever waiting: a pipe is not opened, nor read where one is put there meanwhile."""
    no_file = "is not a file, whatever its name says; rename or remove it"
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DataError(no_file)
    with open(path, "rb", opener=lambda place, flags: os.open(place, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise DataError(no_file)
        must_have_a_sane_size(found.st_size)
        return file.read(FILE_BYTES + 1)


def must_have_a_sane_size(count: int) -> None:
    """Raises DataError for no bytes, and for more than FILE_BYTES."""
    if not count:
        raise DataError("is empty; get it again, or remove it")
    if count > FILE_BYTES:
        raise DataError("over 64 MB; save it smaller")


def told(error: Exception) -> str:
    """What is wrong and what to do, on one line."""
    again = "get it again, or remove it"
    words = " ".join(str(error).split())[:120]
    if isinstance(error, MemoryError):
        return "takes more memory than there is; save it smaller"
    if isinstance(error, Image.DecompressionBombError):
        return "over 64 megapixels; save it smaller"
    if isinstance(error, FileNotFoundError):
        return "a link that leads nowhere, or removed meanwhile; put the file itself there"
    if isinstance(error, PermissionError):
        return "cannot be read; check its permissions"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "a link that leads in a circle; put the file itself there"
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot be read ({error.strerror}); copy it again, or remove it"
    if "MAX_TEXT" in words:
        return "holds text that unpacks to a great size; remove its metadata, or save it again"
    if "no numbers" in words:
        return f"{words}; save it again with numbers in each pixel"
    if isinstance(error, UnidentifiedImageError):
        return f"damaged or cut short, or of a variant that is not known; {again}"
    return f"damaged or cut short ({words or type(error).__name__}); {again}"
