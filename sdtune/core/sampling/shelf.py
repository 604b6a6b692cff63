"""The shelf: names of pictures, and which of them are there already."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

from sdtune.core.picture_notes import SUFFIXES, Kind, notes_in
from sdtune.core.run_folder import must_be_writable
from sdtune.core.sampling import recipe as recipes
from sdtune.core.sampling.file_names import Template
from sdtune.core.sampling.recipe import Recipe, key_of
from sdtune.errors import ConfigError, DataError, OutputError
from sdtune.sample_config import Sample

ENDINGS: dict[Kind, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
OTHERS = (".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl", ".svg", ".html")
"""endings that no folder has, and no picture of ours"""
MOVING = (".webp", ".gif")
SHEET, PAGE = ".png", ".html"
_NUMBER = r"(?:[a-z]+-)?(\d{5,9})(?!\d)"
"""how names begin that we give: 00001-, grid-00001"""


class Shelf:
    """The folder that pictures go to, or the one file."""

    def __init__(self, config: Sample, pictures: int) -> None:
        """Looks at what is there; ConfigError or OutputError where nothing can be written there."""
        self.config = config
        ending = config.out.suffix.lower()
        made = MOVING if config.animate else (SHEET,) if config.compare or config.grid else ()
        self.whole = config.out if ending in made else None
        """what is made of all pictures, which then lie in a folder beside it"""
        self.single = config.out if ending in SUFFIXES and not self.whole else None
        self.folder = config.out.parent if self.single else config.out.with_suffix("") if self.whole else config.out
        self.template = Template(config.name)
        self.suffix = config.out.suffix if self.single else ENDINGS[config.format]
        self._check_kind(ending, pictures)
        try:
            self._check_place()
        except OSError as error:
            told = str(config.out)[:200]
            raise OutputError(f"{told}: cannot be written ({error.strerror}); give another place with --out") from None
        must_be_writable(self.folder)
        self.number = 0 if self.single else self._highest()
        self._given: set[Path] = set()
        self._own: dict[str, Path] = {} if config.again else dict(self._found())

    def there(self, recipe: Recipe) -> Path | None:
        """The file of this very picture, where an earlier run has drawn it; None with --overwrite."""
        if self.config.overwrite:
            return None
        path = self._own.get(key_of(recipe))
        if self.single and path is None and _exists(self.single):
            raise OutputError(f"{self.single}: exists already; give another name with --out, or --overwrite")
        return path

    def place(self, recipe: Recipe, told: Mapping[str, object]) -> Path:
        """The name for a picture by the template; OutputError where another is there and may not be replaced.

        `told` are the words of the template that the recipe lacks: line, strength, lora.
        """
        own = self._own.get(key_of(recipe)) if self.config.overwrite else None
        path = self.single or (own if own not in self._given else None) or self._named(recipe, told)
        self._given.add(path)
        return path

    def further(self, kind: str, suffix: str) -> Path:
        """The name for a sheet, a page or an animation: grid-00005.png."""
        if self.whole and suffix in (self.whole.suffix.lower(), PAGE):
            path = self.whole if suffix != PAGE else self.whole.with_suffix(PAGE)
            if path not in self._given:
                self._given.add(path)
                return path
        while True:
            self.number += 1
            path = self.folder / f"{kind}-{self.number:05d}{suffix}"
            if not _exists(path):
                return path

    def _named(self, recipe: Recipe, told: Mapping[str, object]) -> Path:
        if not self.template.numbered:
            path = self.folder / self.template.name(recipe, told, 0, self.suffix)
            if path in self._given:
                raise OutputError(
                    f"--name {self.template.text}: gives {path.name} to two pictures; put {{number}}, {{seed}} or "
                    "{prompt} into it"
                )
            if _exists(path) and not self.config.overwrite:
                raise OutputError(f"{path}: exists already; put {{number}} into --name, or give --overwrite")
            return path
        for number in count(self.number + 1):
            path = self.folder / self.template.name(recipe, told, number, self.suffix)
            if path not in self._given and not _exists(path):
                self.number = number
                break
        return path

    def _check_kind(self, ending: str, pictures: int) -> None:
        config = self.config
        if self.single and pictures > 1:
            raise ConfigError(f"--out {config.out}: names one picture, but {pictures} are asked for; give a folder")
        is_chosen = "format" in config.model_fields_set
        if self.single and is_chosen and SUFFIXES[ending] != config.format:
            raise ConfigError(
                f"--out {config.out}: ends in {ending}, but --format is {config.format}; give one of them"
            )
        if ending in OTHERS and not self.whole and not config.out.is_dir():
            raise ConfigError(
                f"--out {config.out}: pictures are written as .png, .jpg or .webp; give such a name, or a folder"
            )

    def _check_place(self) -> None:
        page = [self.whole.with_suffix(PAGE)] if self.whole and not self.config.animate else []
        for file in (self.single, self.whole, *page):
            replaced = self.config.overwrite and file and file.is_file() and not file.is_symlink()
            is_ours = file == self.single and not self.config.again and _recipe_key(file) if file else None
            if file and _exists(file) and not replaced and not is_ours:
                raise OutputError(f"{file}: exists already; give another name with --out, or --overwrite")
        if self.folder.is_symlink() and not self.folder.exists():
            raise OutputError(f"{self.folder}: a link that leads nowhere; give another place with --out")
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(f"{self.folder}: is a file; give a folder, or a name that ends in .png, with --out")

    def _highest(self) -> int:
        """The highest number that is taken, where it stands in front of names."""
        before = self.template.before_number
        if not self.folder.is_dir():
            return 0
        pattern = re.compile(f"{_NUMBER}" if not before else rf"{re.escape(before)}(\d{{1,9}})(?!\d)|{_NUMBER}")
        found = (pattern.match(entry.name) for entry in os.scandir(self.folder))
        return max((int(one[one.lastindex or 1]) for one in found if one), default=0)

    def _found(self) -> Iterator[tuple[str, Path]]:
        """(key, file) of every picture of this format, the oldest name last, so that it counts."""
        files = [self.single] if self.single else sorted(self._pictures(), reverse=True)
        for path in files:
            key = _recipe_key(path, whole=not self.config.overwrite)
            if key:
                yield key, path

    def _pictures(self) -> Iterator[Path]:
        deep = "/" in self.template.text
        for folder, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if deep and not name.startswith(".")]
            for name in names:
                ending = os.path.splitext(name)[1].lower()
                if SUFFIXES.get(ending) == SUFFIXES[self.suffix.lower()] and not name.startswith("."):
                    yield Path(folder) / name


def _recipe_key(path: Path, *, whole: bool = False) -> str | None:
    """What a picture file is of; None where it says nothing, or nothing that can be read."""
    try:
        notes = notes_in(path)
        if notes is None or notes.recipe is None or (whole and not notes.whole):
            return None
        return key_of(recipes.read(notes.recipe, path))
    except (OSError, DataError):
        return None


def _exists(path: Path) -> bool:
    return os.path.lexists(path)
