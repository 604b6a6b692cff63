"""Measure: one figure of a cell, with its interval; and what it is computed from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy
from numpy.typing import NDArray

from sdtune.core.evaluation.intervals import Array, Refused, Value, Weights, interval, within

Mask = NDArray[numpy.bool_]
Places = NDArray[numpy.int64]
Found = TypeVar("Found")


def once(find: Callable[[Seen], Found]) -> Callable[[Seen], Found]:
    """What is found out of a cell; several measures ask for it, and it is looked up but once."""

    @wraps(find)
    def known(seen: Seen) -> Found:
        if known not in seen.known:
            seen.known[known] = find(seen)
        found: Found = seen.known[known]
        return found

    return known


@dataclass(frozen=True)
class Seen:
    """What measures look at of one cell; drawings of all cells are in the same order.

    Features are unit vectors of one encoder, float64.
    """

    drawn: Array  # [n, d]
    base: Array  # [n, d] the same prompts and noises without the LoRA
    references: Array  # [m, d]
    trained: Array  # [k, d] of the cell's own training; [0, d] where that is not known
    prompt: Places  # [n] which prompt
    in_distribution: Mask  # [n]
    new_context: Mask  # [n]
    generic: Mask  # [n]
    has_concept: Mask  # [n]
    of_reference: Places  # [n] the reference that the prompt describes, -1: none
    of_trained: Places  # [n] likewise the trained picture of the cell's own training
    texts: Array | None = None  # [n, d] of the prompts' plain words, by the same encoder; None: it reads none
    is_base: bool = False
    """whether this is the base model itself"""
    classes: Sequence[str] = ()
    of_class: Places | None = None  # [n] the class that the prompt names, -1: none
    reference_classes: Places | None = None  # [m] likewise what a reference shows
    pictures: Sequence[Path] = ()
    """[n] the drawings' files"""
    reference_pictures: Sequence[Path] = ()
    trained_pictures: Sequence[Path] = ()
    values: Mapping[str, Array] = field(default_factory=dict)
    """[n] each: of drawings, what was measured on pixels (psnr, ssim, perceptual), NaN where that does not apply"""
    losses: Array | None = None  # [m', 2] of references: the loss with the LoRA, and that of the base
    known: dict[Callable[[Seen], Any], Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """what was found out of it by functions that are `once`"""

    @property
    @once
    def fair(self) -> Mask:
        """[n] in-distribution drawings whose prompts describe references, where there are enough; else all of them.

        So drawings and references show the same things, and what sets them apart is how.
        """
        described = self.in_distribution & (self.of_reference >= 0)
        return described if len(numpy.unique(self.prompt[described])) >= FAIR else self.in_distribution


FAIR = 4
"""prompts that describe references, from which on set measures look at these alone"""


@dataclass(frozen=True)
class Told:
    """A figure of a cell, with what it is compared by."""

    value: Value
    replicates: Array  # [R] under the same resamples as those of all cells
    groups: int
    """that were drawn anew for it"""


class Measure(ABC):
    """One figure of a cell. A class a measure; it is found by being in a file of this folder."""

    name: ClassVar[str]
    """in report.json and --fail-under: kid"""
    title: ClassVar[str]
    """on the page: KID"""
    says: ClassVar[str]
    """one sentence for people who never heard of it"""
    better: ClassVar[Literal["lower", "higher", "none"]]
    share: ClassVar[bool] = False
    """whether it is a share of things that are so, between 0 and 1"""
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    """what it can be at all: intervals end there"""
    digits: ClassVar[int] = 2
    order: ClassVar[int] = 100
    """place on the page, the most telling first"""
    source: ClassVar[str] = ""
    """where it is from: "Binkowski et al. 2018, arXiv:1801.01401" """

    @abstractmethod
    def counts(self, seen: Seen) -> tuple[int, int]:
        """(drawings, references) that it is of."""

    @abstractmethod
    def refusal(self, seen: Seen) -> str | None:
        """Why it cannot be told of these, with what would help; None where it can."""

    def doubt(self, seen: Seen) -> str | None:  # noqa: ARG002 (for those that have some)
        """Why it should not be told of these, unless by --force; None where it should. Asked where it can be told."""
        return None

    @abstractmethod
    def replicates(self, seen: Seen, weights: Weights) -> Array:
        """[R] the measure under each row of weights."""

    def detail(self, seen: Seen) -> dict[str, Any]:  # noqa: ARG002 (for those that have some)
        """What belongs to it beside the figure, for report.json: a confusion matrix, a bias."""
        return {}

    def told(self, seen: Seen, weights: Weights, *, force: bool = False) -> Told | Refused:
        """The figure with its interval, and what differences from other cells are computed from."""
        reason = self.refusal(seen) or (None if force else self.doubt(seen))
        if reason is not None:
            return Refused(reason)
        replicates, groups = self.replicates(seen, weights), self.groups(seen)
        low, high = interval(replicates, groups, share=self.share)
        drawings, references = self.counts(seen)
        value = Value(float(replicates[0]), *within((low, high), self.bounds), drawings, references)
        return Told(value, replicates, groups)

    def value(self, seen: Seen, weights: Weights, *, force: bool = False) -> Value | Refused:
        """The figure with its interval alone."""
        told = self.told(seen, weights, force=force)
        return told if isinstance(told, Refused) else told.value

    def groups(self, seen: Seen) -> int:
        """Prompts (or what else is drawn anew in resamples) that it depends on; one less are degrees of freedom."""
        return len(numpy.unique(seen.prompt))
