"""Trigger: the words that call up what was learned, as captions have them around everything else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

NEARLY_ALL = 0.8
"""share of captions"""
MOST = 0.5
LONGEST = 6
"""words that a phrase may grow by"""
FEWEST = 3
"""captions, from which what they share says something"""
ARTICLES = frozenset({"a", "an", "the"})
FRAMES = frozenset(
    {
        "photo",
        "photograph",
        "picture",
        "image",
        "painting",
        "drawing",
        "sketch",
        "illustration",
        "rendering",
        "portrait",
        "close-up",
        "closeup",
        "shot",
        "view",
    }
)
"""what begins captions without saying what they show"""
LINKS = frozenset(
    {
        "of",
        "in",
        "on",
        "at",
        "by",
        "with",
        "and",
        "to",
        "for",
        "from",
        "as",
        "is",
        "are",
        "was",
        "this",
        "that",
        "my",
        "his",
        "her",
        "its",
        "their",
    }
)
STOPS = ARTICLES | FRAMES | LINKS
_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_JOINT = re.compile(rf"(?:[\s,;:|.-]|\b(?:{'|'.join(sorted(ARTICLES | LINKS))})\b)*$", re.IGNORECASE)
_COMMAS = re.compile(r"\s*,(?:\s*,)+\s*")


@dataclass(frozen=True)
class Trigger:
    """A phrase, and how it stands in prompts."""

    phrase: str
    """ "fluent3d style", "sks cat" """
    word: str
    """what is looked for: the part that is known to be trained, "fluent3d"; else the phrase"""
    form: str
    """a prompt with {} for what is to be seen with it: "{}, fluent3d style"; for a subject, where: "sks cat {}" """
    is_style: bool
    """whether it says how things look, whatever they are"""

    def stands_in(self, text: str) -> bool:
        """Whether a prompt asks for what was learned."""
        return bool(_of(self.word).search(text))

    def asking(self, text: str) -> str:
        """A prompt that asks for it, too, in the form of the captions."""
        if not text or self.stands_in(text):
            return text or self.phrase
        return self.form.replace("{}", text) if self.is_style else f"{self.phrase}, {text}"

    def where(self, place: str) -> str:
        """A prompt that shows the subject somewhere."""
        return self.form.replace("{}", place).rstrip(" ,")

    def without(self, text: str) -> str:
        """The same in words that are nobody's own: of a subject its class stays, as "cat" of "sks cat"."""
        kept = ""
        if not self.is_style:  # what is left of it, or the noun at its end
            words = self.phrase.split()
            left = _of(self.word).sub("", self.phrase).strip(" ,")
            kept = left or (words[-1] if len(words) > 1 else "")
        joint = re.escape(self.form[2:].split(self.phrase)[0]) if self.form.startswith("{}") else ""
        plain = re.sub(f"(?:{joint})?{_of(self.phrase).pattern}", lambda _: kept, text, flags=re.IGNORECASE)
        plain = _of(self.word).sub("", plain)
        return re.sub(r"\s+(?=,)", "", _COMMAS.sub(", ", " ".join(plain.split()))).strip(" ,")


def trigger_for(captions: Sequence[str], known: str | None, *, style: bool = False) -> Trigger | None:
    """The trigger that captions have: around the known word, else what nearly all of them begin or end with.

    `style`: what was learned is known to be one.
    """
    told = [text for text in captions if text]
    if known:
        holding = [text for text in told if _of(known).search(text)]
        phrase = _grown(known, holding)
        return _formed(phrase, known, [text for text in holding if _of(phrase).search(text)], style)
    phrase = _shared(told)
    return _formed(phrase, phrase, [text for text in told if _of(phrase).search(text)], style) if phrase else None


def words_of(text: str) -> list[str]:
    """In small letters, with punctuation as words of their own."""
    return [found[0].lower() for found in _WORD.finditer(text)]


def _of(phrase: str) -> re.Pattern[str]:
    """The phrase as words of their own: "risks" is not "sks"."""
    spaced = r"\s+".join(re.escape(part) for part in phrase.split())
    return re.compile(rf"(?<!\w){spaced}(?!\w)", re.IGNORECASE)


def _grown(word: str, holding: Sequence[str]) -> str:
    """The word with those beside it that nearly all captions have there, as "fluent3d style" of "fluent3d"."""
    if not _says_something(holding):
        return word
    places = [next(_of(word).finditer(text)) for text in holding]
    behind = _common([words_of(text[place.end() :]) for text, place in zip(holding, places, strict=True)])
    before = _common([words_of(text[: place.start()])[::-1] for text, place in zip(holding, places, strict=True)])
    behind, before = _stripped(behind), _stripped(before)
    pattern = r"\s*".join([*map(re.escape, before[::-1]), _of(word).pattern, *map(re.escape, behind)])
    found = Counter(one[0] for text in holding if (one := re.search(pattern, text, re.IGNORECASE)))
    return max(found, key=lambda one: (found[one], one)) if found else word


def _shared(captions: Sequence[str]) -> str:
    """What nearly all captions begin or end with, without what says nothing; "" where that is nothing."""
    if len(captions) < FEWEST or not _says_something(captions):
        return ""
    first = _common([_stripped(words_of(text)[::-1])[::-1] for text in captions])
    last = _common([words_of(text)[::-1] for text in captions])[::-1]
    both = [_inner(part) for part in (first, last)]
    words = max(both, key=len)  # of the same length the first
    if not words:
        return ""
    pattern = re.compile(r"\s*".join(map(re.escape, words)), re.IGNORECASE)
    found = Counter(one[0] for text in captions if (one := pattern.search(text)))
    return max(found, key=lambda one: (found[one], one))


def _says_something(captions: Sequence[str]) -> bool:
    """Whether what they share is more than that they are few; those of some words are nothing else."""
    return len(set(captions)) >= FEWEST or (bool(captions) and max(len(words_of(text)) for text in captions) <= FEWEST)


def _common(rows: Sequence[Sequence[str]]) -> list[str]:
    """The longest beginning that nearly all rows share."""
    shared: list[str] = []
    left = list(rows)
    while len(shared) <= LONGEST:
        next_ones = Counter(row[len(shared)] for row in left if len(row) > len(shared))
        word, count = max(next_ones.items(), key=lambda one: (one[1], one[0]), default=("", 0))
        if count < NEARLY_ALL * len(rows):
            break
        left = [row for row in left if len(row) > len(shared) and row[len(shared)] == word]
        shared.append(word)
    return shared


def _stripped(words: list[str]) -> list[str]:
    """Without what says nothing at its end."""
    count = len(words)
    while count and (words[count - 1] in STOPS or not words[count - 1][0].isalnum()):
        count -= 1
    return words[:count]


def _inner(words: list[str]) -> list[str]:
    return _stripped(_stripped(words)[::-1])[::-1]


def _formed(phrase: str, word: str, holding: Sequence[str], style: bool) -> Trigger:
    """The phrase with the form that the captions give it."""
    sure = style or bool(re.search(r"\bstyle\b", phrase, re.IGNORECASE))
    if not holding:
        return Trigger(phrase, word, f"{{}}, {phrase}" if sure else f"{phrase} {{}}", sure)
    parts = [_parted(text, phrase) for text in holding]
    first = _share(parts, lambda before, _: all(one in STOPS for one in words_of(before)))
    last = _share(parts, lambda _, behind: not re.search(r"\w", behind))
    if first < MOST and (last >= MOST or sure):
        joint = _usual([found[0] if (found := _JOINT.search(before)) else "" for before, _ in parts if before.strip()])
        return Trigger(phrase, word, f"{{}}{joint if joint.strip() or not joint else ' '}{phrase}", True)
    lead = _usual([before for before, _ in parts])
    lead = lead if _share(parts, lambda before, _: before == lead and first >= MOST) >= MOST else ""
    if last >= MOST or _share(parts, lambda _, behind: behind.startswith(",")) < MOST:
        return Trigger(phrase, word, f"{lead}{phrase} {{}}", sure)
    thing = _thing([behind for _, behind in parts])
    if thing and not sure:
        return Trigger(phrase, word, f"{lead}{phrase}, {thing} {{}}", False)
    tags = _share(parts, lambda _, behind: words_of(behind)[1:2] != [] and words_of(behind)[1] in ARTICLES) < MOST
    return Trigger(phrase, word, f"{lead}{phrase}, {{}}", sure or not tags)


def _parted(text: str, phrase: str) -> tuple[str, str]:
    place = next(_of(phrase).finditer(text))
    return text[: place.start()], text[place.end() :]


def _share(parts: Sequence[tuple[str, str]], holds: Callable[[str, str], bool]) -> float:
    return sum(holds(before, behind) for before, behind in parts) / len(parts)


def _usual(texts: Sequence[str]) -> str:
    """The most frequent one."""
    counts = Counter(texts)
    return max(counts, key=lambda one: (counts[one], one), default=", ")


def _thing(texts: Sequence[str]) -> str:
    """The thing that most of these name, with its article: "a man"; "" where they are about many."""
    found: Counter[str] = Counter()
    for text in texts:
        words = words_of(text)
        found.update({word for article, word in pairwise(words) if article in ARTICLES})
    word, count = max(found.items(), key=lambda one: (one[1], one[0]), default=("", 0))
    if not word.isalpha() or count < MOST * len(texts):
        return ""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
