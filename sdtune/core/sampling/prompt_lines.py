r"""Prompts as they are given: on the command line, in a file or on standard input, one a line, with flags of their own.

    a cat on a wall --n blurred, dark --w 512 --h 768 --d 7 --l 6.5 --s 30

The flags are those of kohya's programs: --n negative, --w and --h pixels, --d seed, --l guidance, --s steps. They stand
behind the prompt, in any order, each with its value up to the next one; \-- is two dashes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sdtune.core.data.captions import decoded
from sdtune.core.home import expanded
from sdtune.errors import ConfigError, DataError, cut, nearest, why
from sdtune.sample_config import STDIN, UNIT

MAX_BYTES = 16 * 2**20
MAX_LINES = 100_000
NAMED = 10
"""problems of one command that are told"""
LETTERS = 40
"""of a value in a message"""
_FLAG = re.compile(r"(?:(?<=\s)|^)--(?P<name>[A-Za-z][\w-]*)")
_WHOLE = re.compile(r"[0-9]{1,19}")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{0,20})?|\.[0-9]{1,20}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LOST = re.compile(r"[\ud800-\udfff]")
"""bytes of a command line that are no UTF-8"""


@dataclass(frozen=True)
class Line:
    """A prompt with what it says of itself; None where it says nothing."""

    text: str
    where: str
    """for messages: "--prompt", "prompts.txt, line 3" """
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    guidance: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class _Flag:
    """What a flag stands for."""

    field: str
    """of Line"""
    kind: str = "text"
    least: int = 0
    most: int = 0
    example: str = ""
    unit: int = 1
    """of which it is a multiple"""

    def value(self, text: str) -> str | int | float | None:
        """None for what it cannot be."""
        if self.kind == "text":
            return _unescaped(text)
        pattern = _WHOLE if self.kind.startswith("a whole") else _NUMBER
        if not pattern.fullmatch(text):
            return None
        number = int(text) if pattern is _WHOLE else float(text)
        fits = self.least <= number <= self.most and (self.unit == 1 or not number % self.unit)
        return number if fits else None


FLAGS = {
    "n": _Flag("negative", example="blurred, dark"),
    "w": _Flag("width", "a whole number of pixels", 8, 8192, "512", UNIT),
    "h": _Flag("height", "a whole number of pixels", 8, 8192, "768", UNIT),
    "d": _Flag("seed", "a whole number", 0, 2**63 - 1, "7"),
    "l": _Flag("guidance", "a number", 0, 1000, "6.5"),
    "s": _Flag("steps", "a whole number", 1, 1000, "30"),
}
MEANT = {one.field: name for name, one in FLAGS.items()} | {"scale": "l", "cfg": "l", "g": "l"}
"""longer names that people try"""
OF_THE_COMMAND = {"ss": "sampler", "sampler": "sampler", "lora": "lora", "model": "model"}
"""flags of other programs, and settings of the command that are meant by them"""


@dataclass
class _Problems:
    """What is wrong; beyond a number it is only counted."""

    told: list[str] = field(default_factory=list)
    more: int = 0

    def add(self, where: str, tell: Callable[..., str], *of: object) -> None:
        if len(self.told) < NAMED:
            self.told.append(f"{where}: {tell(*of)}")
        else:
            self.more += 1

    def stop(self) -> None:
        if self.told:
            raise ConfigError(*self.told, *([f"and {self.more} more like these"] if self.more else []))


def lines_of(prompts: tuple[str, ...], file: Path | None, *, flags: bool = True) -> list[Line]:
    """All prompts in order: those given one by one, then those of the file (-: standard input).

    Empty lines and those that begin with # are left out of files. Without `flags` every prompt is taken to the letter.
    Raises ConfigError, with a line for each problem.
    """
    problems, found = _Problems(), list[Line]()
    for number, text in enumerate(prompts, 1):
        where = "--prompt" if len(prompts) == 1 else f"--prompt, number {number}"
        found.append(_line(text, where, problems, flags=flags))
    if file is not None:
        name = name_of(file)
        rows = re.split(r"\r\n|\r|\n", _text_of(file, name))
        if len(rows) - (not rows[-1]) > MAX_LINES:
            raise ConfigError(f"{name}: over {MAX_LINES:,} lines; split it")
        kept = [(number, row) for number, row in enumerate(rows, 1) if row.strip() and not row.lstrip().startswith("#")]
        if not kept:
            raise ConfigError(f"{name}: holds no prompt; write one a line into it")
        found += [_line(row, f"{name}, line {number}", problems, flags=flags) for number, row in kept]
    problems.stop()
    return found


def is_typed(file: Path | None) -> bool:
    """Whether prompts are read from a terminal, so that somebody has to be told."""
    return file == STDIN and sys.stdin is not None and sys.stdin.isatty()


def name_of(file: Path) -> str:
    """What messages call it."""
    return "standard input" if file == STDIN else str(file)[:200]


def _text_of(file: Path, name: str) -> str:
    try:
        if file == STDIN:
            data = sys.stdin.buffer.read(MAX_BYTES + 1) if sys.stdin else b""
        else:
            with expanded(file).open("rb") as opened:
                data = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{name}: over {MAX_BYTES >> 20} MB; split it")
        return decoded(data, name)
    except FileNotFoundError:
        raise ConfigError(f"--prompts {name}: no such file; check its name") from None
    except IsADirectoryError:
        raise ConfigError(f"--prompts {name}: is a folder; give a text file with a prompt a line") from None
    except (OSError, ValueError) as error:
        told = f"--prompts {name}: cannot be read ({why(error)})"
        raise ConfigError(f"{told}; check the file and its permissions") from None
    except DataError as error:
        raise ConfigError(str(error)) from None


def flag_in(text: str) -> str | None:
    """The first flag of ours in a text that is read without them: --w."""
    found = (one for one in _FLAG.finditer(text) if one["name"].lower() in FLAGS)
    return next((f"--{one['name']}" for one in found), None)


def _line(text: str, where: str, problems: _Problems, *, flags: bool) -> Line:
    """A prompt without its flags; what is no letter is a blank."""
    text = _LOST.sub("\ufffd", _CONTROL.sub(" ", text))
    if not flags:
        return Line(text, where)
    found = list(_FLAG.finditer(text))
    ends = [*(one.start() for one in found), len(text)][1:]
    values: dict[str, Any] = {}
    for one, end in zip(found, ends, strict=True):
        name, value = one["name"], text[one.end() : end].strip()
        place = f"{where}, column {one.start() + 1}"
        flag = FLAGS.get(name) or FLAGS.get(name.lower())
        if flag is None:
            problems.add(place, _unknown, name)
        elif flag.field in values:
            problems.add(place, "--{} is given twice; give it once".format, name)
        else:
            values[flag.field] = flag.value(value)
            if values[flag.field] is None:
                problems.add(place, _wrong, name, flag, value)
    return Line(_unescaped(text[: found[0].start()] if found else text), where, **values)


def _wrong(name: str, flag: _Flag, value: str) -> str:
    shown = cut(value, LETTERS)
    example = f"as in --{name} {flag.example}"
    if not value:
        return f"--{name}: its value is missing; give {flag.kind} from {flag.least} to {flag.most}, {example}"
    if (_WHOLE if flag.kind.startswith("a whole") else _NUMBER).fullmatch(value.removeprefix("-")):
        if flag.unit > 1 and value.isdecimal() and flag.least <= int(value) <= flag.most:
            near = round(int(value) / flag.unit) * flag.unit
            return f"--{name} {shown}: sides of pictures are multiples of {flag.unit} pixels; the nearest is {near}"
        return f"--{name} {shown}: should be from {flag.least} to {flag.most}, {example}"
    return f"--{name} {shown}: should be {flag.kind}, {example}"


@cache
def _unknown(name: str) -> str:
    """It goes by letters that are near, and by words that mean the same elsewhere."""
    shown = cut(name, LETTERS)
    if name.lower() in OF_THE_COMMAND:
        meant = f"it is a setting of the whole command, --{OF_THE_COMMAND[name.lower()]}"
    else:
        near = nearest(name, [*FLAGS, *MEANT])
        meant = (
            f"did you mean --{MEANT.get(near, near)}?" if near else "give one of " + ", ".join(f"--{n}" for n in FLAGS)
        )
    return rf"--{shown}: no flag of a prompt; {meant} (text with two dashes is written \--{shown})"


def _unescaped(text: str) -> str:
    return text.replace(r"\--", "--").strip()
