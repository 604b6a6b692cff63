"""Wording: what people do to captions before they train on them, always with the same result when done again."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence

from sdtune.core.data.captions import BYTES, clean
from sdtune.core.data.folder import with_trigger
from sdtune.core.data.tags import is_list, same, tags_of, without_doubles
from sdtune.core.data.tokens import Counter
from sdtune.errors import ConfigError
from sdtune.tables import Wording

PUNCTUATION = ",.;:!?"
CLAUSE = 4  # words from which what stands between two commas is no tag
AGAIN = 8  # times that wording is done over until nothing changes


def worded(
    told: str, wording: Wording, count: Counter, *, prior: bool = False, rank: Callable[[str], float] | None = None
) -> tuple[str, bool]:
    """The caption as it should be, and whether it had to be cut; prior images show the class and get no trigger.

    `rank` puts the tags of a list in order, the smallest first. What a caption begins and ends with already is not put
    there twice, and what comes out is what would come out of it again.
    """
    trigger = None if prior else wording.trigger
    text, cut = _once(clean(told), trigger, wording, count, rank)
    for _ in range(AGAIN):
        again, more = _once(text, trigger, wording, count, rank)
        if again == text:
            break
        text, cut = again, cut or more
    return text, cut


def must_be_stable(wording: Wording) -> None:
    """Raises ConfigError at replacements that would undo each other, or grow each time."""
    unwanted = [tag for told in wording.blacklist for tag in tags_of(told)]
    for pair in wording.replace:
        old, _, new = pair.partition("=")
        if _phrase(old).search(clean(new)) and any(_phrase(one).search(clean(new)) for one in unwanted):
            raise ConfigError(
                f'wording.replace (--replace): "{clean(old)}" becomes "{clean(new)}", out of which --blacklist takes '
                "words, so that it would grow each time; leave out one of the two"
            )
        for words in (clean(old), clean(new)):
            once = _replaced(words, wording.replace)
            if _replaced(once, wording.replace) != once:
                raise ConfigError(
                    f'wording.replace (--replace): "{words}" becomes "{once}", and that something else when it is '
                    "done again; leave out one of the pairs"
                )


def _once(
    told: str, trigger: str | None, wording: Wording, count: Counter, rank: Callable[[str], float] | None
) -> tuple[str, bool]:
    body, head = _body(told, trigger, wording)
    body = _edited(body, wording)
    if not body and not head:
        return "", False
    as_list = is_list(body)
    if rank and as_list:
        body = ", ".join(sorted(tags_of(body), key=rank))
    parts, comma = (tags_of(body), ", ") if as_list else (body.split(), " ")
    fitting = _fitting(parts, lambda kept: _whole(comma.join(kept), head, trigger, wording), count, wording.max_tokens)
    cut = len(fitting) < len(parts)
    return _whole(comma.join(fitting).rstrip(" ,;:") if cut else body, head, trigger, wording), cut


def _whole(body: str, head: bool, trigger: str | None, wording: Wording) -> str:
    """The caption around what it says; `head`: whether the trigger stood first already."""
    text = _joined(wording.prefix, body, wording.suffix)
    return ", ".join(part for part in (trigger, text) if part) if head else with_trigger(text, trigger)


def _body(text: str, trigger: str | None, wording: Wording) -> tuple[str, bool]:
    """What a caption says between trigger, prefix and suffix, and whether the trigger stands first.

    These may share words, so that it can be taken apart in several ways; the way that joins to the same again is right.
    """
    bare, head = _without_head(text, trigger)
    ways = [(one, is_head) for whole, is_head in ((bare, head), (text, False)) for one in _without_ends(whole, wording)]
    again = [way for way in ways if (way[0] or way[1]) and _whole(*way, trigger, wording) == text]
    return min(again, key=lambda way: len(way[0])) if again else ways[0]


def appended(caption: str, told: Sequence[str]) -> str:
    """The caption with what it does not say yet after it."""
    known = {same(tag) for tag in tags_of(caption)}
    new = [one for one in without_doubles(told) if same(one) not in known and same(one) not in same(caption)]
    return ", ".join([caption.rstrip(" ,.;"), *new]) if new else caption


def _without_head(text: str, trigger: str | None) -> tuple[str, bool]:
    """What follows a trigger that stands first, and whether it does."""
    found = re.match(rf"{re.escape(trigger)}\s*(?:,\s*|$)", text, re.IGNORECASE) if trigger else None
    return (text[found.end() :], True) if found else (text, False)


def _without_ends(text: str, wording: Wording) -> list[str]:
    """Without prefix and suffix, where words end there; then with one of them, and with both."""
    prefix, suffix = clean(wording.prefix), clean(wording.suffix)
    before = re.match(f"{re.escape(prefix)}{_bound(prefix[-1:])}", text, re.IGNORECASE)
    start = before.end() if before else 0
    after = re.search(f"{_bound(suffix[:1])}{re.escape(suffix)}$", text, re.IGNORECASE)
    ways = []
    for begin, end in ((start, after), (0, after), (start, None), (0, None)):
        left = text[begin : max(begin, end.start()) if end else None].strip()
        ways.append("" if left.lower() == suffix.lstrip(PUNCTUATION + " ").lower() else left)
    return ways


def _bound(letter: str) -> str:
    """A pattern of the end of a word, beside a letter that is part of one."""
    return r"\b" if re.match(r"\w", letter) else ""


def _edited(text: str, wording: Wording) -> str:
    """With other words for some, and without the unwanted; over again, since what is gone joins what was apart."""
    for _ in range(AGAIN):
        before, text = text, _edited_once(text, wording)
        if text == before or len(text) > 2 * BYTES:
            break
    return text


def _edited_once(text: str, wording: Wording) -> str:
    before = text
    text = _replaced(text, wording.replace)
    unwanted = [tag for told in wording.blacklist for tag in tags_of(told)]
    kept = [part for tag in tags_of(text) if (part := _without(tag, unwanted))]
    kept = without_doubles(kept) if wording.dedupe else kept
    return ", ".join(kept) if kept != tags_of(before) else before


def _replaced(text: str, pairs: Sequence[str]) -> str:
    """New words for old; where the new ones stand already they stay, though the old are part of them."""
    for pair in pairs:
        old, _, new = pair.partition("=")
        told = clean(new)
        pieces = [re.escape(piece) for piece in re.findall(r"[^\W_]+|[^\w\s]", told)]
        there = r"(?<!\w)" + r"[\s_]*".join(pieces) + r"(?!\w)" if pieces else "(?!)"
        either = re.compile(f"(?P<there>{there})|{_phrase(old).pattern}", re.IGNORECASE)
        changed = either.sub(lambda found, told=told: found[0] if found["there"] else told, text)  # type: ignore[misc]
        text = _tidy(changed) if changed != text else text
    return text


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
