"""The shelf: names of pictures, and which of them are there already."""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import count
from pathlib import Path

from sdtune.core.home import expanded
from sdtune.core.picture_file import key_in
from sdtune.core.picture_notes import SUFFIXES, Kind, is_whole
from sdtune.core.run_folder import must_be_writable
from sdtune.core.sampling.file_names import Template
from sdtune.core.sampling.recipe import Recipe, key_of
from sdtune.errors import ConfigError, OutputError
from sdtune.sample_config import Sample

ENDINGS: dict[Kind, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
STILL, MOVING = (*SUFFIXES,), (".webp", ".gif")
_FILMS = (".apng", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
_PICTURES = (".avif", ".bmp", ".heic", ".heif", ".ico", ".jfif", ".jxl", ".psd", ".svg", ".tif", ".tiff")
_PAPERS = (".htm", ".html", ".json", ".pdf", ".safetensors", ".toml", ".txt", ".zip")
OTHERS = (*_FILMS, *_PICTURES, *_PAPERS)
"""endings that no folder has, and no picture of ours"""
PAGE = ".html"
_NUMBER = r"(?:[a-z]+-)?(\d{5}|[1-9]\d{5,6})(?!\d)"
"""how names begin that we give: 00001-, grid-00001; more digits are a seed's"""


class Shelf:
    """The folder that pictures go to, or the one file."""

    def __init__(self, config: Sample, pictures: int) -> None:
        """Looks at what is there; ConfigError or OutputError where nothing can be written there."""
        self.config = config
        out = _of_home(config.out)
        together = bool(config.compare or config.grid)
        is_named = out.suffix.lower() in (MOVING if config.animate else STILL)
        self.whole = out if is_named and (together or config.animate) else None
        """what is made of all pictures, which then lie in a folder beside it"""
        self.single = out if is_named and not self.whole else None
        self.folder = out.parent if self.single else out.with_suffix("") if self.whole else out
        self.template = Template(config.name)
        self.suffix = out.suffix if self.single else ENDINGS[config.format]
        self.page = self.whole.with_suffix(PAGE) if self.whole and together else None
        self._reads = {"--init": config.init, "--mask": config.mask, "--again": config.again}
        """pictures that the work begins with, and that stay"""
        self._check_kind("animations" if config.animate else "sheets" if together else "pictures", pictures)
        try:
            self._check_place()
        except OSError as error:
            told = str(config.out)[:200]
            raise OutputError(f"{told}: cannot be written ({error.strerror}); give another place with --out") from None
        for folder in (self.folder, *([self.whole.parent] if self.whole else [])):
            must_be_writable(folder)
        self.number = 0 if self.single else self._highest()
        self._given: set[Path] = set()
        self._there: set[Path] = set()
        """files that were told for a picture, so that one asked for twice has two"""

    @cached_property
    def _own(self) -> dict[str, list[Path]]:
        """Pictures by their keys, the oldest name first; looked at when first asked for, as others may draw here."""
        return {} if self.config.again else self._found()

    def there(self, recipe: Recipe) -> Path | None:
        """The file of this very picture, where an earlier run has drawn it, undamaged; None with --overwrite.

        A picture that is asked for twice is there twice.
        """
        if self.config.overwrite:
            return None
        files = self._own.get(key_of(recipe), ())
        path = next((one for one in files if one not in self._there and is_whole(one)), None)
        self._there.update([path] if path else [])
        if self.single and path is None and _exists(self.single):
            raise OutputError(f"{self.single}: exists already; give another name with --out, or --overwrite")
        return path

    def place(self, recipe: Recipe, told: Mapping[str, object]) -> Path:
        """The name for a picture by the template; OutputError where another is there and may not be replaced.

        `told` are the words of the template that the recipe lacks: line, strength, lora.
        """
        files = self._own.get(key_of(recipe), ()) if self.config.overwrite else ()
        path = self.single or next((one for one in files if one not in self._given), None) or self._named(recipe, told)
        self._must_stay(path, "--name")
        self._given.add(path)
        return path

    def named(self, suffix: str) -> Path | None:
        """The user's name for the first sheet, page or animation; None where they are numbered."""
        path = self.page if suffix == PAGE else self.whole
        if path is None or path in self._given:
            return None
        self._given.add(path)
        return path

    def further(self, kind: str, suffix: str) -> Path:
        """A numbered name for a sheet, a page or an animation: grid-00005.png."""
        while True:
            self.number += 1
            path = self.folder / f"{kind}-{self.number:05d}{suffix}"
            if not _exists(path):
                return path

    def settled(self, path: Path) -> Path:
        """Where what has been written under a `further` name stands: an earlier file of the same bytes stays alone."""
        kind = re.escape(path.stem.rpartition("-")[0])
        pattern = re.compile(rf"{kind}-\d{{5,9}}{re.escape(path.suffix)}")
        with contextlib.suppress(OSError):
            for other in sorted(self.folder.iterdir()):
                if pattern.fullmatch(other.name) and other != path and _same(other, path):
                    path.unlink()
                    self.number -= 1
                    return other
        return path

    def _named(self, recipe: Recipe, told: Mapping[str, object]) -> Path:
        if not self.template.numbered:
            path = self.folder / self.template.name(recipe, told, 0, self.suffix)
            if path in self._given:
                raise OutputError(
                    f"--name {self.template.text}: gives {path.name} to two pictures; put {{number}}, {{seed}} or "
                    "{prompt} into it"
                )
            is_it = not self.config.again and key_in(path) == key_of(recipe)
            if _exists(path) and not self.config.overwrite and not is_it:
                raise OutputError(f"{path}: exists already; put {{number}} into --name, or give --overwrite")
            return path
        for number in count(self.number + 1):
            path = self.folder / self.template.name(recipe, told, number, self.suffix)
            if path not in self._given and not _exists(path):
                self.number = number
                break
        return path

    def _check_kind(self, what: str, pictures: int) -> None:
        config = self.config
        if self.single and pictures > 1:
            raise ConfigError(f"--out {config.out}: names one picture, but {pictures} are asked for; give a folder")
        is_chosen = "format" in config.model_fields_set
        if self.single and is_chosen and SUFFIXES[self.suffix.lower()] != config.format:
            raise ConfigError(
                f"--out {config.out}: ends in {self.suffix.lower()}, but --format is {config.format}; give one of them"
            )
        ending = (config.out.suffix or config.out.name).lower()
        if ending in (*STILL, *OTHERS) and not (self.single or self.whole or self.folder.is_dir()):
            kinds = ".webp or .gif" if config.animate else ".png, .jpg or .webp"
            raise ConfigError(f"--out {config.out}: {what} are {kinds} files; give a name that ends so, or a folder")

    def _check_place(self) -> None:
        for file in (self.single, self.whole, self.page):
            if file:
                self._check_file(file)
        if self.folder.is_symlink() and not self.folder.exists():
            raise OutputError(f"{self.folder}: a link that leads nowhere; give another place with --out")
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(f"{self.folder}: is a file; give a folder, or a name that ends in .png, with --out")

    def _check_file(self, file: Path) -> None:
        """A file that is to be written: nothing is there, or a file that may be replaced, or one of ours."""
        self._must_stay(file, "--out")
        may_be_there = file == self.single and not self.config.again and not self.config.overwrite
        if not _exists(file) or (may_be_there and key_in(file)):
            return
        taken = "a link" if file.is_symlink() else "a folder" if file.is_dir() else "no file" * (not file.is_file())
        if taken:
            raise OutputError(f"{file}: is {taken}; give another name with --out")
        goes_on = file != self.single and any(map(key_in, self._pictures()))
        if not self.config.overwrite and not goes_on:
            raise OutputError(f"{file}: exists already; give another name with --out, or --overwrite")

    def _must_stay(self, file: Path, flag: str) -> None:
        for name, path in self._reads.items():
            if path and _is_one(file, path):
                raise OutputError(f"{file}: is the picture of {name}, which stays; give another name with {flag}")

    def _highest(self) -> int:
        """The highest number that is taken, where it stands in front of names."""
        before = self.template.before_number
        if not self.folder.is_dir():
            return 0
        pattern = re.compile(f"{_NUMBER}" if not before else rf"{re.escape(before)}(\d{{1,7}})(?!\d)|{_NUMBER}")
        found = (pattern.match(entry.name) for entry in os.scandir(self.folder))
        return max((int(one[one.lastindex or 1]) for one in found if one), default=0)

    def _found(self) -> dict[str, list[Path]]:
        """{key: files} of every picture of this format, as their names follow."""
        found: dict[str, list[Path]] = {}
        for path in [self.single] if self.single else sorted(self._pictures()):
            if key := key_in(path):
                found.setdefault(key, []).append(path)
        return found

    def _pictures(self) -> Iterator[Path]:
        deep = "/" in self.template.text
        for folder, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if deep and not name.startswith(".")]
            for name in names:
                ending = os.path.splitext(name)[1].lower()
                if SUFFIXES.get(ending) == SUFFIXES[self.suffix.lower()] and not name.startswith("."):
                    yield Path(folder) / name


def _of_home(out: Path) -> Path:
    """With ~ spelt out; OutputError where it is that of nobody."""
    place = expanded(out)
    if place.parts and place.parts[0].startswith("~") and not _exists(Path(place.parts[0])):
        raise OutputError(f"{out}: there is no {place.parts[0]} on this machine; give a whole path with --out")
    return place


def _is_one(file: Path, other: Path) -> bool:
    """Whether both lead to one file."""
    try:
        return os.path.samefile(file, other)
    except (OSError, ValueError):  # one of them is not there
        return False


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _same(one: Path, other: Path) -> bool:
    """Whether they are files with the same bytes."""
    return one.is_file() and not one.is_symlink() and filecmp.cmp(one, other, shallow=False)
