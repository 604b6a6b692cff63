"""Prompts: what is drawn, of three kinds: as in captions, what was learned in new contexts, and anything without it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.core.evaluation import contexts
from sdtune.core.evaluation.subject import Kind, Prompt, Reference, Subject
from sdtune.core.evaluation.trigger import Trigger
from sdtune.core.sampling.grammar import LONGEST
from sdtune.core.sampling.prompt_lines import lines_of, name_of
from sdtune.errors import ConfigError, DataError, cut

OF_REFERENCES = 0.7
"""share of prompts as in captions that describe references, where there are as many; the others describe trained
pictures, by which copies are found"""
MOST = 3000
"""own prompts: as many as --prompts-each can ask for"""
LETTERS = 60
"""of a prompt in a message"""
ENOUGH = 3
"""prompts of a kind, below which that is told to be few"""
DESCRIBED = 5
"""prompts that describe references, below which likeness to these is a guess"""
_FLAG = re.compile(r"(?:(?<=\s)|^)--[A-Za-z][\w-]*")


@dataclass(frozen=True)
class Material:
    """What prompts are made of."""

    subjects: Sequence[Subject]
    references: Sequence[Reference]
    trigger: Trigger | None
    each: int
    """prompts of each kind"""
    emoji: bool = False
    """whether the model knows emoji alone"""
    classes: Sequence[str] = ()
    given: bool = False
    """whether the captions of references are people's own, and may lack the trigger"""
    more: Sequence[str] = ()
    """captions of trained and held-out pictures that are nowhere"""

    def captions(self) -> list[str]:
        """Of all pictures that are known."""
        every = [*self.references, *(one for subject in self.subjects for one in (*subject.trained, *subject.held_out))]
        return [*(one.caption for one in every if one.caption), *self.more]


def prompts_of(material: Material) -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
    """(prompts of three kinds, what there is to tell of them); raises DataError where nothing says what to draw.

    They follow from captions and contents alone, whatever order files come in.
    """
    trigger, told = material.trigger, list[str]()
    described = _described(material)
    if not described and trigger is None:
        raise DataError(
            "nothing says what to draw, since neither captions nor a trigger are known; give --trigger WORDS, or "
            "--prompts FILE"
        )
    own = [*described, *_filled(material, described)]
    known = [*material.captions(), *(one.plain for one in own)]
    new = _new(material, known)
    plain = contexts.fresh(
        (text for text in contexts.everyday(emoji=material.emoji) if not (trigger and trigger.stands_in(text))),
        [*known, *(one.plain for one in new)],
        material.each,
    )
    found = _once([*own, *new, *(Prompt(text, text, "generic", has_concept=False) for text in plain)])
    if len(own) < min(ENOUGH, material.each):
        few = "1 prompt is" if len(own) == 1 else f"{len(own)} prompts are"
        told.append(
            f"captions hardly differ, so that only {few} as in them; more --seeds, or --prompts, make up for it"
        )
    return tuple(found), tuple(told)


def given_prompts(file: Path, material: Material) -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
    """The user's own, one a line; without a trigger all of them are taken to ask for what was learned."""
    texts = _texts_of(file)
    name, trigger = name_of(file), material.trigger
    pictures = _pictures(material)
    found = []
    for text in texts:
        asks = trigger is None or trigger.stands_in(text)
        shown = pictures.get(_same(text, trigger), _NOWHERE)
        kind: Kind = "in-distribution" if asks else "generic"
        where = (shown.held_out, shown.trained) if asks else (None, None)
        found.append(Prompt(text, plain_of(text, trigger), kind, asks, *where, of_class=shown.of_class))
    told = []
    if trigger is None:
        told.append(f"{name}: no trigger is known, so that all prompts are taken to ask for what was learned")
    elif not any(one.has_concept for one in found):
        raise ConfigError(
            f'--prompts {name}: none of its prompts holds the trigger "{cut(trigger.word, LETTERS)}"; '
            "write some with it, or give another --trigger"
        )
    elif all(one.has_concept for one in found):
        told.append(f"{name}: all prompts hold the trigger, so that nothing tells what is drawn without it")
    return tuple(found), tuple(told)


def too_few(prompts: Sequence[Prompt], *, own: bool) -> tuple[str, ...]:
    """A line where hardly any prompt describes a reference, by which LoRAs are told apart best; `own`: of --prompts."""
    count = sum(one.has_concept and one.held_out is not None for one in prompts)
    if count >= DESCRIBED:
        return ()
    few = (
        "no prompt describes"
        if not count
        else "only 1 prompt describes"
        if count == 1
        else f"only {count} prompts describe"
    )
    remedy = "--prompts with captions of references" if own else "a higher --prompts-each, or references with captions"
    return (
        f"{few} a reference, so that how close drawings come to what was to be learned is a guess; {remedy}, says more",
    )


def blank() -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
    """The one prompt of a LoRA that draws from nothing."""
    told = (
        "captions were blank in the training, so that one empty prompt is all there is: every drawing is another seed"
    )
    return (Prompt("", "", "in-distribution", has_concept=True),), (f"{told}; --seeds 20 or more tell something",)


def _described(material: Material) -> list[Prompt]:
    """Prompts that describe pictures: references first, then trained ones, of each subject its share."""
    if material.classes:
        return _of_classes(material)
    first = _once(_of_references(material))
    texts = {one.text for one in first}
    second = [one for one in _once([*_of_trained(material), *_of_gone(material)]) if one.text not in texts]
    count = max(round(OF_REFERENCES * material.each), material.each - len(second))
    chosen = first[:count]
    return [*chosen, *second[: material.each - len(chosen)]]


def _of_references(material: Material) -> list[Prompt]:
    """One for each that has a caption."""
    of_trained = {
        one.sha256: (number, place)
        for number, subject in reversed(list(enumerate(material.subjects)))
        for place, one in enumerate(subject.trained)
    }
    found = [_prompt(material, one, place, of_trained.get(one.sha256)) for place, one in enumerate(material.references)]
    return _sorted(found, material.references, material.trigger)


def _of_trained(material: Material) -> list[Prompt]:
    """One for each trained picture that has a caption and is no reference, of each subject in turn."""
    references = {one.sha256 for one in material.references}
    rows = []
    for number, subject in enumerate(material.subjects):
        pictures = [(place, one) for place, one in enumerate(subject.trained) if one.sha256 not in references]
        found = [_prompt(material, one, None, (number, place)) for place, one in pictures]
        rows.append(_sorted(found, [one for _, one in pictures], material.trigger))
    return _in_turn(rows)


def _of_gone(material: Material) -> list[Prompt]:
    """One for each caption whose picture is nowhere."""
    trigger = material.trigger
    return [
        Prompt(text, plain_of(text, trigger), "in-distribution", trigger is None or trigger.stands_in(text))
        for text in sorted(material.more)
    ]


def _prompt(
    material: Material, picture: Reference, held_out: int | None, trained: tuple[int, int] | None
) -> Prompt | None:
    """None of a picture of which nothing is said."""
    if not picture.caption:
        return None
    trigger = material.trigger
    lacks = held_out is not None and material.given and trigger is not None
    text = trigger.asking(picture.caption) if lacks and trigger else picture.caption
    asks = trigger is None or trigger.stands_in(text)
    return Prompt(text, plain_of(text, trigger), "in-distribution", asks, held_out, trained)


def _sorted(prompts: Sequence[Prompt | None], pictures: Sequence[Reference], trigger: Trigger | None) -> list[Prompt]:
    """By the contents of the pictures, those that ask for what was learned first."""
    both = [
        (not one.has_concept, picture.sha256, one)
        for one, picture in zip(prompts, pictures, strict=True)
        if one is not None
    ]
    return [one for *_, one in sorted(both, key=lambda row: (trigger is not None and row[0], row[1]))]


def _in_turn(rows: Sequence[Sequence[Prompt]]) -> list[Prompt]:
    """One of each row after the other."""
    longest = max((len(row) for row in rows), default=0)
    return [row[place] for place in range(longest) for row in rows if place < len(row)]


def _of_classes(material: Material) -> list[Prompt]:
    """One for each class, as its captions are."""
    pictures = _pictures(material)
    found = []
    for number, text in enumerate(material.classes):
        shown = pictures.get(text.lower(), _NOWHERE)
        found.append(Prompt(text, text, "in-distribution", True, shown.held_out, shown.trained, number))
    return found


@dataclass(frozen=True)
class _Shown:
    """The pictures that a caption is of."""

    held_out: int | None = None
    trained: tuple[int, int] | None = None
    of_class: int | None = None


_NOWHERE = _Shown()


def _pictures(material: Material) -> dict[str, _Shown]:
    """By the caption as it is compared."""
    found: dict[str, _Shown] = {}
    for number, subject in enumerate(material.subjects):
        for place, one in enumerate(subject.trained):
            if one.caption:
                found.setdefault(_same(one.caption, material.trigger), _Shown(None, (number, place), one.of_class))
    for place, one in reversed(list(enumerate(material.references))):
        if one.caption:
            key = _same(one.caption, material.trigger)
            found[key] = _Shown(place, found.get(key, _NOWHERE).trained, one.of_class)
    return found


def _texts_of(file: Path) -> list[str]:
    """The lines of a file, each once; raises ConfigError with a line for each problem."""
    lines, name = lines_of((), file, flags=False), name_of(file)
    problems = [
        f"{line.where}: has a flag of its own ({flag[0]}), while eval draws all prompts alike; leave it out"
        if (flag := _FLAG.search(line.text))
        else f"{line.where}: a prompt of {len(line.text):,} characters, and {LONGEST:,} are the most; shorten it"
        for line in lines
        if _FLAG.search(line.text) or len(line.text) > LONGEST
    ]
    if problems:
        raise ConfigError(*problems[:10], *([f"and {len(problems) - 10} more like these"] if problems[10:] else []))
    texts = list(dict.fromkeys(line.text for line in lines))
    if len(texts) > MOST:
        raise ConfigError(
            f"--prompts {name}: holds {len(texts):,} prompts, and eval draws at most {MOST:,}; give fewer"
        )
    return texts


def _same(text: str, trigger: Trigger | None) -> str:
    return plain_of(text, trigger).lower()


def _filled(material: Material, described: Sequence[Prompt]) -> list[Prompt]:
    """Prompts that are as near to the training as is known, where captions do not suffice."""
    trigger, missing = material.trigger, material.each - len(described)
    if trigger is None or missing <= 0 or material.classes:
        return []
    if not trigger.is_style:
        texts = [one.replace("{}", trigger.phrase) for one in contexts.FRAMINGS]
    elif described:
        return []
    else:
        texts = [
            trigger.asking(one) for one in contexts.fresh(contexts.things(emoji=material.emoji), [], material.each)
        ]
    there = {one.text.lower() for one in described}
    return [
        Prompt(text, plain_of(text, trigger), "in-distribution", has_concept=True)
        for text in texts
        if text.lower() not in there
    ][:missing]


def _new(material: Material, known: Sequence[str]) -> list[Prompt]:
    """What was learned, in contexts that no caption has."""
    trigger = material.trigger
    if material.classes:
        places = contexts.fresh(contexts.places(emoji=material.emoji), known, material.each)
        return [
            Prompt(text, text, "new context", has_concept=True, of_class=number % len(material.classes))
            for number, place in enumerate(places)
            for text in [f"{material.classes[number % len(material.classes)]} {place}"]
        ]
    if trigger is None:
        return []
    ask: Callable[[str], str] = trigger.asking if trigger.is_style else trigger.where
    every = contexts.things if trigger.is_style else contexts.places
    found = contexts.fresh(every(emoji=material.emoji), known, material.each)
    return [
        Prompt(text, plain_of(text, trigger), "new context", has_concept=True) for text in (ask(one) for one in found)
    ]


def plain_of(text: str, trigger: Trigger | None) -> str:
    """A prompt in words that are nobody's own."""
    return trigger.without(text) if trigger else text


def _once(prompts: Sequence[Prompt]) -> list[Prompt]:
    return list({one.text: one for one in reversed(prompts)}.values())[::-1]
