"""Wildcards: folders of text files, each with one choice a line."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path

from sdtune.core.data.captions import decoded
from sdtune.core.home import expanded
from sdtune.core.sampling import grammar
from sdtune.core.sampling.dynamic_grammar import Option, Size, Wild, merged, option_of, parse
from sdtune.core.sampling.prompt_lines import flag_in
from sdtune.core.sampling.tree import files_below
from sdtune.errors import ConfigError, DataError, nearest

FOLDER = Path("wildcards")
ENDING = ".txt"
MAX_BYTES = 16 * 2**20
"""of a file"""
MAX_LINES = 100_000
MAX_FILES = 100_000
_COMMENT = re.compile(r"(^|\s)#(\s.*)?$")
"""behind a line's text; one that begins with # is nothing else"""


def wildcard_folder(given: Path | None, prompts: Path | None) -> Path:
    """Where wildcards lie: as told, which is a folder or a ConfigError, else beside the file of prompts, else here."""
    if given is not None:
        folder = expanded(given)
        if not os.path.isdir(folder):
            raise ConfigError(f"--wildcards {given}: no such folder; give one that holds text files")
        return folder
    beside = expanded(prompts).parent / FOLDER if prompts else FOLDER
    return beside if os.path.isdir(beside) else FOLDER


class Wildcards:
    """Text files in a folder: __animal__ is a line of animal.txt, __set/animal__ one of set/animal.txt."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder or FOLDER
        self.sizes: dict[str, Size] = {}
        """what is known of those that were looked through, by name"""
        self._read: dict[str, tuple[Option, ...]] = {}
        self._files: dict[str, Path] | None = None

    def options(self, wild: Wild) -> tuple[Option, ...]:
        """The lines that it may be, none twice; ConfigError where there is no such file, or it cannot be read."""
        if wild.name not in self._read:
            lines = [one for name in self._meant(wild) for one in self._lines(name, wild)]
            if not lines:
                raise ConfigError(f"{wild.where}: __{wild.name}__: holds no line to choose; write one a line into it")
            self._read[wild.name] = merged(lines)
            if not self._read[wild.name]:
                raise ConfigError(f"{wild.where}: __{wild.name}__: all its lines have weight 0; give one of them more")
        return self._read[wild.name]

    def _meant(self, wild: Wild) -> list[str]:
        """Names of files, several where it has a * or ?."""
        told = f"{wild.where}: __{wild.name}__"
        if wild.name.startswith("/") or ".." in wild.name.split("/"):
            raise ConfigError(f"{told}: leads out of the folder {self.folder}; give the name of a file in it")
        there = self._there()
        if "*" in wild.name or "?" in wild.name:
            found = [name for name in there if fnmatchcase(name, wild.name)]
        else:
            found = [wild.name] if wild.name in there else []
        if found:
            return found
        if not there:
            missing = "holds no .txt" if os.path.isdir(self.folder) else "is not there"
            remedy = f"the folder {self.folder} {missing}; give another with --wildcards"
        else:
            near = nearest(wild.name, there)
            remedy = f"no such file in {self.folder}; " + (f"did you mean __{near}__?" if near else "check its name")
        raise ConfigError(rf"{told}: {remedy}, or write \__{wild.name}__ where it is text")

    def _there(self) -> dict[str, Path]:
        """{"set/animal": its file} in order of names."""
        if self._files is None:
            found: dict[str, Path] = {}
            for number, path in enumerate(files_below(self.folder)):
                if number == MAX_FILES:
                    raise ConfigError(f"--wildcards {self.folder}: over {MAX_FILES:,} files; give a smaller folder")
                if path.name.endswith(ENDING):
                    found[path.relative_to(self.folder).as_posix().removesuffix(ENDING)] = path
            self._files = dict(sorted(found.items()))
        return self._files

    def _lines(self, name: str, wild: Wild) -> list[Option]:
        path = self._there()[name]
        told = f"{wild.where}: __{name}__"
        try:
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise ConfigError(f"{told}: {path} is a link out of the folder; put the file itself there")
            if not path.is_file():
                raise ConfigError(f"{told}: {path} is no file; check what lies there")
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"{told}: {path} cannot be read ({why}); check the file and its permissions") from None
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{told}: {path} is over {MAX_BYTES >> 20} MB; split it")
        try:
            text = decoded(data, path)
        except DataError as error:
            raise ConfigError(f"{told}: {error}") from None
        rows = re.split(r"\r\n|\r|\n", text)
        if len(rows) - (not rows[-1]) > MAX_LINES:
            raise ConfigError(f"{told}: {path} has over {MAX_LINES:,} lines; split it")
        kept = ((number, (_COMMENT.sub("", row) if "#" in row else row).strip()) for number, row in enumerate(rows, 1))
        return [_option(row, f"{path}, line {number}") for number, row in kept if row]


def _option(row: str, where: str) -> Option:
    """A line's text with its choices; ConfigError where it does not parse, or has flags, which only prompts have."""
    grammar.check(row, where)
    if found := flag_in(row):
        raise ConfigError(
            f"{where}: {found} is a flag, which prompts have and wildcards do not; write it behind a prompt"
        )
    return option_of(parse(row, where))
