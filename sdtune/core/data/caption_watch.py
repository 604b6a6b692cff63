"""Other people's captions: whether one was written meanwhile, looked at right before ours would take its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sdtune.core.data.caption_file import Place, texts_of, watched

Stamp = tuple[int, int, int]
"""changes whenever a file does"""


class Watch:
    """How the files that hold captions stood when they were read last, or written by us since."""

    def __init__(
        self, folder: Path, found: Sequence[Place], todo: Sequence[Place], read: Callable[[], Sequence[Place]]
    ) -> None:
        """`found`: every image; `todo`: those that will be written; `read` reads all anew."""
        self._read = read
        self._now = {place.path: place for place in found}
        self._lists = watched(folder, found)
        files = {file for place in todo for file in texts_of(place)} | self._lists
        self._stamps = {file: _stamp(file) for file in files}

    def look(self, places: Sequence[Place], *, missing: bool) -> Iterator[tuple[Place, str | None]]:
        """Each place as it is now, and why it must not be written; `missing`: where there is a caption by now."""
        files = {file for place in places for file in texts_of(place)} | self._lists
        if any(_stamp(file) != self._stamps.get(file) for file in files):
            self._stamps = {file: _stamp(file) for file in self._stamps}
            self._now = {place.path: place for place in self._read()}
        for place in places:
            now = self._now.get(place.path)
            if now is None:
                yield place, "is gone meanwhile"
            elif missing and now.captions:
                yield now, "has a caption meanwhile, which stays"
            elif (now.captions, now.raw) != (place.captions, place.raw):
                yield now, "its caption was changed meanwhile, so it stays; run it again"
            else:
                yield now, now.trouble

    def wrote(self, places: Sequence[Place]) -> None:
        """What we have written ourselves is no change."""
        self._stamps |= {place.file: _stamp(place.file) for place in places}


def _stamp(file: Path) -> Stamp | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
