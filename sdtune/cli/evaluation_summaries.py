"""What an evaluation says at its end: the recommendation, then the figures that it rests on."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sdtune.cli.lora_summaries import table
from sdtune.cli.summaries import counted, folded, line

WIDEST = 100
"""letters of a line of a table, or those of a narrower terminal; of paths and commands none are cut off"""
NAMED = 28
"""letters of a LoRA's name, which is cut in its middle, as its beginning and its end tell it from others"""
ROWS = 24
"""of a table; of more checkpoints the strength that is recommended alone is shown, and of still more every so many"""
Column = tuple[str, str, int, str]
"""(name, title, digits, better) of a measure"""
BASE = "base model"
"""how the first row is named, as on the page"""
COPIES = "copies"
"""the measure that makes a column of how many there are needless"""
LISTED = 6
"""alarms"""
LABEL = 12
"""letters before what stands behind a label"""


def evaluated(report: Any) -> Iterator[str]:
    """Of sdtune.core.evaluation_reports.Evaluated."""
    yield from _wrapped(report.sentence, "result")
    yield from _alarms(report.alarms)
    rows = _some(report.rows)
    columns = _fitting(report.columns, rows)
    yield ""
    yield from table(*_cells(columns, rows))
    if len(rows) < len(report.rows):
        yield f"and {len(report.rows) - len(rows)} more on the page"
    for told in _legend(columns, rows):
        yield from _wrapped(told)
    yield from _wrapped(_of(report))
    yield ""
    yield from _ending(report)
    if report.written:
        yield line("written", f"the strength, into the metadata of {report.written}")
    if report.try_next:
        yield line("try next", report.try_next)


def compared(report: Any) -> Iterator[str]:
    """Of sdtune.core.evaluation_reports.Compared."""
    yield from _wrapped(report.sentence, "result")
    yield from _alarms(report.alarms)
    yield line("A", report.first)
    yield line("B", report.second)
    yield ""
    yield from _differences(report.differences)
    yield from _wrapped("± and (from..to): intervals of 95 % of the difference; neither: it may be chance")
    if any(one.floor is not None for one in report.differences):
        yield from _wrapped("noise: how far A is from itself, trained with another seed")
    yield from _wrapped(_of(report))
    yield ""
    yield from _ending(report)


def _ending(report: Any) -> Iterator[str]:
    for number, failure in enumerate(report.failed):
        yield from _wrapped(failure, "" if number else "failed")
    yield line("report", str(report.page))


def _alarms(alarms: Sequence[str]) -> Iterator[str]:
    for alarm in alarms[:LISTED]:
        yield from _wrapped(alarm, "warning")
    if len(alarms) > LISTED:
        yield line("", f"and {len(alarms) - LISTED} more on the page")


def _legend(columns: Sequence[Column], rows: Sequence[Any]) -> Iterator[str]:
    """What the signs of the table mean."""
    known = any(not math.isnan(one.low) for row in rows for one in row.figures.values())
    signs = ["> is recommended"] if any(row.recommended for row in rows) else []
    signs += ["± and (from..to): intervals of 95 %"] if known else []
    if signs:
        yield "; ".join(signs)
    by = {better: [title for _, title, _, one in columns if one == better] for better in ("lower", "higher")}
    if told := "; ".join(f"{better} is better: {', '.join(titles)}" for better, titles in by.items() if titles):
        yield f"{told}; the report says what each means"


def _of(report: Any) -> str:
    """ "20 drawings of each, beside 6 references, as CLIP of mini sees them"."""
    references = f", beside {counted(report.references, 'reference')}" if report.references else ""
    return f"{counted(report.drawings, 'drawing')} of each{references}, as {report.encoder} sees them"


def _some(rows: Sequence[Any]) -> list[Any]:
    """The rows that are shown: all, where there are few."""
    if len(rows) <= ROWS:
        return list(rows)
    best = next((row for row in rows if row.recommended), rows[-1])
    whole = {rows[0].name, best.name}
    kept = [place for place, row in enumerate(rows) if row.name in whole][:ROWS]
    others = [place for place, row in enumerate(rows) if row.strength == best.strength and place not in kept]
    room = ROWS - len(kept)
    if len(others) > room:
        others = [others[number * len(others) // room] for number in range(room)]
    return [rows[place] for place in sorted(kept + others)]


def _fitting(columns: Sequence[Column], rows: Sequence[Any]) -> list[Column]:
    """As many as a line holds, the most telling first, of those that are known of any row."""
    known = [one for one in columns if any(one[0] in row.figures for row in rows)]
    while len(known) > 1 and _width(*_cells(known, rows)) > _room():
        known = known[:-1]
    return known


def _cells(columns: Sequence[Column], rows: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
    """(heading, rows) of the table; near-copies that nobody asked for have a column where there are any."""
    shown = {name: _shown([row.figures.get(name) for row in rows], digits) for name, _, digits, _ in columns}
    with_copies = any(row.copies for row in rows) and COPIES not in shown
    heading = ["", "strength", *(title for _, title, _, _ in columns), *(["copies"] if with_copies else [])]
    cells: list[list[str]] = []
    above = None
    for place, row in enumerate(rows):
        told = row.name if row.strength else BASE
        name = "" if row.name == above and not row.recommended else cut_in_the_middle(told, NAMED)
        first = f"{'>' if row.recommended else ' '} {name}"
        strength = f"{row.strength:g}" if row.strength else "-"
        figures = [shown[column][place] for column, *_ in columns]
        cells.append([first, strength, *figures, *([str(row.copies)] if with_copies else [])])
        above = row.name
    return heading, cells


def _differences(differences: Sequence[Any]) -> Iterator[str]:
    columns: list[tuple[str, Callable[[Any], str]]] = [
        ("A", lambda one: _number(one.first.estimate, one.digits)),
        ("B", lambda one: _number(one.second.estimate, one.digits)),
        ("A - B", lambda one: _shown([one.difference], one.digits, signed=True)[0]),
    ]
    if any(one.floor is not None for one in differences):
        columns.append(("noise", lambda one: "-" if one.floor is None else _number(one.floor, one.digits)))
    columns.append(("better", lambda one: one.winner or ("-" if one.better == "none" else "neither")))
    heading = ["", *(name for name, _ in columns)]
    rows = [[one.title, *(cell(one) for _, cell in columns)] for one in differences]
    if (over := _width(heading, rows) - _room()) > 0:
        longest = max(len(row[0]) for row in rows)
        rows = [[cut_in_the_middle(row[0], max(longest - over, 8)), *row[1:]] for row in rows]
    yield from table(heading, rows)


def _shown(figures: Sequence[Any], digits: int, *, signed: bool = False) -> list[str]:
    """Figures of one column with their intervals: ± where it reaches as far down as up, else both ends."""
    step = 10.0**-digits
    known = [one for one in figures if one is not None and not math.isnan(one.low)]
    even = all(abs((one.high - one.estimate) - (one.estimate - one.low)) < step for one in known)
    told = []
    for one in figures:
        number = "-" if one is None else _number(one.estimate, digits, signed=signed)
        if one is None or math.isnan(one.low):
            told.append(number)
        elif even:
            told.append(f"{number} ±{(one.high - one.low) / 2:.{digits}f}")
        else:
            told.append(f"{number} ({_number(one.low, digits)}..{_number(one.high, digits)})")
    return told


def _number(value: float, digits: int, *, signed: bool = False) -> str:
    if math.isnan(value):
        return "-"
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text if text.strip("+-0.") else text.lstrip("+-")


def cut_in_the_middle(text: str, letters: int) -> str:
    """As much of a name as a table holds, with its beginning and its end."""
    if len(text) <= letters:
        return text
    begin = (letters - 3) // 2
    return f"{text[:begin]}...{text[begin - letters + 3 :]}"


def _wrapped(text: str, label: str | None = None) -> Iterator[str]:
    """A sentence on as many lines as it takes, behind a label or without one."""
    begin, rest = (line(label, ""), " " * LABEL) if label is not None else ("", "")
    yield from folded(text, _room(), begin, rest)


def _room() -> int:
    return min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)


def _width(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return max(map(len, table(heading, rows)))
