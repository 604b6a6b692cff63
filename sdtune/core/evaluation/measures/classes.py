"""Class accuracy: whether drawings show the class that their prompt names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy

from sdtune.core.evaluation.intervals import Array
from sdtune.core.evaluation.measures.averages import Average
from sdtune.core.evaluation.measures.base import Mask, Places, Seen
from sdtune.core.evaluation.measures.manifold import harmonic


@dataclass(frozen=True)
class Probe:
    """What tells classes apart: by what stands for each, the nearest of which a picture is of."""

    by: Literal["references", "texts"]
    centres: Array  # [c, d]
    classes: Places  # [c] whose they are

    def guess(self, features: Array) -> Places:
        """[n] the class of each of unit vectors [n, d]."""
        found: Places = self.classes[_scores(features, self.centres).argmax(1)]
        return found


def class_means(features: Array, classes: Places) -> tuple[Array, Places]:
    """([c, d], [c]) the mean of each class that is there (Mensink et al. 2013, doi:10.1109/TPAMI.2013.83, sec. 3.2)."""
    there = numpy.unique(classes[classes >= 0])
    return numpy.array([features[classes == one].mean(0) for one in there]).reshape(len(there), -1), there


def confusion(true: Places, guess: Places, classes: int) -> Places:
    """[c, c] how often what is of a class (row) was taken for one (column)."""
    found = numpy.zeros((classes, classes), dtype=numpy.int64)
    numpy.add.at(found, (true, guess), 1)
    return found


def macro(matrix: Places) -> tuple[float, float, float]:
    """(precision, recall, F1): means over classes that are there or guessed; 0 for one without a right guess."""
    right = numpy.diag(matrix).astype(numpy.float64)
    guessed, there = matrix.sum(0), matrix.sum(1)
    known = guessed + there > 0
    precision = numpy.divide(right, guessed, out=numpy.zeros_like(right), where=guessed > 0)
    recall = numpy.divide(right, there, out=numpy.zeros_like(right), where=there > 0)
    f1 = harmonic(precision, recall)
    return float(precision[known].mean()), float(recall[known].mean()), float(f1[known].mean())


class ClassAccuracy(Average):
    """The share of drawings that name a class and are nearest to its mean reference.

    Where a class has no reference, all are told by the words of their prompts instead (zero-shot): what is near to a
    picture and what is near to a text cannot be compared. Intervals are given the references or texts.
    """

    name: ClassVar[str] = "class_accuracy"
    title: ClassVar[str] = "Class accuracy"
    says: ClassVar[str] = "The share of drawings that show the class that was asked for, rather than another one."
    better: ClassVar[Literal["lower", "higher", "none"]] = "higher"
    share: ClassVar[bool] = True
    order: ClassVar[int] = 15
    source: ClassVar[str] = "Ravuri & Vinyals 2019, arXiv:1905.10887, by class means"

    def chosen(self, seen: Seen) -> Mask:
        """Those that name a class."""
        return _named(seen)

    def each(self, seen: Seen, chosen: Mask) -> Array:  # noqa: ARG002 (the same as are classified)
        """1 where the class that is named is shown."""
        true, guess, _ = _classified(seen)
        found: Array = (true == guess).astype(numpy.float64)
        return found

    def counts(self, seen: Seen) -> tuple[int, int]:
        """Drawings that name a class, and references of which one is known, where these tell."""
        probe = _probe(seen)
        by_references = isinstance(probe, Probe) and probe.by == "references"
        return int(_named(seen).sum()), int((_reference_classes(seen) >= 0).sum()) if by_references else 0

    def refusal(self, seen: Seen) -> str | None:
        """Where there are no classes, or nothing tells them apart."""
        probe = _probe(seen)
        return probe if isinstance(probe, str) else None

    def detail(self, seen: Seen) -> dict[str, Any]:
        """The confusion matrix (rows: asked for; columns: shown), its means over classes, and what chance would be.

        By references also how often these are told right by the others, which drawings can hardly surpass.
        """
        true, guess, probe = _classified(seen)
        matrix = confusion(true, guess, len(seen.classes))
        precision, recall, f1 = macro(matrix)
        found = {
            "by": probe.by,
            "classes": list(seen.classes),
            "confusion": matrix.tolist(),
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "chance": 1 / len(probe.classes),
        }
        return found | ({"references": _left_out(seen)} if probe.by == "references" else {})


def _classified(seen: Seen) -> tuple[Places, Places, Probe]:
    probe = _probe(seen)
    assert isinstance(probe, Probe), "what is refused has no figure"
    named = _named(seen)
    assert seen.of_class is not None, "drawings that name a class know which"
    return seen.of_class[named], probe.guess(seen.drawn[named]), probe


def _named(seen: Seen) -> Mask:
    """[n] drawings that name a class."""
    return numpy.zeros(len(seen.drawn), dtype=numpy.bool_) if seen.of_class is None else seen.of_class >= 0


def _reference_classes(seen: Seen) -> Places:
    unknown = numpy.full(len(seen.references), -1)
    return unknown if seen.reference_classes is None else seen.reference_classes


def _probe(seen: Seen) -> Probe | str:
    """What tells the classes apart, or why nothing does."""
    named = _named(seen)
    if not seen.classes or seen.of_class is None or not named.any():
        return "no class is asked for; it is told of runs that learned classes (--task class)"
    shown = _reference_classes(seen)
    asked = numpy.unique(seen.of_class[named])
    missing = [seen.classes[one] for one in asked if one not in shown]
    if not missing:
        centres, there = class_means(seen.references, shown)
        probe = Probe("references", centres, there)
    elif seen.texts is not None:
        centres, there = class_means(seen.texts[named], seen.of_class[named])
        probe = Probe("texts", centres / numpy.linalg.norm(centres, axis=1, keepdims=True), there)
    else:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return (
            f'no reference shows "{missing[0]}"{more}; hold out pictures of every class, give them by --reference, or'
            " choose an encoder that reads texts by --encoder"
        )
    if len(probe.classes) > 1:
        return probe
    return (
        "only one class is asked for and shown, which cannot be mistaken; raise --prompts-each or give more references"
    )


def _scores(features: Array, centres: Array) -> Array:
    """[n, c] the larger, the nearer."""
    found: Array = features @ centres.T - (centres**2).sum(1) / 2
    return found


def _left_out(seen: Seen) -> float | None:
    """The share of references that the means of all others tell right; None where a class has but one."""
    shown = _reference_classes(seen)
    features, shown = seen.references[shown >= 0], shown[shown >= 0]
    centres, there = class_means(features, shown)
    count = (shown[:, None] == there[None]).sum(0)
    if (count < 2).any():
        return None
    own = numpy.searchsorted(there, shown)
    right = 0
    for one, place in zip(features, own, strict=True):
        without = centres.copy()
        without[place] = (centres[place] * count[place] - one) / (count[place] - 1)
        right += int(_scores(one[None], without).argmax() == place)
    return right / len(features)
