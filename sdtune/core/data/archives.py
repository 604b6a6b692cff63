"""Archives: .zip and .tar files whose members are read one by one and never unpacked."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from sdtune.core.data.images import FILE_BYTES
from sdtune.core.data.sources import SYSTEM, Entry, Source
from sdtune.errors import DataError

SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
TEXT = frozenset({".txt", ".caption", ".json", ".jsonl", ".csv"})
TEXT_BYTES = 256 * 2**20  # of one tar in all: its texts are kept from the first reading to the second
SWELL = 200  # an archive of images does not grow more than so many times
ALLOWANCE = 2**28  # bytes that it may grow to in any case
HEADER_BYTES = 2**20  # of one tar member: its name and what else is said of it, which Python reads whole
PAX_HEADERS = 1000  # said of all members of a tar at once; git says one
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # Python unpacks bzip2 and LZMA in a zip without any limit
COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
OTHERS = {b"7z\xbc\xaf\x27\x1c": "7-Zip", b"Rar!\x1a\x07": "RAR"}


def archive_at(path: Path) -> Source | None:
    """The archive in a file, None where it is none; raises DataError for kinds that cannot be read here."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError:
        return None
    for magic, kind in OTHERS.items():
        if head.startswith(magic):
            raise DataError(f"{path}: a {kind} archive, which sdtune cannot read; unpack it and give the folder")
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*", b"MM\0*")):
        return None
    try:
        with _forgiving():
            if head.startswith(b"PK") and zipfile.is_zipfile(path):
                return ZipSource(path)
            with _Stream(path) as stream, _tar(stream):
                return TarSource(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if path.name.lower().endswith(SUFFIXES):
        raise DataError(f"{path}: damaged, or no archive; make it again, or give a folder")
    return None


class ZipSource(Source):
    """A .zip file."""

    def __init__(self, path: Path) -> None:
        self.path, self.told, self.title = path, str(path), path.stem

    def entries(self) -> Iterator[Entry]:
        """In the order of their names."""
        stamp = self.path.stat().st_mtime_ns
        with self._open() as archive:
            seen: set[str] = set()
            for name, info in _named(archive):
                if not name:
                    yield Entry(self.told, "", trouble=_NAMELESS, hides=True)
                    continue
                if _is_hidden(name):
                    continue
                trouble = _unsafe(info.orig_filename) or _unfit(info) or (name in seen and _TWICE) or None
                seen.add(name)
                yield Entry(f"{self.told}/{name}", name, info.file_size, stamp ^ info.CRC, trouble=trouble)

    def read(self, entry: Entry) -> bytes:
        """One member."""
        for _, data in self.payloads([entry]):
            if isinstance(data, bytes):
                return data
            assert data is not None, "members have no place on disk"
            raise data
        raise AssertionError("one is wanted")

    def payloads(self, wanted: Sequence[Entry]) -> Iterator[tuple[Entry, bytes | DataError | None]]:
        """The members in the order in which they are wanted."""
        with self._open() as archive:
            infos = dict(reversed(_named(archive)))
            for entry in wanted:
                found: bytes | DataError
                try:
                    with archive.open(infos[entry.name]) as file:
                        found = _within_limit(file.read(FILE_BYTES + 1), entry)
                except DataError as error:
                    found = error
                except Exception as error:
                    found = DataError(f"{entry.told}: damaged ({_reason(error)}); make the archive again")
                yield entry, found

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except Exception as error:
            raise DataError(f"{self.told}: cannot be read ({_reason(error)}); make the archive again") from None


class TarSource(Source):
    """A .tar file, compressed or not, as WebDataset's shards are; read twice from end to end: first for its texts."""

    def __init__(self, path: Path) -> None:
        self.path, self.told, self.title = path, str(path), path.name.split(".")[0]
        self._texts: dict[str, bytes] = {}

    def entries(self) -> Iterator[Entry]:
        """In the order of the archive."""
        self._texts.clear()
        room = TEXT_BYTES
        seen: set[str] = set()
        stamp = self.path.stat().st_mtime_ns
        for archive, info in self._members():
            if isinstance(info, DataError):
                yield Entry(self.told, "", trouble=str(info).removeprefix(f"{self.told}: "), hides=True)
                return
            name = _tidy(info.name)
            if info.isdir():
                continue
            if not name:
                yield Entry(self.told, "", trouble=_NAMELESS, hides=True)
                continue
            if _is_hidden(name):
                continue
            trouble = _unsafe(info.name) or (name in seen and _TWICE) or None
            if not info.isreg():
                trouble = "a link or a device inside an archive; put the file itself there"
            elif info.issparse():
                trouble = "stored with holes in it; make the archive without --sparse"
            elif info.size > FILE_BYTES:
                trouble = _TOO_LARGE
            seen.add(name)
            if PurePosixPath(name).suffix.lower() in TEXT and not trouble:
                if info.size > room:
                    trouble = "more text than fits in memory; split the archive"
                else:
                    try:
                        self._texts[name] = _read(archive, info)
                        room -= info.size
                    except Exception as error:
                        trouble = f"damaged ({_reason(error)}); make the archive again"
            yield Entry(f"{self.told}/{name}", name, info.size, stamp ^ info.offset, trouble=trouble)

    def read(self, entry: Entry) -> bytes:
        """A text, kept from the listing."""
        return self._texts[entry.name]

    def payloads(self, wanted: Sequence[Entry]) -> Iterator[tuple[Entry, bytes | DataError | None]]:
        """The members in the order of the archive."""
        left = {entry.name: entry for entry in wanted}
        for archive, info in self._members():
            if isinstance(info, DataError):
                break
            entry = left.pop(_tidy(info.name), None) if info.isreg() and not info.issparse() else None
            if entry is None:
                continue
            found: bytes | DataError
            try:
                found = _within_limit(_read(archive, info), entry)
            except DataError as error:
                found = error
            except Exception as error:
                found = DataError(f"{entry.told}: damaged ({_reason(error)}); make the archive again")
            yield entry, found
            if not left:
                return
        for entry in left.values():
            yield entry, DataError(f"{entry.told}: cannot be read, since the archive is damaged; make it again")

    def _members(self) -> Iterator[tuple[tarfile.TarFile | None, tarfile.TarInfo | DataError]]:
        """Each member where the archive stands; at the end the reason, where it ends too early or grows too much."""
        try:
            with _Stream(self.path) as stream, _tar(stream) as archive:
                while True:
                    stream.allowed = HEADER_BYTES
                    info = archive.next()
                    if info is None:
                        break
                    archive.members = []  # type: ignore[attr-defined]  # or it would keep them all
                    if info.size < 0 or archive.offset <= info.offset or len(archive.pax_headers) > PAX_HEADERS:
                        raise ValueError("a header that cannot be")
                    if info.offset_data + info.size > stream.most:
                        raise DataError(_SWELLS)
                    yield archive, info
                if stream.last.strip(b"\0"):
                    raise ValueError("a header that is none")
        except DataError as error:
            yield None, DataError(f"{self.told}: {error}")
        except Exception as error:
            reason = f"damaged or cut short ({_reason(error)}); what is before that is used"
            yield None, DataError(f"{self.told}: {reason}")


class _Stream:
    """The bytes of a .tar, decompressed, for Python's reader; raises DataError where it asks for too many."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            head = file.read(6)
        self.most = max(SWELL * path.stat().st_size, ALLOWANCE)
        """bytes in all"""
        self.allowed = HEADER_BYTES
        """bytes until more are allowed; what is passed over does not count"""
        self.last = b""
        """what was read last"""
        opened = next((one for magic, one in COMPRESSED.items() if head.startswith(magic)), open)
        self._file = cast("BinaryIO", opened(path, "rb"))

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        """The next bytes."""
        if count < 0:
            raise ValueError("a size below zero")
        if count > self.allowed:
            raise DataError("has a header of over 1 MB, as no archive of images has; unpack it and give the folder")
        self._must_not_swell(self.tell() + count)
        self.allowed -= count
        self.last = self._file.read(count)
        return self.last

    def seek(self, place: int) -> int:
        """To so many bytes after the start."""
        self._must_not_swell(place)
        return self._file.seek(place)

    def tell(self) -> int:
        """Bytes after the start."""
        return self._file.tell()

    def _must_not_swell(self, place: int) -> None:
        if place > self.most:
            raise DataError(_SWELLS)


@contextlib.contextmanager
def _forgiving() -> Iterator[None]:
    """Python's readers raise some twenty kinds of errors on files that are damaged or hostile, or of another kind."""
    try:
        yield
    except DataError:
        raise
    except Exception:
        return


def _tar(stream: _Stream) -> tarfile.TarFile:
    return tarfile.open(fileobj=cast("Any", stream), mode="r:")


_TWICE = "stands twice in the archive; remove one of them"
_TOO_LARGE = "over 64 MB; save it smaller"
_NAMELESS = "holds a file without a name; make the archive again"
_SWELLS = "grows to more than an archive of images does; unpack it and give the folder"


def _named(archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
    """The files of a zip archive by name."""
    infos = [info for info in archive.infolist() if not info.filename.endswith("/")]
    return [(_tidy(info.filename), info) for info in sorted(infos, key=lambda one: one.filename)]


def _read(archive: tarfile.TarFile | None, info: tarfile.TarInfo) -> bytes:
    assert archive is not None, "members come with the archive they are of"
    cast("Any", archive.fileobj).allowed = FILE_BYTES + HEADER_BYTES
    file = archive.extractfile(info)
    assert file is not None, "only regular members are read"
    return file.read(FILE_BYTES + 1)


def _within_limit(data: bytes, entry: Entry) -> bytes:
    if len(data) > FILE_BYTES:
        raise DataError(f"{entry.told}: {_TOO_LARGE}")
    return data


def _unsafe(name: str) -> str | None:
    """Names that would lead out of a folder; nothing is unpacked, but they become names of files."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in parts or "\0" in name:
        return "its name leads out of the archive; rename it"
    return None


def _unfit(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind and not stat.S_ISREG(kind):
        return "a link or a device inside an archive; put the file itself there"
    if info.flag_bits & 1:
        return "locked by a password; unpack it and give the folder"
    if info.compress_type not in PACKED:
        return "packed in a rare way; make the archive again with Deflate, or unpack it and give the folder"
    return _TOO_LARGE if info.file_size > FILE_BYTES else None


def _tidy(name: str) -> str:
    r"""./a.jpg is a.jpg; zip files of some programs have \\ between the parts."""
    return name.replace("\\", "/").removeprefix("./").rstrip("/")


def _is_hidden(name: str) -> bool:
    return any((part.startswith(".") and part != "..") or part in SYSTEM for part in name.split("/"))


def _reason(error: BaseException) -> str:
    words = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        words = os.strerror(error.errno) if error.errno else error.strerror
    return words[:120] or type(error).__name__
