"""Names of files by a template: {number}-{seed}-{prompt}, with formats behind a colon as in Python: {number:03}."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from sdtune.core.picture_notes import SUFFIXES
from sdtune.core.run_folder import RESERVED
from sdtune.core.sampling.recipe import Recipe
from sdtune.errors import ConfigError, nearest

FIELDS: dict[str, object] = {
    "number": 1,
    "seed": 0,
    "prompt": "a",
    "negative": "a",
    "model": "mini",
    "lora": "a",
    "strength": "1",
    "sampler": "euler",
    "steps": 1,
    "guidance": 1.0,
    "width": 8,
    "height": 8,
    "line": 1,
}
"""what can stand in braces, and of which type it is"""
USUAL = {"number": "05", "guidance": "g"}
"""formats where none is given"""
NAME_BYTES = 255
"""that file systems take"""
PROMPT_LETTERS = 40
READ = 4000  # letters of a prompt that are looked at for its name
_FORMAT = re.compile(r"[<>^]?0?\d{0,2}(\.\d{1,2})?[dfgs]?")
_TAG = re.compile(r"<[^<>]*>")
_WEIGHT = re.compile(r":\s*[\d.]+\s*([)\]])")


@dataclass(frozen=True)
class Piece:
    """Letters that stand in every name, and a field behind them."""

    letters: str
    field: str | None
    format: str


class Template:
    """A template that has been read; ConfigError names what cannot be used."""

    def __init__(self, text: str) -> None:
        if not text.isprintable():
            raise ConfigError(
                f"--name {printable(text)}: has line ends or other letters that are not seen; leave them out"
            )
        self.text = text
        self.pieces = _pieces(text)
        letters = "".join(piece.letters for piece in self.pieces)
        parts = self.text.split("/")
        if "\\" in letters or text.startswith(("/", "~")) or re.match(r"[A-Za-z]:", text):
            raise ConfigError(f"--name {text}: names a place of its own; give that with --out, and here names below it")
        if any(part.strip(" .") == "" for part in parts):
            raise ConfigError(f"--name {text}: has a part without a name; leave out . and .. and double /")
        if any(part.startswith(".") for part in parts):
            raise ConfigError(f"--name {text}: begins a name with a dot, which would hide it; leave the dot out")
        if text.lower().endswith(tuple(SUFFIXES)):
            raise ConfigError(f"--name {text}: leave out the ending; --format says what the files are")
        if re.search(r'[:*?"<>|]', letters):
            raise ConfigError(f'--name {text}: has characters that names of files cannot have (: * ? " < > |)')
        if len(letters.encode("utf-8", "replace")) > NAME_BYTES // 2:
            raise ConfigError(f"--name {text[:40]}...: is too long; names of files have at most {NAME_BYTES} bytes")

    @property
    def numbered(self) -> bool:
        """Whether each name has a number."""
        return any(piece.field == "number" for piece in self.pieces)

    @property
    def before_number(self) -> str | None:
        """The letters in front of the number, where only letters are; None where it stands elsewhere."""
        first = self.pieces[0]
        return first.letters if first.field == "number" and "/" not in first.letters else None

    def name(self, recipe: Recipe, told: Mapping[str, object], number: int, suffix: str) -> str:
        """A picture's name with its suffix, with / where the template has one; words are cut until it is a name."""
        values = _values(recipe, told, number)
        for letters in (PROMPT_LETTERS, 20, 8, 0):
            parts = self._filled(values, letters).split("/")
            cleaned = [_cleaned(part) for part in parts]
            if all(len(f"{part}{suffix}".encode()) <= NAME_BYTES for part in cleaned):
                return "/".join(cleaned) + suffix
        raise ConfigError(f"--name {self.text}: gives names of over {NAME_BYTES} bytes; give a shorter one")

    def _filled(self, values: Mapping[str, object], letters: int) -> str:
        told = []
        for piece in self.pieces:
            told.append(piece.letters)
            if piece.field is None:
                continue
            value = values[piece.field]
            slug = _words(value, letters) if piece.field in ("prompt", "negative") else _plain(value, letters)
            told.append(format(slug if isinstance(value, str) else value, piece.format))
        return "".join(told)


def printable(name: str) -> str:
    """A name of a file with a sign in the place of what cannot be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _pieces(text: str) -> tuple[Piece, ...]:
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError:
        raise ConfigError(
            f"--name {text}: its braces do not pair; write fields as in {{seed}}, and {{{{ for a brace"
        ) from None
    found = []
    for letters, field, form, conversion in parsed:
        if field is not None:
            _check(text, field, form or "", conversion)
        found.append(Piece(letters, field, form or USUAL.get(field or "", "")))
    return tuple(found)


def _check(text: str, field: str, form: str, conversion: str | None) -> None:
    if field not in FIELDS:
        near = nearest(field, FIELDS) if field else None
        remedy = f"did you mean {{{near}}}?" if near else "give one of " + " ".join(f"{{{one}}}" for one in FIELDS)
        raise ConfigError(f"--name {text}: {{{field}}} is no field; {remedy}")
    try:
        if conversion or not _FORMAT.fullmatch(form):
            raise ValueError
        format(FIELDS[field], form)
    except ValueError:
        written = f"{field}!{conversion}" if conversion else field
        written += f":{form}" if form else ""
        raise ConfigError(f"--name {text}: {{{written}}} has no format; write it as in {{number:03}}") from None


def _values(recipe: Recipe, told: Mapping[str, object], number: int) -> dict[str, object]:
    return {
        "number": number,
        "seed": recipe.seed,
        "prompt": recipe.prompt,
        "negative": recipe.negative,
        "model": recipe.model.name,
        "sampler": recipe.sampler.kind,
        "steps": recipe.steps,
        "guidance": recipe.guidance,
        "width": recipe.width,
        "height": recipe.height,
        "lora": str(told.get("lora", "")),
        "strength": str(told.get("strength", "")),
        "line": told.get("line", 1),
    }


def _words(prompt: object, most: int) -> str:
    """The words of a prompt, of any script, in small letters, without weights and <lora:...>."""
    text = _WEIGHT.sub(r"\1", _TAG.sub(" ", str(prompt)[:READ]))
    text = unicodedata.normalize("NFC", text.lower())
    kept = "".join(one if unicodedata.category(one)[0] in "LN" else _mark_or_gap(one) for one in text)
    return re.sub("-[-\0]*", "-", kept).replace("\0", "").strip("-")[:most].strip("-")


def _mark_or_gap(one: str) -> str:
    """A mark stays with its letter (vowels of Hindi, accents); one that changes how pictures look goes."""
    if unicodedata.category(one)[0] != "M":
        return "-"
    return "\0" if "\ufe00" <= one <= "\ufe0f" else one


def _plain(value: object, most: int) -> str:
    """A name with what no file name can have left out."""
    return re.sub(r"[^\w.+-]+", "-", unicodedata.normalize("NFC", str(value)))[:most].rstrip("-.")


def _cleaned(part: str) -> str:
    """A name that all systems take."""
    name = part.strip(" .").rstrip("-") or "none"
    return f"{name}-" if RESERVED.fullmatch(name) else name
