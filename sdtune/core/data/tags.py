"""Tags: the parts of a caption between its commas."""

from __future__ import annotations

import re
from collections.abc import Iterable

WORDS_A_COMMA = 4
"""captions with fewer are lists of tags; in sentences the commas are further apart"""


def tags_of(caption: str) -> list[str]:
    """The parts, none of them empty."""
    return [tag for part in caption.split(",") if (tag := part.strip())]


def is_list(caption: str) -> bool:
    """Whether a caption is a list of tags rather than a sentence."""
    return len(re.findall(r"\w+", caption)) < WORDS_A_COMMA * caption.count(",")


def same(tag: str) -> str:
    """What two spellings of a tag have in common: Long_Hair is long hair; a face is itself."""
    return " ".join((tag if is_face(tag.strip()) else tag.replace("_", " ")).split()).casefold()


def is_face(tag: str) -> bool:
    """Whether a tag is drawn with underscores, as ^_^ or o_o, rather than words with underscores between them."""
    return len(tag) <= 3 or not any(letter.isalpha() for letter in tag.replace("o", ""))


def without_doubles(tags: Iterable[str]) -> list[str]:
    """Each tag once, where it stood first."""
    kept: dict[str, str] = {}
    for tag in tags:
        kept.setdefault(same(tag), tag)
    return list(kept.values())
