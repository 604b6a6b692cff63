"""Durable file operations: what they have made is on the disk when they return, whatever happens to the power then.

Every call to the system goes through `os` of this module, so that a test can let each of them fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path

_FOLDERS_SYNC = os.name != "nt"  # Windows opens no folder, and writes names through
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_BLOCK = 2**24  # bytes a call: a signal is heeded between two of them


def make_folder(path: Path) -> None:
    """The folder and those above it are there."""
    missing = [path, *path.parents]
    for one in reversed([one for one in missing if not os.path.isdir(one)]):
        os.mkdir(one)
        sync_folder(one.parent)


def write(path: Path, data: bytes) -> None:
    """A new file of these bytes, flushed to the disk; its name is, once its folder is synced."""
    handle = os.open(path, _NEW, 0o666)
    try:
        left = memoryview(data)
        while left:
            written = os.write(handle, left[:_BLOCK])
            if not written:
                raise OSError(errno.EIO, "nothing was written")
            left = left[written:]
        os.fsync(handle)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(handle)
        raise
    os.close(handle)  # some network disks tell only now that there is no room


def replace(path: Path, data: bytes, temporary: Path) -> None:
    """The file has these bytes, or those that it had; `temporary` lies in the same folder."""
    remove(temporary)
    try:
        write(temporary, data)
        move(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(temporary)
        raise


def move(source: Path, target: Path) -> None:
    """Another name, or another folder of the same disk; a file that has it is replaced."""
    os.replace(source, target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def sync_folder(path: Path) -> None:
    """The names in a folder are flushed to the disk."""
    if _FOLDERS_SYNC:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno != errno.EINVAL:  # what some network disks say, which know no such thing
                raise
        finally:
            os.close(handle)


def remove(path: Path) -> None:
    """A file, a link or a folder with all that is in it is gone; links are not followed."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        os.unlink(path)
        return
    for name in os.listdir(path):
        remove(path / name)
    os.rmdir(path)


def read(path: Path, most: int) -> bytes:
    """All of a regular file; OSError where it is a link or anything else, or has more bytes than `most`."""
    handle = os.open(path, _READ)
    try:
        told = os.fstat(handle)
        if not stat.S_ISREG(told.st_mode) or os.path.islink(path):
            raise OSError(errno.ELOOP, "no regular file")
        if told.st_size > most:
            raise OSError(errno.EFBIG, f"more than {most} bytes")
        pieces = []
        while piece := os.read(handle, _BLOCK):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(handle)


def free(folder: Path) -> int:
    """Bytes that this user may still write there."""
    return shutil.disk_usage(folder).free
