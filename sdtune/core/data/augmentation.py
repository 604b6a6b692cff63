"""Augmentation's guards: what it would spoil is kept from it, and told."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sdtune.core.data.folder import Example
from sdtune.tables import Augment

NAMED = 3  # images, and words, named in one warning

WRITING = (
    "text|texts|letter|letters|lettering|word|words|writing|written|handwriting|handwritten|says|saying|number|numbers|"
    "numeral|numerals|digit|digits|alphabet|font|typography|calligraphy|kanji|inscription|inscribed|engraved|graffiti|"
    "sign|signs|signage|signpost|signboard|billboard|signature|signatures|logo|logos|logotype|watermark|watermarks|"
    "watermarked|label|labels|labelled|labeled|caption|captions|title|titles|subtitle|subtitles|headline|headlines|"
    "newspaper|newspapers|speech bubbles?|license plates?|licence plates?|clock|clocks|map|maps"
)
SIDES = (
    "left|leftmost|leftward|leftwards|lefthand|right|rightmost|rightward|rightwards|righthand|clockwise|"
    "counterclockwise|anticlockwise|west|westward|westwards|east|eastward|eastwards|starboard|portside|port side|"
    "asymmetrical|asymmetric|heterochromia"
)
FACES = (
    "face|faces|facial|portrait|portraits|selfie|selfies|headshot|headshots|man|men|woman|women|person|persons|people|"
    r"boy|boys|girl|girls|lady|ladies|guy|gentleman|child|children|baby|babies|bride|groom|\d+girls?|\d+boys?"
)
QUOTED = r"\"[^\"]+\"|“[^”]+”|«[^»]+»|(?<!\w)'[^']+'(?!\w)|(?<!\w)‘[^’]+’(?!\w)"
ONE_SIDED = re.compile(rf"\b(?:{WRITING}|{SIDES})\b|{QUOTED}", re.IGNORECASE)
OF_FACES = re.compile(rf"\b(?:{FACES})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Guarded:
    """What augmentation may do with the examples, and what the user should know of it."""

    may_flip: list[bool]
    """by example"""
    warnings: list[str]
    """one line each, as are the refusals"""
    refusals: list[str]
    """why it cannot be done as asked, with what to do"""


def guard(examples: Sequence[Example], augment: Augment, task_kind: str) -> Guarded:
    """Out of the captions, in English, and of what is learned; images of the class (priors) are not augmented."""
    refusals = []
    if augment.colour and task_kind == "style":
        refusals.append("augment.colour: changes the colours that a style is made of; leave it out with --task style")
    found = [_first_word(example, ONE_SIDED) if augment.flip and not example.prior else None for example in examples]
    warnings = _of_sides(examples, found) + _of_faces(examples, found) if augment.flip else []
    return Guarded([word is None for word in found], warnings + _of_leaks(augment, task_kind), refusals)


def _of_sides(examples: Sequence[Example], found: Sequence[str | None]) -> list[str]:
    kept = [example for example, word in zip(examples, found, strict=True) if word]
    if not kept:
        return []
    words = Counter(word.strip("\"'“”‘’«»") for word in found if word)
    spoken = _first([f'"{word}"' for word, _ in words.most_common()])
    count = sum(not example.prior for example in examples)
    told = f"{len(kept)} of {count} images are not mirrored" if len(kept) < count else "no image is mirrored"
    return [f"augment.flip: {told}, since captions speak of writing or of sides ({spoken}): {_names(kept)}"]


def _of_faces(examples: Sequence[Example], found: Sequence[str | None]) -> list[str]:
    shown = [
        example
        for example, word in zip(examples, found, strict=True)
        if not word and not example.prior and _first_word(example, OF_FACES)
    ]
    if not shown:
        return []
    return [
        f"augment.flip: captions of {_images(len(shown))} speak of faces or persons ({_names(shown)}); faces are not "
        "symmetric, and mirrored ones teach a face that nobody has: leave flip out to learn a person"
    ]


def _of_leaks(augment: Augment, task_kind: str) -> list[str]:
    leaking = [name for name in ("rotate", "colour") if getattr(augment, name)]
    if not leaking or augment.tag:
        return []
    remedy = "leave it out" if task_kind == "unconditional" else "--augment.tag says in the captions what was done"
    return [
        f"{' and '.join(f'augment.{name}' for name in leaking)}: what is changed so is learned too, and appears in "
        f"samples; {remedy}"
    ]


def _first_word(example: Example, sought: re.Pattern[str]) -> str | None:
    """The first of the words in any of its captions, where tags may be joined by underscores."""
    for caption in example.captions:
        if match := sought.search(caption.replace("_", " ")):
            return match[0].lower()
    return None


def _first(told: Sequence[str]) -> str:
    return ", ".join(told[:NAMED]) + (f" and {len(told) - NAMED} more" if len(told) > NAMED else "")


def _names(examples: Sequence[Example]) -> str:
    return _first([example.path.name for example in examples])


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"
