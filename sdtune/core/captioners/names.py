"""Captions out of names alone: the file's, the folder's, or a template that they fill."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import ClassVar

from sdtune.choices import captioners
from sdtune.core.captioners.base import Describer, Picture, Setting, Told
from sdtune.core.data.captions import clean

_CAMERA = re.compile(r"(v?img|mvimg|dsc[nf]?|_?mg|pxl|dji|gopr|sam|vid|p|wa|cimg|imgp|hpim|scan)_?\d*", re.I)
"""words that cameras, telephones and scanners begin names with: IMG_1234, DSC00001, P1010001, IMG-20240101-WA0001"""
_HEXADECIMAL = re.compile(r"(?=.*\d)[0-9a-f]{7,}", re.I)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
_SIZE = re.compile(r"\d+(x\d+)?(px)?", re.I)
_EMPTY = {"image", "photo", "picture", "pic", "screenshot", "untitled", "unnamed", "download", "file", "whatsapp", "at"}
"""words that say nothing where no other stands beside them"""


def name_in_words(path: Path) -> str:
    """What a file's name says, "" where a machine made it up: red_apple-2.png is "red apple"."""
    words = re.split(r"[\s_\-.+~,()\[\]{}#]+", _UUID.sub(" ", clean(path.stem)))
    told = [word for word in words if word and not any(made.fullmatch(word) for made in (_CAMERA, _HEXADECIMAL, _SIZE))]
    if told and told[-1].lower() == "copy":
        told.pop()
    if told:
        told[-1] = re.sub(r"(?<=[^\W\d_]{3})\d+$", "", told[-1])
    return "" if all(word.lower() in _EMPTY for word in told) else " ".join(told)


def folder_in_words(path: Path) -> str:
    """What the folder of a file is called, without kohya's repeats: 10_sks cat/ is "sks cat"."""
    name = re.sub(r"^\d+_", "", path.absolute().parent.name)
    return clean(name.replace("_", " "))


class Filename(Describer):
    """The file's name."""

    kind: ClassVar[str] = "filename"
    needs_image = False
    batch = 1024

    def __init__(self, settings: captioners.Filename, setting: Setting) -> None:
        """Nothing is needed."""

    def describe(self, pictures: Sequence[Picture], variants: int = 1) -> list[list[Told]]:  # noqa: ARG002 (one way)
        """One caption or none."""
        return [_told(name_in_words(picture.path)) for picture in pictures]


class Folder(Describer):
    """The folder's name."""

    kind: ClassVar[str] = "folder"
    needs_image = False
    batch = 1024

    def __init__(self, settings: captioners.Folder, setting: Setting) -> None:
        """Nothing is needed."""

    def describe(self, pictures: Sequence[Picture], variants: int = 1) -> list[list[Told]]:  # noqa: ARG002 (one way)
        """One caption or none."""
        return [_told(folder_in_words(picture.path)) for picture in pictures]


class Template(Describer):
    """A sentence that the names fill."""

    kind: ClassVar[str] = "template"
    batch = 1024

    def __init__(self, settings: captioners.Template, setting: Setting) -> None:
        self.text = settings.text
        self.trigger = setting.trigger
        fields = {field for _, field, _, _ in Formatter().parse(settings.text)}
        self.needs_image = not fields.isdisjoint({"width", "height"})

    def describe(self, pictures: Sequence[Picture], variants: int = 1) -> list[list[Told]]:  # noqa: ARG002 (one way)
        """One caption; where a name is empty, the space and the comma beside it go with it."""
        return [_told(self._filled(picture)) for picture in pictures]

    def _filled(self, picture: Picture) -> str:
        width, height = picture.image.size if picture.image is not None else ("", "")
        name, folder = name_in_words(picture.path), folder_in_words(picture.path)
        text = self.text.format(name=name, folder=folder, trigger=self.trigger, width=width, height=height)
        joined = re.sub(r"\s+(?=[,;:.])", "", clean(text))
        return re.sub(r"([,;:])(?:\s*[,;:])+", r"\1", joined).strip(" ,;:")


def _told(caption: str) -> list[Told]:
    return [Told(caption)] if caption else []
