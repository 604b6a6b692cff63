"""Details: what was found beside a figure, in words; what is for programs alone is in report.json."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sdtune.core.evaluation.contact import escaped
from sdtune.core.evaluation.figures import begun
from sdtune.core.evaluation.measures import Measure
from sdtune.core.html_page import text

SHARES = {
    "references_recognised": "references that show what was learned, as it is told here",
    "base_drawings_past_the_middle": "drawings of the base model that would be taken for it",
    "of_the_same": "the figure of drawings that are no different from the references",
    "chance": "by chance alone",
    "references": "references whose class is told right",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "nearest_neighbour_accuracy": "accuracy by nearest neighbours",
}
WORDS = SHARES | {
    "true_positives": "drawings that should show what was learned, and do",
    "false_negatives": "drawings that should show it, and do not",
    "false_positives": "drawings that should not show it, and do",
    "true_negatives": "drawings that should not show it, and do not",
    "drawings_of_references": "drawings whose prompt describes a reference",
    "recited": "drawings that are like the picture whose caption was drawn",
    "of_trained_captions": "drawings from captions of trained pictures",
    "base": "the base model, of the same prompts",
    "pairs": "pairs of drawings that are laid beside each other",
    "by": "classes are told apart by",
    "bias": "two halves of the references, which should be 0 apart",
}
"""by name in report.json"""
UNTOLD = ("by_trained", "from_base_to_references", "k", "drawings", "bias_is", "classes", "confusion")
"""shown elsewhere on the page, or for programs alone"""


def details(found: Mapping[str, Mapping[str, Any]], measures: Sequence[Measure]) -> Iterator[str]:
    """All of one LoRA."""
    for measure in measures:
        beside = found.get(measure.name, {})
        rows, classes, confusion = list(_rows(beside)), beside.get("classes"), beside.get("confusion")
        if not rows and not confusion:
            continue
        yield f"<h3>{text(begun(measure.title))}</h3>\n"
        if classes and confusion:
            yield from _confusion(classes, confusion)
        yield from table(rows)


def table(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Names and values."""
    if rows:
        yield '<table class="pairs-of">\n'
        for name, value in rows:
            yield f'<tr><th dir="auto">{escaped(name)}</th><td dir="auto">{escaped(value)}</td></tr>\n'
        yield "</table>\n"


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, words in WORDS.items():
        value = found.get(name)
        if isinstance(value, float):
            if math.isfinite(value):
                yield words, f"{value:.0%}" if name in SHARES else f"{value:.3g}"
        elif value is not None:
            yield words, f"{value:,}" if isinstance(value, int) else str(value)


def _confusion(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> Iterator[str]:
    heads = "".join(f'<th scope="col" dir="auto">{escaped(name)}</th>' for name in classes)
    yield '<p class="soft">Rows: what was asked for; columns: what was taken to be shown.</p>\n'
    yield '<div class="scroll" tabindex="0"><table class="figures">\n'
    yield f"<thead><tr><td></td>{heads}</tr></thead>\n<tbody>\n"
    for place, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        cells = "".join(
            f"<td><b>{count:,}</b></td>" if place == column else f"<td>{count:,}</td>"
            for column, count in enumerate(row)
        )
        yield f'<tr><th scope="row" dir="auto">{escaped(name)}</th>{cells}</tr>\n'
    yield "</tbody>\n</table></div>\n"
