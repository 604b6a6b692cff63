"""Recommending: which LoRA at which strength, why, and in which order several trainings stand.

Three steps, each told on the page. What copies is left out: LoRAs whose drawings of other prompts come out as trained
pictures. What plainly shows less of what was learned than the best does (concept F1, by the paired interval) is left
out. Of the rest the closest to the references is recommended: by the very pictures that prompts describe where
references have captions, else by CMMD, else by the likeness to all of them (docs/science.md has how often that is the
best of all on pictures that were not looked at).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from sdtune.core.evaluation.intervals import Value
from sdtune.core.evaluation.judging import Marks, difference
from sdtune.core.evaluation.measures import measures
from sdtune.core.evaluation.outcome import Ranked
from sdtune.core.evaluation.seeing import trained_of
from sdtune.core.evaluation.subject import BASE, Case, Cell

CLOSENESS = ("truth_similarity", "cmmd", "image_similarity", "concept_f1")
"""measures of how close drawings come, the first that is told"""
COPIES = 2
"""near-copies of trained pictures among drawings of other prompts, from which on a LoRA copies ..."""
COPIED = 0.05
"""... and their share of the drawings that ask for something else"""
STRONG = 0.8
"""strength from which on a LoRA is used as it was trained, or nearly"""
ALARMS = 10
SHOWS = 0.3
"""of concept F1: mini has 0.33 after 40 steps, at strength 1"""
BLEEDS = 0.8
"""of precision, below which it is told"""


def rank(case: Case, marks: Mapping[Cell, Marks]) -> list[Ranked]:
    """What is recommended of each subject, the best first."""
    found = [_ranked(case, number, marks) for number in range(len(case.subjects))]
    copying = [_is_copying(_own(case, number, marks), marks) for number in range(len(case.subjects))]
    return sorted(found, key=lambda one: (one.cell is None, copying[one.subject], -_finite(one.score), one.subject))


def copies(marks: Marks) -> bool:
    """Whether a LoRA draws trained pictures where others were asked for."""
    astray = sum(not one.own_prompt for one in marks.copies)
    asked = marks.values.get("copies")
    return astray >= COPIES and astray >= COPIED * (asked.n if isinstance(asked, Value) else 0)


def alarms_of(case: Case, cell: Cell, marks: Marks) -> tuple[str, ...]:
    """Which trained pictures come out where others were asked for, a line each."""
    trained = trained_of(case, cell)
    found = Counter(one.trained for one in marks.copies if not one.own_prompt)
    return tuple(_alarm(count, trained[place].name) for place, count in found.most_common(ALARMS))


def _alarm(count: int, name: str) -> str:
    return f"{count} drawing{' is a near-copy' if count == 1 else 's are near-copies'} of {name}"


def _own(case: Case, subject: int, marks: Mapping[Cell, Marks]) -> list[Cell]:
    return [cell for cell in marks if cell.candidate is not None and case.candidates[cell.candidate].subject == subject]


def _is_copying(own: Sequence[Cell], marks: Mapping[Cell, Marks]) -> bool:
    """Whether most of its LoRAs copy, used as they were trained."""
    strong = [cell for cell in own if cell.strength >= STRONG] or list(own)
    return 2 * sum(copies(marks[cell]) for cell in strong) >= len(strong)


def _ranked(case: Case, subject: int, marks: Mapping[Cell, Marks]) -> Ranked:
    own = _own(case, subject, marks)
    honest = [cell for cell in own if not copies(marks[cell])]
    shown = _showing(honest or own, marks)
    alarms = _worst(case, [cell for cell in own if cell not in honest], marks)
    name = next((name for name in CLOSENESS if name in marks[BASE].replicates), None)
    if name is None:
        return Ranked(
            subject, shown[0], math.nan, "nothing tells its LoRAs apart; see what is refused, and why", alarms
        )
    sign = -1.0 if measures()[name].better == "lower" else 1.0
    best = max(shown, key=lambda cell: (_finite(sign * marks[cell][name]), -cell.strength))
    if not _has_learned(marks, best):
        told = "nothing tells its drawings from the base model's: train longer, or at a higher --lr"
        return Ranked(subject, None, sign * marks[BASE][name], told, alarms)
    return Ranked(subject, best, sign * marks[best][name], _told(marks, best, name, own, honest), alarms)


def _showing(cells: Sequence[Cell], marks: Mapping[Cell, Marks]) -> list[Cell]:
    """Those that do not plainly show less of what was learned than the one that shows the most."""
    if "concept_f1" not in marks[BASE].replicates:
        return list(cells)
    most = max(cells, key=lambda cell: _finite(marks[cell]["concept_f1"]))
    found = []
    for cell in cells:
        less = difference(marks[cell], marks[most], "concept_f1")
        if less is None or math.isnan(less.high) or less.high >= 0:
            found.append(cell)
    return found


def _has_learned(marks: Mapping[Cell, Marks], cell: Cell) -> bool:
    """Whether what was learned shows, or drawings come closer to the references than the base model's past the noise.

    The base's own concept F1 is 0 whatever it draws, so no difference from that says anything.
    """
    if marks[cell]["concept_f1"] >= SHOWS:
        return True
    for name in CLOSENESS[:-1]:
        gain = difference(marks[cell], marks[BASE], name)
        if gain is None or not math.isfinite(gain.low):
            continue
        if gain.high < 0 if measures()[name].better == "lower" else gain.low > 0:
            return True
    return False


def _told(marks: Mapping[Cell, Marks], cell: Cell, name: str, own: Sequence[Cell], honest: Sequence[Cell]) -> str:
    """Why it is recommended, in words."""
    here, measure = marks[cell], measures()[name]
    closest = "closest to the references" if len(own) > 1 else "beside the references"
    figures = f"{here[name]:.{measure.digits}f}, base {marks[BASE][name]:.{measure.digits}f}"
    told = [f"{closest} ({measure.title} {figures})"]
    recall, precision = here["concept_recall"], here["concept_precision"]
    if math.isfinite(recall):
        told.append(f"what was learned shows in {recall:.0%} of the drawings that ask for it")
        if precision < BLEEDS:
            told.append(f"but in others, too (precision {precision:.0%})")
    if "copies" not in here.replicates:
        told.append("copies were not looked for")
    elif copies(here):
        told.append("but it copies trained pictures, as all of its LoRAs do")
    elif len(honest) < len(own):
        told.append(f"{len(own) - len(honest)} of {len(own)} that copy trained pictures are left out")
    else:
        told.append("no sign of copying")
    return ", ".join(told)


def _worst(case: Case, copying: Sequence[Cell], marks: Mapping[Cell, Marks]) -> tuple[str, ...]:
    """The alarms of the LoRA that copies the most, with its strength."""
    if not copying:
        return ()
    worst = max(copying, key=lambda cell: sum(not one.own_prompt for one in marks[cell].copies))
    assert worst.candidate is not None, "the base model copies nothing"
    where = f"{case.candidates[worst.candidate].name} at strength {worst.strength:g}"
    return tuple(f"{where}: {line}" for line in alarms_of(case, worst, marks[worst]))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
