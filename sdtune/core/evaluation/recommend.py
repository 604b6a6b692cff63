"""Recommending: which LoRA at which strength, why, and in which order several trainings stand.

Three steps, each in plain words on the page. What copies is left out: LoRAs whose drawings of other prompts come out as
trained pictures. What plainly shows less of what was learned than the best does (concept F1, by the paired interval) is
left out. Of the rest the closest to the references is recommended: by the very pictures that prompts describe, where
references have captions, else by CMMD, else by the likeness to all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from sdtune.core.evaluation.intervals import Value
from sdtune.core.evaluation.judging import Marks, difference
from sdtune.core.evaluation.outcome import Ranked
from sdtune.core.evaluation.seeing import trained_of
from sdtune.core.evaluation.subject import BASE, Case, Cell

CLOSENESS = (("truth_similarity", 1.0), ("cmmd", -1.0), ("image_similarity", 1.0), ("concept_f1", 1.0))
"""measures of how close drawings come, the first that is told, and the sign that makes more better"""
COPIES = 2
"""near-copies of trained pictures among drawings of other prompts, from which on a LoRA copies ..."""
COPIED = 0.05
"""... and their share of the drawings that ask for what was learned"""
ALARMS = 10


def rank(case: Case, marks: Mapping[Cell, Marks]) -> list[Ranked]:
    """What is recommended of each subject, the best first."""
    return sorted(
        (_ranked(case, number, marks) for number in range(len(case.subjects))),
        key=lambda one: (one.cell is None, bool(one.cell and copies(marks[one.cell])), -one.score, one.subject),
    )


def copies(marks: Marks) -> bool:
    """Whether a LoRA draws trained pictures where others were asked for."""
    astray = [one for one in marks.copies if not one.own_prompt]
    asked = marks.values.get("copies")
    of = asked.n if isinstance(asked, Value) else 0
    return len(astray) >= COPIES and len(astray) >= COPIED * of


def closeness_of(marks: Mapping[Cell, Marks]) -> tuple[str, float] | None:
    """The measure by which cells are told apart, and its sign; None where none can be told."""
    return next(((name, sign) for name, sign in CLOSENESS if name in marks[BASE].replicates), None)


def alarms_of(case: Case, cell: Cell, marks: Marks) -> tuple[str, ...]:
    """Which trained pictures come out where others were asked for, a line each."""
    trained = trained_of(case, cell)
    found = Counter(one.trained for one in marks.copies if not one.own_prompt)
    return tuple(_alarm(count, trained[place].name) for place, count in found.most_common(ALARMS))


def _alarm(count: int, name: str) -> str:
    return f"{count} drawing{' is a near-copy' if count == 1 else 's are near-copies'} of {name}"


def _ranked(case: Case, subject: int, marks: Mapping[Cell, Marks]) -> Ranked:
    own = [cell for cell in marks if cell.candidate is not None and case.candidates[cell.candidate].subject == subject]
    honest = [cell for cell in own if not copies(marks[cell])]
    shown = _showing(honest or own, marks)
    measure = closeness_of(marks)
    if measure is None:
        return Ranked(subject, shown[0], math.nan, "nothing tells its LoRAs apart; see what is refused, and why")
    name, sign = measure
    best = max(shown, key=lambda cell: (_finite(sign * marks[cell][name]), -cell.strength))
    alarms = alarms_of(case, best, marks[best])
    score = sign * marks[best][name]
    gain = difference(marks[best], marks[BASE], name)
    assert gain is not None, "a measure of the base is one of all"
    better = sign * gain.estimate > 0 and (math.isnan(gain.low) or sign * (gain.low if sign > 0 else gain.high) > 0)
    if not better and not _shows(marks[best]):
        told = "none of its LoRAs comes closer to the references than the base model: train longer, or at a higher --lr"
        return Ranked(subject, None, sign * marks[BASE][name], told, alarms)
    return Ranked(subject, best, score, _told(marks, best, own, honest), alarms)


def _showing(cells: Sequence[Cell], marks: Mapping[Cell, Marks]) -> list[Cell]:
    """Those that do not plainly show less of what was learned than the one that shows the most."""
    if "concept_f1" not in marks[BASE].replicates:
        return list(cells)
    most = max(cells, key=lambda cell: marks[cell]["concept_f1"])
    found = []
    for cell in cells:
        less = difference(marks[cell], marks[most], "concept_f1")
        if less is None or math.isnan(less.high) or less.high >= 0:
            found.append(cell)
    return found


def _shows(marks: Marks) -> bool:
    """Whether what was learned shows in half of the drawings that ask for it."""
    return marks["concept_recall"] >= 0.5


def _told(marks: Mapping[Cell, Marks], cell: Cell, own: Sequence[Cell], honest: Sequence[Cell]) -> str:
    """Why it is recommended, in words."""
    here = marks[cell]
    told = []
    recall, precision = here["concept_recall"], here["concept_precision"]
    if math.isfinite(recall):
        told.append(f"what was learned shows in {recall:.0%} of the drawings that ask for it")
        if math.isfinite(precision) and precision < 0.9:
            told.append(f"and in others, too (precision {precision:.0%})")
    if copies(here):
        told.append("it copies trained pictures, as all of its LoRAs do")
    elif len(honest) < len(own):
        told.append(f"{len(own) - len(honest)} of {len(own)} that copy trained pictures are left out")
    else:
        told.append("no copies")
    return ", ".join(told)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
