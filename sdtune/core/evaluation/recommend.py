"""Recommending: which LoRA at which strength, why, and in which order several trainings stand.

LoRAs that copy are left out: those whose drawings come out as trained pictures though something else was asked for. Of
the rest the closest to the references is recommended (`closeness`). How sure that is, is told with it: how many others
cannot be told from it, and where the figures of so few drawings tell nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from sdtune.core.evaluation.judging import Marks, difference, is_better
from sdtune.core.evaluation.measures.base import Told
from sdtune.core.evaluation.outcome import Ranked
from sdtune.core.evaluation.subject import BASE, Case, Cell

CLOSENESS = "closeness"
SHOWS = 0.3
"""of concept F1, from which on something was learned: mini has 0.33 after 40 steps, at strength 1"""
COPIES = 2
"""near-copies of trained pictures though another was asked for, from which on a LoRA copies ..."""
COPIED = 0.05
"""... and their share of the drawings that ask for something else"""
USED = (0.8, 1.0)
"""strengths at which a LoRA is used as it was trained, or nearly"""
ALARMS = 10
BLEEDS = 0.8
"""of concept precision, below which it is told"""
NOTABLE = 0.03
"""of closeness: a gain that is a third of what 800 steps bring on mini; where the interval leaves room for it, drawings
are too few to say that nothing was learned"""
FORGOTTEN = 1.15
"""times the least loss on references of its cells at the same strength, from which on it is told"""


def rank(case: Case, marks: Mapping[Cell, Marks]) -> list[Ranked]:
    """What is recommended of each subject, the best first."""
    numbers = range(len(case.subjects))
    copying = [_mostly_copies(_own(case, number, marks), marks) for number in numbers]
    found = [_ranked(case, number, marks) for number in numbers]
    return sorted(found, key=lambda one: (one.cell is None, copying[one.subject], -_finite(one.score), one.subject))


def is_copying(marks: Marks) -> bool:
    """Whether a LoRA draws trained pictures where others were asked for."""
    astray = sum(one.astray for one in marks.copies)
    asked = marks.told.get("copies")
    return astray >= COPIES and astray >= COPIED * (asked.value.n if isinstance(asked, Told) else 0)


def alarms_of(case: Case, cell: Cell, marks: Marks) -> tuple[str, ...]:
    """Which trained pictures come out where others were asked for, a line each."""
    trained = case.trained_of(cell)
    found = Counter(one.trained for one in marks.copies if one.astray)
    return tuple(_alarm(count, trained[place].name) for place, count in found.most_common(ALARMS))


def _alarm(count: int, name: str) -> str:
    return f"{count} drawing{' is a near-copy' if count == 1 else 's are near-copies'} of {name}"


def _own(case: Case, subject: int, marks: Mapping[Cell, Marks]) -> list[Cell]:
    return [cell for cell in marks if cell.candidate is not None and case.candidates[cell.candidate].subject == subject]


def _mostly_copies(own: Sequence[Cell], marks: Mapping[Cell, Marks]) -> bool:
    """Whether half of its LoRAs copy, used as they were trained."""
    used = [cell for cell in own if USED[0] <= cell.strength <= USED[1]] or list(own)
    return bool(used) and 2 * sum(is_copying(marks[cell]) for cell in used) >= len(used)


def _ranked(case: Case, subject: int, marks: Mapping[Cell, Marks]) -> Ranked:
    own = _own(case, subject, marks)
    if not own:
        return Ranked(subject, None, math.nan, "its LoRAs are the very ones of another that is looked at")
    honest = [cell for cell in own if not is_copying(marks[cell])]
    alarms = _worst(case, [cell for cell in own if cell not in honest], marks)
    if not isinstance(marks[BASE].told[CLOSENESS], Told):
        return Ranked(
            subject, None, math.nan, "no prompt asks for what was learned, so that nothing can be told", alarms
        )
    some = honest or own
    near = [cell for cell in some if not _is_farther(marks, cell)]
    best = max(near or some, key=lambda cell: (_finite(marks[cell][CLOSENESS]), -cell.strength))
    if not near:
        told = (
            "all its drawings are further from the references than the base model's (closeness "
            f"{marks[best][CLOSENESS]:.2f}, base {marks[BASE][CLOSENESS]:.2f}): what it learned spoils them; give "
            "lower --strengths, or train with fewer steps or a lower --lr"
        )
        return Ranked(subject, None, marks[BASE][CLOSENESS], told, alarms)
    learned = [cell for cell in near if _has_learned(marks, cell)]
    if not learned and not _may_have_learned(marks, best):
        told = (
            "nothing tells its drawings from the base model's (closeness "
            f"{marks[best][CLOSENESS]:.2f}, base {marks[BASE][CLOSENESS]:.2f}): train longer, or at a higher --lr"
        )
        return Ranked(subject, None, marks[BASE][CLOSENESS], told, alarms)
    reasons = _reasons(marks, best, own, honest)
    return Ranked(subject, best, marks[best][CLOSENESS], "; ".join(reasons), alarms, reasons)


def _is_farther(marks: Mapping[Cell, Marks], cell: Cell) -> bool:
    """Whether drawings are plainly further from the references than the base model's, and not by a trifle."""
    apart = difference(marks[cell], marks[BASE], CLOSENESS)
    return apart is not None and apart.high < -NOTABLE


def _has_learned(marks: Mapping[Cell, Marks], cell: Cell) -> bool:
    """Whether what was learned shows, or drawings come closer to the references than the base model's past the noise.

    The base's own concept F1 is 0 whatever it draws, so a difference from that says nothing by itself.
    """
    if marks[cell]["concept_f1"] >= SHOWS:
        return True
    return any(is_better(name, difference(marks[cell], marks[BASE], name)) for name in (CLOSENESS, "cmmd"))


def _may_have_learned(marks: Mapping[Cell, Marks], cell: Cell) -> bool:
    """Whether so few drawings leave room for a gain that would count."""
    gain = difference(marks[cell], marks[BASE], CLOSENESS)
    return gain is not None and gain.estimate > 0 and (math.isnan(gain.high) or gain.high > NOTABLE)


def _reasons(marks: Mapping[Cell, Marks], cell: Cell, own: Sequence[Cell], honest: Sequence[Cell]) -> tuple[str, ...]:
    """Why it is recommended, and how sure that is, in words, the weightiest first."""
    here = marks[cell]
    what = "the closest to the references" if len(own) > 1 else "beside the references"
    told = [f"{what} (closeness {here[CLOSENESS]:.2f}, base {marks[BASE][CLOSENESS]:.2f})"]
    if not is_better(CLOSENESS, difference(here, marks[BASE], CLOSENESS)):
        told[0] += ", though so few drawings do not tell that from the base for certain (more --prompts-each would)"
    recall, precision = here["concept_recall"], here["concept_precision"]
    if math.isfinite(recall):
        bleeds = f", and bleeds into others (precision {precision:.0%})" if recall and precision < BLEEDS else ""
        told.append(f"what was learned shows in {recall:.0%} of the drawings that ask for it{bleeds}")
    told.append(_of_copies(here, own, honest))
    if forgotten := _forgotten(marks, cell, own):
        told.append(forgotten)
    alike = sum(is_better(CLOSENESS, difference(here, marks[one], CLOSENESS)) is None for one in honest if one != cell)
    if alike:
        others = "all others are" if alike == len(own) - 1 else f"{alike} of the {len(own) - 1} others are"
        told.append(f"{others if len(own) > 2 else 'the other one is'} as close, as far as this tells")
    return tuple(told)


def _of_copies(here: Marks, own: Sequence[Cell], honest: Sequence[Cell]) -> str:
    if not isinstance(here.told.get("copies"), Told):
        return "copies were not looked for"
    if is_copying(here):
        return "but it copies trained pictures, as all of its LoRAs do"
    left_out = f"; {len(own) - len(honest)} of {len(own)} LoRAs and strengths copy, and are left out"
    recited = sum(one.own_prompt for one in here.copies)
    of = here.details.get("copies", {}).get("of_trained_captions", 0)
    astray = sum(one.astray for one in here.copies)
    none = "no copies" if not astray else "1 near-copy, which may be chance" if astray == 1 else f"{astray} near-copies"
    told = none
    if recited:
        told += f"{', and it recites' if astray else ' but for'} {recited} of {of} trained captions"
        told += "" if astray else " that it recites"
    return told + (left_out if len(honest) < len(own) else "")


def _forgotten(marks: Mapping[Cell, Marks], cell: Cell, own: Sequence[Cell]) -> str:
    """That it is past the least loss on references, which is what over-fitting is."""
    losses = {one: marks[one]["loss"] for one in own if one.strength == cell.strength}
    least = min((value for value in losses.values() if math.isfinite(value)), default=math.nan)
    if not marks[cell]["loss"] > FORGOTTEN * least:
        return ""
    return f"over-fitted by its loss on references ({marks[cell]['loss']:.2f} of the base's, {least:.2f} at the least)"


def _worst(case: Case, copying: Sequence[Cell], marks: Mapping[Cell, Marks]) -> tuple[str, ...]:
    """The alarms of the LoRA that copies the most, with its strength."""
    if not copying:
        return ()
    worst = max(copying, key=lambda cell: sum(one.astray for one in marks[cell].copies))
    assert worst.candidate is not None, "the base model copies nothing"
    where = f"{case.candidates[worst.candidate].name} at strength {worst.strength:g}"
    return tuple(f"{where}: {line}" for line in alarms_of(case, worst, marks[worst]))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
