"""SHA-256 of large files, kept in the cache, so that those of a base model are read through once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from hashlib import blake2b
from pathlib import Path

from sdtune.core.data.cache_folder import DAY, HASHES, usual_folder
from sdtune.core.run_folder import write_atomically
from sdtune.errors import ConfigError

LARGE = 2**20
"""bytes from which a hash is kept; 1 MB is hashed in a millisecond"""
SETTLED = 10.0
"""seconds after its last change from which a file's hash is kept: times of change may be as coarse as 2 s"""
MOST = 1000
"""bytes of what is kept of a hash"""


class Stand:
    """A file as it stands now: what shows, without reading it, whether it was changed since its hash was kept."""

    def __init__(self, path: Path) -> None:
        """Raises OSError and ValueError where nothing can be known of it."""
        found = os.stat(path)
        self.size = found.st_size
        self.changed = max(found.st_mtime, found.st_ctime)
        """seconds since 1970"""
        told = (os.path.abspath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        self.key = blake2b(json.dumps(told).encode(), digest_size=20).hexdigest()

    def kept(self) -> str | None:
        """The SHA-256 that was kept of it; None where none was, or it is damaged."""
        place = self._place()
        if place is None:
            return None
        try:
            found = place.stat()
            told = json.loads(place.read_bytes()) if found.st_size <= MOST else {}
            digest = str(told["sha256"])
            is_sound = re.fullmatch("[0-9a-f]{64}", digest) and told["check"] == self._check(digest)
        except (OSError, ValueError, LookupError, TypeError):
            return None
        if time.time() - found.st_mtime > DAY:
            with contextlib.suppress(OSError):
                os.utime(place)
        return digest if is_sound else None

    def keep(self, digest: str) -> None:
        """Keep its SHA-256; nothing is done where the cache cannot be written, or the file may still be written."""
        place = self._place()
        if place is None or time.time() - self.changed < SETTLED:
            return
        told = json.dumps({"sha256": digest, "check": self._check(digest)}).encode()
        with contextlib.suppress(OSError):
            write_atomically(place, lambda unfinished: unfinished.write_bytes(told))

    def _place(self) -> Path | None:
        """Where its hash is kept; None of a small file, and where there is no cache."""
        if self.size < LARGE:
            return None
        try:
            return usual_folder() / HASHES / f"{self.key}.json"
        except ConfigError:
            return None

    def _check(self, digest: str) -> str:
        """A digit of a hash that is damaged would be another hash."""
        return blake2b((self.key + digest).encode(), digest_size=8).hexdigest()
