"""The case: all that an evaluation is about, found, read and checked before any weights of a base model are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from sdtune.core.data.captions import clean
from sdtune.core.evaluation.candidates import (
    Lineup,
    Opened,
    Origin,
    folder_notes,
    lineup,
    one_of,
    opened,
    refuse_strengths,
)
from sdtune.core.evaluation.pairs import with_pairs
from sdtune.core.evaluation.prompts import Material, blank, given_prompts, prompts_of, too_few
from sdtune.core.evaluation.references import Pictures, references_of
from sdtune.core.evaluation.subject import Case, Reference, Subject
from sdtune.core.evaluation.trained_pictures import Known, subject_of
from sdtune.core.evaluation.trigger import Trigger, trigger_for
from sdtune.core.families import family_named
from sdtune.core.identity import Identity
from sdtune.core.model_file import MINI
from sdtune.core.reports import Note, Telling
from sdtune.core.sampling.file_names import printable
from sdtune.core.sampling.prompt_lines import is_typed
from sdtune.core.sampling.run_of import MAX_CLIP_SKIP, identified, kind_of
from sdtune.errors import ConfigError, DataError, InputError, LoraError, ModelError, cut
from sdtune.evaluate_config import Evaluate, EvaluateCompare, Protocol

LETTERS = 60
"""of a trigger in a message"""
LONGEST_TRIGGER = 300
"""letters; what is longer in a run's settings is none"""
BUILT_IN = "mini"


def case_of(config: Evaluate) -> Telling[Case]:
    """What `eval` looks at: every LoRA that was kept; raises InputError, with a line for each problem."""

    def every(text: str) -> Opened:
        refuse_strengths(text)
        return opened(text, config.model, every=True)

    line = yield from _line_up(_all_of(dict.fromkeys(config.subjects), every))
    return (yield from _case(config, line))


def case_of_pair(config: EvaluateCompare) -> Telling[tuple[Case, tuple[tuple[int, float], ...]]]:
    """What `eval compare` looks at, and the candidates' places with their strengths: of A, of B, then of the twins.

    A twin is drawn as strongly as A where it does not say otherwise.
    """
    names = (config.first, config.second, *config.twins)
    given = _all_of(names, lambda text: opened(text, config.model, every=False))
    line = yield from _line_up(given)
    usual = 1.0 if given[0].strength is None else given[0].strength
    strengths = [usual, *(one.strength for one in given[1:])]
    drawn = [
        (place, (1.0 if number == 1 else usual) if strength is None else strength)
        for number, (place, strength) in enumerate(zip(line.at, strengths, strict=True))
    ]
    if drawn[0] == drawn[1]:
        raise ConfigError(
            f"{cut(config.first)} and {cut(config.second)} are the same LoRA at the same strength; give another"
        )
    for text, (place, _) in zip(config.twins, drawn[2:], strict=True):
        for (other, _), name in zip(drawn, "AB", strict=False):
            if place == other:
                told = f"--twin {cut(text)}: is {name} itself"
                raise ConfigError(f"{told}; give the run that was trained as A with another --seed")
    return (yield from _case(config, line)), tuple(dict.fromkeys(drawn))


def _all_of(names: Iterable[str], open_one: Callable[[str], Opened]) -> list[Opened]:
    """Each opened; raises InputError with a line for each that cannot be."""
    given, problems = list[Opened](), list[InputError]()
    for text in names:
        try:
            given.append(open_one(text))
        except InputError as error:
            problems.append(error)
    if problems:
        raise one_of(problems)
    return given


def _line_up(given: Sequence[Opened]) -> Telling[Lineup]:
    yield from folder_notes(given)
    return (yield from lineup(given))


def _case(config: Protocol, line: Lineup) -> Telling[Case]:
    """The same of whatever LoRAs."""
    origins = line.origins
    _must_draw_whole_pictures(origins)
    named = config.model or _model_of(origins)
    of_run = next((one.use for one in origins if one.use.model == named != config.model), None)
    identity = identified(named, of_run)
    _must_fit(line, identity)
    clip_skip, differs = _clip_skip(origins)
    known, pictures = yield from _known_pictures(config, origins)
    case = yield from _with_prompts(config, line, known, pictures, identity, named, clip_skip)
    told = (*line.told, *differs, *(text for one in known for text in one.told), *pictures.told, *_unknown(known))
    case = replace(case, told=tuple(dict.fromkeys((*told, *case.told))))
    for text in case.told:
        yield Note(text)
    return case


def _known_pictures(config: Protocol, origins: Sequence[Origin]) -> Telling[tuple[list[Known], Pictures]]:
    """What LoRAs were trained on, and what drawings are laid beside; raises InputError with a line for each problem."""
    known, problems = list[Known](), list[InputError]()
    for origin in origins:
        try:
            known.append((yield from subject_of(origin, config.trained, follow_links=config.follow_links)))
        except InputError as error:
            problems.append(error)
    try:
        found = [one.subject for one in known]
        pictures = yield from references_of(
            found, _wording(origins), config.reference, follow_links=config.follow_links
        )
    except InputError as error:
        lost = [DataError(text) for one in known for text in one.told] if config.reference is None else []
        raise one_of([*problems, *lost, error]) from None
    if problems:
        raise one_of(problems)
    return known, pictures


def _unknown(known: Sequence[Known]) -> tuple[str, ...]:
    """A line where nobody knows what was trained."""
    names = [one.subject.name for one in known if not one.subject.trained]
    if not names:
        return ()
    of = "" if len(known) == 1 else f" of {', '.join(names[:3])}{' and others' if names[3:] else ''}"
    return (f"the trained pictures{of} are not known, so copies cannot be found; --trained FOLDER tells them",)


def _wording(origins: Sequence[Origin]) -> Origin:
    """By whose settings captions are read."""
    return next((one for one in origins if one.run), origins[0])


def _with_prompts(
    config: Protocol,
    line: Lineup,
    known: Sequence[Known],
    pictures: Pictures,
    identity: Identity,
    named: str,
    clip_skip: int | None,
) -> Telling[Case]:
    """The case with its prompts, and what is told of these."""
    kinds = {kind_of(one.told) for one in line.origins}
    subjects = [one.subject for one in known]
    more = [text for one in known for text in one.captions if text]
    classes = _classes(subjects, more) if "class" in kinds else ()
    of_class = {text: place for place, text in enumerate(classes)}
    subjects = [_sorted_out(one, of_class) for one in subjects]
    references = tuple(_classed(one, of_class) for one in pictures.references)
    told: tuple[str, ...] = ()
    trigger = None
    if kinds == {"unconditional"} and not config.prompts:
        prompts, lines = blank()
    else:
        trigger, told = (None, ()) if classes else _trigger(config, line, [*_captions(subjects, references), *more])
        material = Material(
            subjects,
            references,
            trigger,
            config.prompts_each,
            emoji=identity.location == str(MINI),
            classes=classes,
            given=config.reference is not None,
            more=more,
        )
        if config.prompts:
            if is_typed(config.prompts):
                yield Note("reading prompts, one a line; Ctrl-D ends them")
            prompts, lines = given_prompts(config.prompts, material)
        else:
            prompts, lines = prompts_of(material)
        if not classes:
            lines = (*lines, *too_few(prompts, own=config.prompts is not None))
    case = Case(
        model=named,
        subjects=tuple(subjects),
        candidates=line.candidates,
        references=references,
        prompts=prompts,
        trigger=trigger.phrase if trigger else None,
        clip_skip=clip_skip,
        told=(*told, *lines),
        classes=classes,
        references_are_trained=pictures.are_trained,
    )
    return (yield from with_pairs(case, config, _wording(line.origins), trigger))


def _trigger(config: Protocol, line: Lineup, captions: Sequence[str]) -> tuple[Trigger | None, tuple[str, ...]]:
    """(the trigger, how it is known or why not): as given, of the run, of the LoRA, or what captions share."""
    style = any(kind_of(one.told) == "style" for one in line.origins)
    if given := clean(config.trigger or ""):
        trigger = trigger_for(captions, given, style=style)
        if trigger and captions and not any(map(trigger.stands_in, captions)):
            told_of = f'no caption holds the trigger "{cut(given, LETTERS)}"'
            return trigger, (f"{told_of}, so that prompts as in captions do not ask for it; check --trigger",)
        return trigger, ()
    said = [one.use.trigger for one in line.origins if one.use.trigger] or line.triggers
    known = [one for one in map(clean, said) if 0 < len(one) <= LONGEST_TRIGGER]
    if known:
        told = []
        others = sorted({cut(one, LETTERS) for one in known if one.lower() != known[0].lower()})
        if others:
            told.append(
                f'the LoRAs have different triggers; "{cut(known[0], LETTERS)}" stands in all prompts, and not '
                f"{', '.join(others[:3])}; --trigger gives another"
            )
        trigger = trigger_for(captions, known[0], style=style)
        return trigger, tuple(told)
    if trigger := trigger_for(captions, None, style=style):
        shown = cut(trigger.phrase, LETTERS)
        return trigger, (f'trigger: "{shown}", which nearly all captions share; --trigger gives another',)
    hint = f"; the most of its captions had {cut(line.frequent, LETTERS)}" if line.frequent else ""
    told_of = "no trigger is known, so that there are neither concept F1 nor prompts in new contexts"
    return None, (f"{told_of}; give --trigger{hint}",)


def _must_draw_whole_pictures(origins: Sequence[Origin]) -> None:
    problems = [
        f"{one.name}: was trained to paint into masks, and eval draws whole pictures; look at it with "
        f"sdtune sample --run {printable(str(one.place))} --init PICTURE --mask MASK"
        for one in origins
        if kind_of(one.told) == "inpainting"
    ]
    if problems:
        raise ConfigError(*problems)


def _model_of(origins: Sequence[Origin]) -> str:
    """What all of them were trained on; mini where none says so."""
    known = {one.use.model: one for one in reversed(origins) if one.use.model}
    places = {}
    for name, origin in known.items():
        places[identified(name, origin.use).location] = name
    if len(places) > 1:
        each = ", ".join(f"{one.name} {cut(name, LETTERS)}" for name, one in reversed(known.items()))
        raise ConfigError(
            f"the runs were trained on different models ({each}), and drawings of different models cannot be compared; "
            "evaluate them one by one, or give one model for all with --model"
        )
    return next(iter(reversed(known)), BUILT_IN)


def _must_fit(line: Lineup, identity: Identity) -> None:
    """Stop at LoRAs of another family than the model's, and at a model that needs masks."""
    family = family_named(identity.family)
    if identity.inpainting:
        raise ModelError(f"{identity.name}: paints into masks, and eval draws whole pictures; give another --model")
    problems = [
        f"{one.path}: a LoRA for {family_named(made_for).title}, but the model is {family.title}; give its base with "
        "--model"
        for one, made_for in zip(line.candidates, line.families, strict=True)
        if made_for and made_for != family.name
    ]
    if problems:
        raise LoraError(*problems)


def _clip_skip(origins: Sequence[Origin]) -> tuple[int | None, list[str]]:
    """The layer of CLIP that prompts are read from, as in the training; told where that differs."""
    found: dict[int | None, str] = {}
    for one in origins:
        asked = one.use.clip_skip
        if asked is not None and not 1 <= asked <= MAX_CLIP_SKIP:
            problem = f"{one.use.settings}: text.clip_skip is {cut(str(asked))}, which is none of 1 to {MAX_CLIP_SKIP}"
            raise ConfigError(f"{problem}; mend it there")
        if one.run:
            found.setdefault(asked, one.name)
    first = next(iter(found), None)
    if len(found) < 2:
        return first, []
    each = ", ".join(f"{name} {'none' if skip is None else skip}" for skip, name in found.items())
    return first, [f"the runs read captions with different clip_skip ({each}); all prompts are read with the first"]


def _captions(subjects: Sequence[Subject], references: Sequence[Reference]) -> list[str]:
    """Those of trainings; where none are known, those of references."""
    every = [one.caption for subject in subjects for one in (*subject.trained, *subject.held_out) if one.caption]
    return every or [one.caption for one in references if one.caption]


def _classes(subjects: Sequence[Subject], more: Sequence[str]) -> tuple[str, ...]:
    """The captions of runs whose captions are the names of classes."""
    return tuple(sorted({*more, *(one.caption for subject in subjects for one in subject.trained if one.caption)}))


def _classed(picture: Reference, classes: dict[str, int]) -> Reference:
    return replace(picture, of_class=classes.get(picture.caption or "")) if classes else picture


def _sorted_out(subject: Subject, classes: dict[str, int]) -> Subject:
    """Its pictures with their classes."""
    return replace(
        subject,
        trained=tuple(_classed(one, classes) for one in subject.trained),
        held_out=tuple(_classed(one, classes) for one in subject.held_out),
    )
