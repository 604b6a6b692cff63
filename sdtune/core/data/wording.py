"""Wording: what people do to captions before they train on them, always with the same result when done again."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence

from sdtune.config import Wording
from sdtune.core.data.captions import BYTES, clean
from sdtune.core.data.folder import with_trigger
from sdtune.core.data.tags import is_list, same, tags_of, without_doubles
from sdtune.core.data.tokens import Counter

PUNCTUATION = ",.;:!?"
CLAUSE = 4  # words from which what stands between two commas is no tag


def worded(
    told: str, wording: Wording, count: Counter, *, prior: bool = False, rank: Callable[[str], float] | None = None
) -> tuple[str, bool]:
    """The caption as it should be, and whether it had to be cut; prior images show the class and get no trigger.

    `rank` puts the tags of a list in order, the smallest first. What a caption begins and ends with already is not put
    there twice.
    """
    trigger = None if prior else wording.trigger
    body, head = _without_head(clean(told), trigger)
    body = _without_ends(body, wording.prefix, wording.suffix)
    body = _edited(body, wording)
    if not body and not head:
        return "", False
    as_list = is_list(body)
    if rank and as_list:
        body = ", ".join(sorted(tags_of(body), key=rank))

    def whole(body: str) -> str:
        text = _joined(wording.prefix, body, wording.suffix)
        return ", ".join(part for part in (trigger, text) if part) if head else with_trigger(text, trigger)

    parts, comma = (tags_of(body), ", ") if as_list else (body.split(), " ")
    fitting = _fitting(parts, lambda kept: whole(comma.join(kept)), count, wording.max_tokens)
    cut = len(fitting) < len(parts)
    return whole(comma.join(fitting).rstrip(" ,;:") if cut else body), cut


def appended(caption: str, told: Sequence[str]) -> str:
    """The caption with what it does not say yet after it."""
    known = {same(tag) for tag in tags_of(caption)}
    new = [one for one in without_doubles(told) if same(one) not in known and same(one) not in same(caption)]
    return ", ".join([caption.rstrip(" ,.;"), *new]) if new else caption


def _without_head(text: str, trigger: str | None) -> tuple[str, bool]:
    """What follows a trigger that stands first, and whether it does."""
    found = re.match(rf"{re.escape(trigger)}\s*(?:,\s*|$)", text, re.IGNORECASE) if trigger else None
    return (text[found.end() :], True) if found else (text, False)


def _without_ends(text: str, prefix: str, suffix: str) -> str:
    prefix, suffix = clean(prefix), clean(suffix)
    if prefix and text.lower().startswith(prefix.lower()):
        text = text[len(prefix) :]
    if suffix and text.lower().endswith(suffix.lower()):
        text = text[: -len(suffix)]
    return "" if text.lower() == suffix.lstrip(PUNCTUATION + " ").lower() else text.strip()


def _edited(text: str, wording: Wording) -> str:
    before = text
    for pair in wording.replace:
        old, _, new = pair.partition("=")
        changed = _phrase(old).sub(lambda _, new=new: clean(new), text)  # type: ignore[misc]
        text = _tidy(changed) if changed != text else text
    unwanted = [tag for told in wording.blacklist for tag in tags_of(told)]
    kept = [part for tag in tags_of(text) if (part := _without(tag, unwanted))]
    kept = without_doubles(kept) if wording.dedupe else kept
    return ", ".join(kept) if kept != tags_of(before) else before


def _without(part: str, unwanted: Sequence[str]) -> str:
    """What is left of a tag, all or nothing, or of a clause, whose words are taken one by one."""
    if len(part.split()) < CLAUSE:
        return "" if same(part) in {same(one) for one in unwanted} else part
    left = part
    for phrase in unwanted:
        left = _phrase(phrase).sub("", left)
    return part if left == part else _tidy(left)


def _phrase(words: str) -> re.Pattern[str]:
    """These words wherever they stand as words; "long hair" is long_hair, too."""
    inner = r"[\s_]+".join(re.escape(word) for word in words.replace("_", " ").split())
    return re.compile(rf"(?<!\w){inner}(?!\w)", re.IGNORECASE)


def _tidy(text: str) -> str:
    """Without the spaces that stood around what is gone."""
    return re.sub(rf"\s+(?=[{PUNCTUATION}])", "", " ".join(text.split())).strip(" ;:")


def _joined(prefix: str, body: str, suffix: str) -> str:
    """With a space between them, where no comma or full stop begins the suffix."""
    before, after = clean(prefix), clean(suffix)
    text = " ".join(part for part in (before, body) if part)
    if not text:
        return after.lstrip(PUNCTUATION + " ")
    return f"{text}{'' if not after or after[0] in PUNCTUATION else ' '}{after}"


def _fitting(
    parts: Sequence[str], whole: Callable[[Sequence[str]], str], count: Counter, most: int | None
) -> Sequence[str]:
    """As many of the parts as the tokens and the bytes of a caption allow, at least one."""

    def is_over(kept: int) -> bool:
        text = whole(parts[:kept])
        return len(text.encode("utf-8", "replace")) >= BYTES or (most is not None and count(text) > most)

    if not parts or not is_over(len(parts)):
        return parts
    return parts[: max(1, bisect_right(range(1, len(parts) + 1), False, key=is_over))]
