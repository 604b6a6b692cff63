"""Wordings: what is made of a caption on its way to the model, each time another where the settings say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator

from sdtune.core.data.folder import with_trigger
from sdtune.core.data.tags import tags_of
from sdtune.core.draws import generator
from sdtune.tables import Captions

SEPARATOR = "|||"
"""kohya's: tags before it stay where they are, and those after a second one, too"""


def varies(caption: str, settings: Captions, triggers: Sequence[str] = ()) -> bool:
    """Whether it has more than one wording."""
    choices = 0

    def count(among: int) -> int:
        nonlocal choices
        choices += among > 1
        return 0

    text = _drawn(caption, count) if settings.wildcards else caption
    if choices:
        return True
    _, loose, _ = _parted(text, settings)
    safe = sum(_holds(tag, triggers) for tag in loose) if settings.tag_dropout else len(loose)
    left = safe if settings.tag_dropout == 1 else len(loose)
    return (safe < len(loose) and settings.tag_dropout < 1) or (settings.shuffle and left > 1)


def worded(caption: str, settings: Captions, random: Generator, triggers: Sequence[str] = ()) -> str:
    """One wording: wildcards drawn first, then tags mixed and dropped."""
    text = caption
    if settings.wildcards:
        text = _drawn(caption, lambda among: int(torch.randint(among, (), generator=random)))
    if not settings.shuffle and not settings.tag_dropout and SEPARATOR not in text:
        return text  # to the letter
    first, loose, last = _parted(text, settings)
    if settings.tag_dropout:
        kept = torch.rand(len(loose), generator=random) >= settings.tag_dropout
        loose = [tag for tag, is_kept in zip(loose, kept.tolist(), strict=True) if is_kept or _holds(tag, triggers)]
    if settings.shuffle:
        loose = [loose[place] for place in torch.randperm(len(loose), generator=random).tolist()]
    return ", ".join([*first, *loose, *last])


def wordings(caption: str, settings: Captions, triggers: Sequence[str] = ()) -> tuple[str, ...]:
    """As many as the settings say of a caption that varies, else its one; equal ones stay, as they keep the rates."""
    count = settings.wordings if varies(caption, settings, triggers) else 1
    return tuple(worded(caption, settings, generator("wording", caption, number), triggers) for number in range(count))


def _holds(tag: str, triggers: Sequence[str]) -> bool:
    """Whether it holds one of the words, or a part of one that has commas."""
    return any(with_trigger(tag, part) == tag for word in triggers for part in tags_of(word))


def _drawn(caption: str, draw: Callable[[int], int]) -> str:
    """With one of the alternatives in place of each {a|b}, inner ones first; `draw` takes how many there are.

    Braces without | between them, or without their other half, are text.
    """
    opened: list[list[str]] = [[""]]  # alternatives so far of each open brace; of the caption there is one
    for letter in caption:
        if letter == "{":
            opened.append([""])
        elif letter == "|" and len(opened) > 1:
            opened[-1].append("")
        elif letter == "}" and len(opened) > 1:
            found = opened.pop()
            opened[-1][-1] += found[draw(len(found))] if len(found) > 1 else f"{{{found[0]}}}"
        else:
            opened[-1][-1] += letter
    return "{".join("|".join(found) for found in opened)


def _parted(text: str, settings: Captions) -> tuple[list[str], list[str], list[str]]:
    """Tags that stay at the front, those that may move or go, and those that stay at the end."""
    parts = [_tags(part, settings) for part in text.split(SEPARATOR, 2)]
    if len(parts) == 1:
        return parts[0][: settings.keep], parts[0][settings.keep :], []
    return parts[0], parts[1], parts[2] if len(parts) > 2 else []


def _tags(text: str, settings: Captions) -> list[str]:
    """What stands between commas; those within weighing brackets part nothing."""
    if not settings.weights:
        return tags_of(text)
    tags, depth, escaped = [""], 0, False
    for letter in text:
        if letter == "," and depth == 0:
            tags.append("")
            continue
        tags[-1] += letter
        if not escaped:
            depth = max(0, depth + (letter in "([") - (letter in ")]"))
        escaped = letter == "\\" and not escaped
    return [tag for told in tags if (tag := told.strip())]
