"""Problems of captions, each with its remedy, told before anything is trained on them."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdtune.core.captioners.names import name_in_words
from sdtune.core.data.captions import BIDI, clean
from sdtune.core.data.folder import with_trigger
from sdtune.core.data.layout import IMAGE_LIKE
from sdtune.core.data.tags import is_list, same, tags_of, without_doubles
from sdtune.core.data.tokens import ESTIMATE, LIMIT, Counter
from sdtune.core.reports import Problem

NAMED = 3  # images named in one line
SHOWN = 40  # letters of a caption in one line
FEW = 3  # images of which what they have in common says nothing
EDIT = "sdtune caption DATASET --mode edit"

Captions = Sequence[tuple[str, Sequence[str]]]
"""(name of an image, its captions as they stand in the file)"""


def lint(captions: Captions, trigger: str | None = None, count: Counter = ESTIMATE) -> list[Problem]:
    """Every problem of a data set's captions, the gravest first; an image without a caption has ()."""
    told = [(name, [kept for one in several if (kept := clean(one))]) for name, several in captions]
    described = [(name, several) for name, several in told if several]
    return [
        *_absent(captions),
        *_odd_letters(captions),
        *_identical(described),
        *_too_long(described, count),
        *_without_trigger(described, trigger),
        *_everywhere(described, trigger),
        *_file_names(described),
        *_short(described, trigger),
        *_doubled(described),
    ]


def unreadable(name: str, reason: str) -> Problem:
    """A caption that cannot be read at all, for a reason that says what to do."""
    told, _, remedy = reason.partition("; ")
    return Problem("unreadable", told, remedy, (name,))


def _absent(captions: Captions) -> Iterator[Problem]:
    remedy = "describe them with sdtune caption DATASET, or write them"
    missing = [name for name, several in captions if not several]
    empty = [name for name, several in captions if several and not any(clean(one) for one in several)]
    for kind, names, what in (("missing", missing, "no caption"), ("empty", empty, "an empty caption")):
        if names:
            yield _problem(kind, f"{_images(names)} {_have(names)} {what}", remedy, names)


def _odd_letters(captions: Captions) -> Iterator[Problem]:
    names = [name for name, several in captions if any(_is_odd(one) for one in several)]
    if names:
        told = f"{_captions(names)} {_have(names)} control characters, or letters that another program has spoilt"
        yield _problem("letters", told, f"look at them; {EDIT} takes control characters out", names)


def _is_odd(caption: str) -> bool:
    steers = (unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\t\r\n" for letter in caption)
    return "\ufffd" in caption or not BIDI.isdisjoint(caption) or any(steers) or _is_misread(caption)


def _is_misread(caption: str) -> bool:
    """UTF-8 that a program took for Windows' Latin letters: cafÃ© for café."""
    if caption.isascii():
        return False
    try:
        return len(caption.encode("cp1252").decode()) < len(caption)
    except UnicodeError:
        return False


def _identical(captions: Captions) -> Iterator[Problem]:
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, several in captions:
        groups[tuple(sorted(one.casefold() for one in several))].append(name)
    doubled = sorted((names for names in groups.values() if len(names) > 1), key=len, reverse=True)
    if not doubled:
        return
    names = [name for group in doubled for name in group]
    caption = _shortened(dict(captions)[doubled[0][0]][0])
    if len(doubled) > 1:
        told = f'{len(names)} images share their captions with others; {len(doubled[0])} have "{caption}"'
    else:
        told = f'{"all " if len(names) == len(captions) else ""}{len(names)} images have the same caption, "{caption}"'
    yield _problem("identical", told, "say what is different in each, or training cannot tell it apart", names)


def _too_long(captions: Captions, count: Counter) -> Iterator[Problem]:
    lengths = {name: max(count(one) for one in several) for name, several in captions}
    names = sorted((name for name, length in lengths.items() if length > LIMIT), key=lambda name: -lengths[name])
    if names:
        longest = f"the longest {count.about}{lengths[names[0]]}"
        told = f"{_captions(names)} {_have(names)} more than {LIMIT} tokens, {longest}: most trainers cut the rest"
        yield _problem("long", told, f"say what matters first, or cut with {EDIT} --max-tokens {LIMIT}", names)


def _without_trigger(captions: Captions, trigger: str | None) -> Iterator[Problem]:
    names = [name for name, several in captions if any(with_trigger(one, trigger) != one for one in several)]
    if names:
        told = f'{_captions(names)} {"lacks" if len(names) == 1 else "lack"} the trigger "{trigger}"'
        yield _problem("trigger", told, f"{EDIT} --trigger {_quoted(trigger or '')} puts it first", names)


def _everywhere(captions: Captions, trigger: str | None) -> Iterator[Problem]:
    if len(captions) <= FEW:
        return
    counts = Counts(tag for _, several in captions for tag in {same(tag) for one in several for tag in tags_of(one)})
    distinct = len({tuple(several) for _, several in captions})
    for tag, number in sorted(counts.items()):
        if number == len(captions) and distinct > 1 and not (trigger and with_trigger(tag, same(trigger)) == tag):
            told = f'"{_shortened(tag)}" stands in all {number} captions, so it will mean all that they have in common'
            remedy = f"if it is the trigger, say --trigger {_quoted(tag)}; else {EDIT} --blacklist {_quoted(tag)}"
            yield _problem("everywhere", told, remedy, [])


def _file_names(captions: Captions) -> Iterator[Problem]:
    names = [name for name, several in captions if any(_is_file_name(one) for one in several)]
    if names:
        told = f"{_captions(names)} {_are(names)} the name of a file, as a camera or a download makes it up"
        yield _problem("name", told, "empty those captions and run sdtune caption DATASET, or write them", names)


def _is_file_name(caption: str) -> bool:
    stem, dot, suffix = caption.rpartition(".")
    is_image = f"{dot}{suffix}".lower() in IMAGE_LIKE
    return (is_image and len(caption.split()) == 1) or not name_in_words(Path(f"{stem if is_image else caption}.png"))


def _short(captions: Captions, trigger: str | None) -> Iterator[Problem]:
    nothing = same(trigger or "")
    alone = re.compile(rf"(?<!\w){re.escape(nothing)}(?!\w)" if nothing else "(?!)")
    names = [
        name
        for name, several in captions
        if any(len(re.findall(r"\w+", alone.sub(" ", same(one)))) < (1 if nothing else 2) for one in several)
    ]
    if names:
        what = "the trigger alone" if nothing else "one word"
        told = f"{_captions(names)} {_are(names)} {what}: all that the image shows is learned with it"
        yield _problem("short", told, "say what else is to be seen, so that it can be left out of a picture", names)


def _doubled(captions: Captions) -> Iterator[Problem]:
    names = [
        name
        for name, several in captions
        if any(is_list(one) and len(tags_of(one)) > len(without_doubles(tags_of(one))) for one in several)
    ]
    if names:
        told = f"{_captions(names)} {_have(names)} a tag that stands there twice"
        yield _problem("doubled", told, f"{EDIT} --dedupe", names)


def _problem(kind: str, told: str, remedy: str, names: Sequence[str]) -> Problem:
    some = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return Problem(kind, f"{told} ({some})" if names else told, remedy, tuple(names))


def _quoted(text: str) -> str:
    """As a shell takes it."""
    return shlex.quote(text) if set(text) & set('"$`!\\') else f'"{text}"'


def _images(names: Sequence[str]) -> str:
    return "1 image" if len(names) == 1 else f"{len(names)} images"


def _captions(names: Sequence[str]) -> str:
    return f"the caption of {_images(names)}" if len(names) == 1 else f"the captions of {_images(names)}"


def _have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _shortened(caption: str) -> str:
    return caption if len(caption) <= SHOWN else f"{caption[:SHOWN].rstrip()}..."
