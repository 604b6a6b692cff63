"""What the captions of a data set say, and how long they are, in figures."""

from __future__ import annotations

import re
from collections import Counter as Counts
from collections.abc import Sequence

from sdtune.core.data.tags import WORDS_A_COMMA, is_list, same, tags_of
from sdtune.core.data.tokens import LIMIT, Counter
from sdtune.core.reports import Statistics

GLUE = {"a", "an", "and", "are", "at", "by", "for", "from", "in", "is", "it", "of", "on", "or", "the", "to", "with"}
"""words that say nothing of a data set"""


def statistics(captions: Sequence[Sequence[str]], count: Counter) -> Statistics:
    """Of all images, each with its captions; a tag or word counts once an image."""
    lengths = [count(one) for several in captions for one in several]
    tags: Counts[str] = Counts()
    words: Counts[str] = Counts()
    for several in captions:
        tags.update({same(tag) for one in several for tag in tags_of(one) if is_list(one) or _is_short(one, tag)})
        words.update({word for one in several if not is_list(one) for word in _words(one)})
    return Statistics(
        images=len(captions),
        with_caption=sum(bool(several) for several in captions),
        captions=len(lengths),
        tokens_mean=round(sum(lengths) / max(1, len(lengths)), 1),
        tokens_longest=max(lengths, default=0),
        over_limit=sum(length > LIMIT for length in lengths),
        exact=count.exact,
        tags=_by_number(tags),
        words=_by_number(words),
    )


def _is_short(caption: str, part: str) -> bool:
    """Whether a part of a sentence may be a tag that someone has put beside it."""
    return "," in caption and len(part.split()) < WORDS_A_COMMA


def _words(caption: str) -> list[str]:
    return [word for word in re.findall(r"[^\W_]+", caption.casefold()) if word not in GLUE]


def _by_number(counts: Counts[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
