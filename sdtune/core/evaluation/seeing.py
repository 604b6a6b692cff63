"""Seeing: drawings, references and trained pictures as features, laid out for the measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
class _Looks:
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
    pairs: Mapping[int, Path],
    losses: Mapping[Cell, Array],
    encoder: Encoder,
    store: Store,
) -> Telling[dict[Cell, Seen]]:
    """Every cell as measures look at it; `pairs` are the true pictures of prompts, `losses` those on references [m]."""
    known = [one.path for subject in case.subjects for one in subject.trained]
    drawn = [path for some in pictures.values() for path in some]
    every = list(dict.fromkeys([*(one.path for one in case.references), *known, *pairs.values(), *drawn]))
    features = yield from features_of(every, encoder, store)
    looks = _Looks({path: row for row, path in enumerate(every)}, features)
    texts = texts_of([one.plain for one in case.prompts], encoder) if encoder.reads_texts else None
    layout = _Layout(case, units, texts)
    return {cell: _seen(layout, cell, pictures, pairs, losses.get(cell), losses.get(BASE), looks) for cell in pictures}


class _Layout:
    """What is the same for all cells."""

    def __init__(self, case: Case, units: Sequence[Unit], texts: Array | None) -> None:
        self.case = case
        self.prompts = [case.prompts[unit.prompt] for unit in units]
        self.prompt = _places([unit.prompt for unit in units])
        self.kind = numpy.array([one.kind for one in self.prompts])
        self.has_concept = numpy.array([one.has_concept for one in self.prompts], dtype=bool)
        self.of_reference = _places([-1 if one.held_out is None else one.held_out for one in self.prompts])
        self.texts = None if texts is None else texts[self.prompt]
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
    cell: Cell,
    pictures: Mapping[Cell, tuple[Path, ...]],
    pairs: Mapping[int, Path],
    losses: Array | None,
    base_losses: Array | None,
    looks: _Looks,
) -> Seen:
    case = layout.case
    trained = trained_of(case, cell)
    drawn, truths = looks(pictures[cell]), [pairs.get(int(number)) for number in layout.prompt]
    true_looks = numpy.array(
        [looks([truth])[0] if truth else numpy.full(drawn.shape[1], numpy.nan) for truth in truths]
    )
    return Seen(
        drawn=drawn,
        base=looks(pictures[BASE]),
        references=looks([one.path for one in case.references]),
        trained=looks([one.path for one in trained]).reshape(len(trained), drawn.shape[1]),
        prompt=layout.prompt,
        in_distribution=layout.kind == "in-distribution",
        new_context=layout.kind == "new context",
        generic=layout.kind == "generic",
        has_concept=layout.has_concept,
        of_reference=layout.of_reference,
        of_trained=layout.of_trained(trained),
        texts=layout.texts,
        is_base=cell == BASE,
        classes=case.classes,
        of_class=layout.of_class if case.classes else None,
        reference_classes=layout.reference_classes if case.classes else None,
        pictures=pictures[cell],
        reference_pictures=tuple(one.path for one in case.references),
        trained_pictures=tuple(one.path for one in trained),
        values=paired_values(pictures[cell], truths, drawn, true_looks),
        losses=None if losses is None or base_losses is None else numpy.stack([losses, base_losses], axis=1),
    )


def trained_of(case: Case, cell: Cell) -> tuple[Reference, ...]:
    """The pictures that a cell may copy: those of its own training; of the base model those of all."""
    if cell.candidate is not None:
        return case.subjects[case.candidates[cell.candidate].subject].trained
    return tuple(one for subject in case.subjects for one in subject.trained)


def _places(numbers: Sequence[int]) -> Places:
    return numpy.array(numbers, dtype=numpy.int64)
