"""Seeing: drawings, references and trained pictures as features, laid out for the measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from sdtune.core.data.cache import Store
from sdtune.core.evaluation.encoders.base import Encoder
from sdtune.core.evaluation.features import features_of, texts_of
from sdtune.core.evaluation.intervals import Array
from sdtune.core.evaluation.measures.base import Places, Seen
from sdtune.core.evaluation.pixels import paired_values
from sdtune.core.evaluation.subject import BASE, Case, Cell, Prompt, Reference, Unit
from sdtune.core.reports import Telling


@dataclass(frozen=True)
class _Features:
    """Features by file."""

    rows: Mapping[Path, int]
    features: Array

    def __call__(self, paths: Sequence[Path]) -> Array:
        """[n, d]"""
        return self.features[[self.rows[path] for path in paths]]


def see(
    case: Case,
    units: Sequence[Unit],
    pictures: Mapping[Cell, tuple[Path, ...]],
    losses: Mapping[Cell, Array],
    encoder: Encoder,
    store: Store,
) -> Telling[dict[Cell, Seen]]:
    """Every cell as measures look at it; `losses` are those on references, [m]."""
    known = [one.path for subject in case.subjects for one in subject.trained]
    drawn = [path for some in pictures.values() for path in some]
    layout = _Layout(case, units)
    every = list(dict.fromkeys([*(one.path for one in case.references), *known, *layout.truths_there, *drawn]))
    features = yield from features_of(every, encoder, store)
    looks = _Features({path: row for row, path in enumerate(every)}, features)
    texts = texts_of([one.plain for one in case.prompts], encoder)[layout.prompt] if encoder.reads_texts else None
    return {cell: _seen(layout, texts, cell, pictures, losses, looks) for cell in pictures}


class _Layout:
    """What is the same for all cells."""

    def __init__(self, case: Case, units: Sequence[Unit]) -> None:
        self.case = case
        self.prompts = [case.prompts[unit.prompt] for unit in units]
        self.prompt = _places([unit.prompt for unit in units])
        is_blank = [one.text for one in case.prompts] == [""]
        self.drawn_anew = _places(range(len(units))) if is_blank else self.prompt
        """[n] what comes and goes together in resamples: prompts, or of a LoRA that draws from nothing seeds"""
        self.kind = numpy.array([one.kind for one in self.prompts])
        self.has_concept = numpy.array([one.has_concept for one in self.prompts], dtype=bool)
        self.of_reference = _places([-1 if one.held_out is None else one.held_out for one in self.prompts])
        self.truths = [one.truth for one in self.prompts]
        self.truths_there = [one for one in self.truths if one is not None]
        self.of_class = _places([-1 if one.of_class is None else one.of_class for one in self.prompts])
        self.reference_classes = _places([-1 if one.of_class is None else one.of_class for one in case.references])

    def of_trained(self, trained: Sequence[Reference]) -> Places:
        """[n] place of the picture that each prompt describes, by content, as several trainings may have had it."""
        places = {one.sha256: place for place, one in reversed(list(enumerate(trained)))}
        return _places([places.get(self._described(prompt), -1) for prompt in self.prompts])

    def _described(self, prompt: Prompt) -> str:
        if prompt.trained is not None:
            subject, place = prompt.trained
            return self.case.subjects[subject].trained[place].sha256
        return "" if prompt.held_out is None else self.case.references[prompt.held_out].sha256


def _seen(
    layout: _Layout,
    texts: Array | None,
    cell: Cell,
    pictures: Mapping[Cell, tuple[Path, ...]],
    losses: Mapping[Cell, Array],
    looks: _Features,
) -> Seen:
    case = layout.case
    trained = case.trained_of(cell)
    drawn, truths = looks(pictures[cell]), layout.truths
    true_looks = numpy.array(
        [looks([truth])[0] if truth else numpy.full(drawn.shape[1], numpy.nan) for truth in truths]
    )
    return Seen(
        drawn=drawn,
        base=looks(pictures[BASE]),
        references=looks([one.path for one in case.references]),
        trained=looks([one.path for one in trained]).reshape(len(trained), drawn.shape[1]),
        prompt=layout.drawn_anew,
        in_distribution=layout.kind == "in-distribution",
        new_context=layout.kind == "new context",
        generic=layout.kind == "generic",
        has_concept=layout.has_concept,
        of_reference=layout.of_reference,
        of_trained=layout.of_trained(trained),
        texts=texts,
        is_base=cell == BASE,
        classes=case.classes,
        of_class=layout.of_class if case.classes else None,
        reference_classes=layout.reference_classes if case.classes else None,
        pictures=pictures[cell],
        reference_pictures=tuple(one.path for one in case.references),
        trained_pictures=tuple(one.path for one in trained),
        values=paired_values(pictures[cell], truths, drawn, true_looks),
        losses=numpy.stack([losses[cell], losses[BASE]], axis=1) if losses else None,
    )


def _places(numbers: Iterable[int]) -> Places:
    return numpy.array(list(numbers), dtype=numpy.int64)
