r"""A1111's prompt grammar: what of a prompt holds at which step, and which LoRAs it names.

Semantics: A1111's wiki, "Features" (prompt editing, alternating words, extra networks), and the examples in its own
documentation. Brackets that do not pair are text, as there. Other than there, \< is text, and | outside of [ ] is no
more than that, while A1111 edits nothing in such a prompt. Weights of words and BREAK are read in data.weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sdtune.core.data.weights import HEAVIEST, NUMBER
from sdtune.errors import ConfigError, cut

LONGEST = 20_000
"""characters of a prompt at most; 750 tokens are about 4,000"""
DEEPEST = 100
"""brackets in each other; fifty pairs of ( ) weigh over 100 already"""
STRONGEST = 100
STYLE = "<lora:cats:0.8>"
SHOWN = 40
"""characters of what is wrong that a message holds"""
LORAS = ("lora", "lyco")
Schedule = tuple[tuple[int, str], ...]
"""((last step for which it holds, from 1; text), ...) in order; the last one's step is the number of steps"""

_TAG = re.compile(r"\\.|<(?P<kind>\w+):(?P<told>[^<>]*)>", re.DOTALL)
_PIECES = re.compile(r"[\[\]():|]|(?:[^\\\[\]():|]+|\\.)+|\\", re.DOTALL)
_FULL_NUMBER = re.compile(rf"{NUMBER}(?:[eE][+-]?[0-9]+)?")
_WEIGHT = re.compile(NUMBER)
_ALMOST = re.compile(r"[+-]?\.?[0-9]\S*")
_PAIRS = {"(": ")", "[": "]"}


@dataclass(frozen=True)
class LoraTag:
    """<lora:name:weight>, with strengths of blocks behind another colon as in --lora."""

    name: str
    strength: str
    """as written; "1" where nothing is"""
    blocks: str | None
    column: int
    kind: str = field(default="lora", compare=False)
    """as written: lyco means the same"""


@dataclass(frozen=True)
class _Choice:
    """A pair of [ ] of which one part holds at a step."""

    starts: tuple[int, ...]
    """the piece with which each part begins"""
    when: int | None
    """the last step of the first of two parts; None: they take turns"""

    def start(self, step: int) -> int:
        return self.starts[(step - 1) % len(self.starts) if self.when is None else step > self.when]


@dataclass(frozen=True)
class _Open:
    """A bracket that is not closed yet."""

    place: int
    colons: list[int] = field(default_factory=list)
    bars: list[int] = field(default_factory=list)


def without_loras(text: str, where: str) -> tuple[str, tuple[LoraTag, ...]]:
    r"""The prompt without its <lora:...>, and those; ConfigError names the column of one that cannot be read.

    <lyco:...> is the same. As in A1111, two numbers are those of text encoders and denoiser, which te= and unet= name,
    too. What is not closed is text, and \< is. Of the blanks around one, those on one side stay.
    """
    found: list[LoraTag] = []
    around: list[str] = []
    end = 0
    for match in _TAG.finditer(text):
        if match["kind"] is None:
            continue
        at = f"{where}, column {match.start() + 1}: {cut(match[0], SHOWN)}"
        if match["kind"].lower() not in LORAS:
            raise ConfigError(f"{at}: prompts name LoRAs alone, as in {STYLE}; write \\< for a bracket that is text")
        found.append(replace(_tag(match["told"], match.start() + 1, at), kind=match["kind"]))
        around.append(text[end : match.start()])
        end = match.end()
    return _joined([*around, text[end:]]) if found else text, tuple(found)


def schedule(text: str, steps: int) -> Schedule:
    """What of it holds at which step: [from:to:when], [to:when], [from::when], [a|b].

    `when` is the last step of the first part, a share of the steps where it has a point.
    """
    pieces = _PIECES.findall(text)
    choices, ends = _choices(pieces, steps)
    changes = {steps, *(choice.when for choice in choices.values() if choice.when)}
    if any(choice.when is None for choice in choices.values()):
        changes.update(range(1, steps + 1))
    found: list[tuple[int, str]] = []
    for step in sorted(changes):
        told = "".join(_told(pieces, choices, ends, step))
        if found and found[-1][1] == told:
            found.pop()
        found.append((step, told))
    return tuple(found)


def too_late(text: str, steps: int) -> Iterator[str]:
    """The `when` of each change that comes after the last step."""
    pieces = _PIECES.findall(text)
    choices, ends = _choices(pieces, steps)
    for place, choice in choices.items():
        if choice.when is not None:
            first, second = choice.starts
            told = pieces[ends[second - 1 if second > place + 1 else first] - 2].strip()
            if float(told) > (1 if "." in told else steps):
                yield told


def check(text: str, where: str) -> None:
    """Stop at weights that do not parse, naming the column; at a prompt that is far too long.

    A1111 takes (apple:1.3x) for text without a word. So it is here where what follows the colon begins with no number
    or has spaces in it, as in (at 3:00 pm). <lora:...> may be in it still.
    """
    must_be_text(text, where)
    text = _TAG.sub(lambda tag: " " * len(tag[0]) if tag["kind"] else tag[0], text)
    pieces = list(_PIECES.finditer(text))
    opened: dict[str, list[int]] = {")": [], "]": []}
    for place, piece in enumerate(pieces):
        if piece[0] in _PAIRS:
            opened[_PAIRS[piece[0]]].append(place)
            if sum(map(len, opened.values())) > DEEPEST:
                at = f"{where}, column {piece.start() + 1}"
                raise ConfigError(f"{at}: over {DEEPEST} brackets in each other; write \\( and \\[ for text")
        elif opened.get(piece[0]):
            begin = opened[piece[0]].pop()
            if piece[0] == ")" and place - begin >= 3 and pieces[place - 2][0] == ":":
                begins = pieces[begin].start()
                _check_weight(text[begins : piece.end()], pieces[place - 1][0], f"{where}, column {begins + 1}")


def must_be_text(text: str, where: str) -> None:
    """Stop at a prompt that is far too long to be read, or that is no text."""
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ConfigError(f"{where}: the prompt is not UTF-8; write it so")
    if len(text) > LONGEST:
        raise ConfigError(f"{where}: a prompt of {len(text)} characters, and {LONGEST} are the most; shorten it")


def _joined(pieces: Sequence[str]) -> str:
    """What stood around <lora:...>, as if these had never been there."""
    found: list[str] = []
    for piece in pieces:
        is_apart = bool(found) and not found[-1][-1].isspace()
        if told := piece if is_apart else piece.lstrip():
            found.append(told)
    whole = "".join(found)
    return whole if pieces[-1].strip() else whole.rstrip()


def _tag(told: str, column: int, at: str) -> LoraTag:
    """What stands behind <lora: of a tag."""
    name, *more = (word.strip() for word in told.split(":"))
    if not name:
        raise ConfigError(f"{at}: it names no LoRA; write it as in {STYLE}")
    numbers = [word for word in more if "=" not in word]
    named = {word.partition("=")[0].strip(): word for word in more if "=" in word}
    text, unet = (named.pop(key, "").partition("=")[2].strip() for key in ("te", "unet"))
    text = text or (numbers[0] if numbers else "1")
    unet = unet or (numbers[1] if len(numbers) > 1 else text)
    if len(numbers) > 2 or not all(_is_strength(word) for word in (text, unet)):
        raise ConfigError(f"{at}: its strength should be a number from -{STRONGEST} to {STRONGEST}, as in {STYLE}")
    blocks = [*([f"text={text}"] if text != unet else []), *named.values()]
    return LoraTag(name, unet, ",".join(blocks) or None, column)


def _is_strength(word: str) -> bool:
    return bool(_FULL_NUMBER.fullmatch(word)) and abs(float(word)) <= STRONGEST


def _check_weight(whole: str, told: str, at: str) -> None:
    """Stop at (apple:1.3x), of which this is the part behind the colon, and at (apple:1000)."""
    told = told.strip()
    shown = whole if len(whole) <= SHOWN else f"(...{whole[-SHOWN:]}"
    if _WEIGHT.fullmatch(told):
        if not abs(float(told)) <= HEAVIEST:
            raise ConfigError(f"{at}: {shown}: a weight should be from -{HEAVIEST} to {HEAVIEST}")
    elif _FULL_NUMBER.fullmatch(told):
        raise ConfigError(f"{at}: {shown}: a weight has no exponent; write it as in 1.3")
    elif _ALMOST.fullmatch(told):
        word = whole[1:].partition(":")[0] if len(whole) <= SHOWN else "word"
        remedy = "write \\( and \\) for brackets that are text"
        raise ConfigError(f"{at}: {shown}: a weight should be a number, as in ({word}:1.3); {remedy}")


def _choices(pieces: Sequence[str], steps: int) -> tuple[dict[int, _Choice], dict[int, int]]:
    """{piece that opens it: choice}, and {piece at which a part of a choice ends: the piece behind the choice}.

    Brackets pair only if all in them do, and colons stand where they mean something; those around others are text.
    """
    choices: dict[int, _Choice] = {}
    ends: dict[int, int] = {}
    opened: list[_Open] = []
    for place, piece in enumerate(pieces):
        if piece in _PAIRS:
            opened.append(_Open(place))
        elif piece == ":" and opened:
            opened[-1].colons.append(place)
        elif piece == "|" and opened:
            opened[-1].bars.append(place)
        elif piece in _PAIRS.values():
            pairs = bool(opened) and _PAIRS[pieces[opened[-1].place]] == piece
            one = opened.pop() if pairs else _Open(place)
            step = _step(pieces[place - 1], steps) if one.colons and one.colons[-1] == place - 2 else None
            if piece == "]" and step is not None and len(one.colons) <= 2:
                first, *second = one.colons
                starts = (one.place + 1, first + 1) if second else (first, one.place + 1)
                choices[one.place] = _Choice(starts, step)
                ends |= dict.fromkeys(one.colons, place + 1)
            elif piece == "]" and one.bars and not one.colons:
                choices[one.place] = _Choice((one.place + 1, *(bar + 1 for bar in one.bars)), None)
                ends |= dict.fromkeys((*one.bars, place), place + 1)
            elif not pairs or len(one.colons) > (piece == ")"):
                opened.clear()
    return choices, ends


def _step(told: str, steps: int) -> int | None:
    """The last step that `when` names; None where it is no number."""
    told = told.strip()
    if not _FULL_NUMBER.fullmatch(told):
        return None
    return int(max(0, min(steps, float(told) * steps if "." in told else float(told))))


def _told(pieces: Sequence[str], choices: Mapping[int, _Choice], ends: Mapping[int, int], step: int) -> Iterator[str]:
    """The pieces that hold at a step."""
    place = 0
    while place < len(pieces):
        if place in choices:
            place = choices[place].start(step)
        elif place in ends:
            place = ends[place]
        else:
            yield pieces[place]
            place += 1
