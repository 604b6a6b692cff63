"""Prompts: what is drawn, of three kinds: as in captions, what was learned in new contexts, and anything without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.core.evaluation import contexts
from sdtune.core.evaluation.subject import Kind, Prompt, Reference, Subject
from sdtune.core.evaluation.trigger import Trigger
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
    lines = lines_of((), file)
    name = name_of(file)
    problems = [
        f"{line.where}: has flags of its own, while eval draws all prompts alike; leave them out"
        for line in lines
        if any((line.negative, line.width, line.height, line.guidance, line.steps)) or line.seed is not None
    ]
    if problems:
        raise ConfigError(*problems[:10], *([f"and {len(problems) - 10} more like these"] if problems[10:] else []))
    texts = list(dict.fromkeys(line.text for line in lines))
    if len(texts) > MOST:
        raise ConfigError(
            f"--prompts {name}: holds {len(texts):,} prompts, and eval draws at most {MOST:,}; give fewer"
        )
    trigger = material.trigger
    pictures = _pictures(material)
    found = []
    for text in texts:
        asks = trigger is None or trigger.stands_in(text)
        held_out, trained, of_class = pictures.get(_same(text, trigger), (None, None, None))
        kind: Kind = "in-distribution" if asks else "generic"
        where = (held_out, trained) if asks else (None, None)
        found.append(Prompt(text, _plain(text, trigger), kind, asks, *where, of_class=of_class))
    told = []
    if trigger is None:
        told.append(f"{name}: no trigger is known, so that all prompts are taken to ask for what was learned")
    elif not any(one.has_concept for one in found):
        raise ConfigError(
            f'--prompts {name}: none of its {len(found)} prompts holds the trigger "{cut(trigger.word, LETTERS)}"; '
            "write some with it, or give another --trigger"
        )
    elif all(one.has_concept for one in found):
        told.append(f"{name}: all prompts hold the trigger, so that nothing tells what is drawn without it")
    return tuple(found), tuple(told)


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
    trigger = material.trigger
    of_trained = {
        one.sha256: (number, place)
        for number, subject in reversed(list(enumerate(material.subjects)))
        for place, one in enumerate(subject.trained)
    }
    held_out = [
        _prompt(material, one, place, of_trained.get(one.sha256)) for place, one in enumerate(material.references)
    ]
    trained = [
        [_prompt(material, one, None, (number, place)) for place, one in enumerate(subject.trained)]
        for number, subject in enumerate(material.subjects)
    ]
    shas = {one.sha256 for one in material.references}
    first = _sorted(held_out, [one.sha256 for one in material.references], trigger)
    rows = [
        _sorted(prompts, [picture.sha256 for picture in subject.trained], trigger)
        for prompts, subject in zip(trained, material.subjects, strict=True)
    ]
    second = [
        one
        for one in _in_turn(rows)
        if one.trained and material.subjects[one.trained[0]].trained[one.trained[1]].sha256 not in shas
    ]
    first = _once(first)
    texts = {one.text for one in first}
    gone = [
        Prompt(text, _plain(text, trigger), "in-distribution", trigger is None or trigger.stands_in(text))
        for text in sorted(material.more)
    ]
    second = [one for one in _once([*second, *gone]) if one.text not in texts]
    count = max(round(OF_REFERENCES * material.each), material.each - len(second))
    chosen = first[:count]
    return [*chosen, *second[: material.each - len(chosen)]]


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
    return Prompt(text, _plain(text, trigger), "in-distribution", asks, held_out, trained)


def _sorted(prompts: Sequence[Prompt | None], shas: Sequence[str], trigger: Trigger | None) -> list[Prompt]:
    """By the contents of the pictures, those that ask for what was learned first."""
    both = [(not one.has_concept, sha, one) for one, sha in zip(prompts, shas, strict=True) if one is not None]
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
        held_out, trained, _ = pictures.get(text.lower(), (None, None, None))
        found.append(Prompt(text, text, "in-distribution", True, held_out, trained, number))
    return found


def _pictures(material: Material) -> dict[str, tuple[int | None, tuple[int, int] | None, int | None]]:
    """{caption as it is compared: places of the pictures that it is of}."""
    found: dict[str, tuple[int | None, tuple[int, int] | None, int | None]] = {}
    for number, subject in enumerate(material.subjects):
        for place, one in enumerate(subject.trained):
            if one.caption:
                found.setdefault(_same(one.caption, material.trigger), (None, (number, place), one.of_class))
    for place, one in reversed(list(enumerate(material.references))):
        if one.caption:
            key = _same(one.caption, material.trigger)
            found[key] = (place, found.get(key, (None, None, None))[1], one.of_class)
    return found


def _same(text: str, trigger: Trigger | None) -> str:
    return _plain(text, trigger).lower()


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
        Prompt(text, _plain(text, trigger), "in-distribution", has_concept=True)
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
        Prompt(text, _plain(text, trigger), "new context", has_concept=True) for text in (ask(one) for one in found)
    ]


def _plain(text: str, trigger: Trigger | None) -> str:
    return trigger.without(text) if trigger else text


def _once(prompts: Sequence[Prompt]) -> list[Prompt]:
    return list({one.text: one for one in reversed(prompts)}.values())[::-1]
