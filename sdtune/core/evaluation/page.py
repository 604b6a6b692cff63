"""report.html: the recommendation and all that speaks for it, in one page that needs nothing else and runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sdtune.core.evaluation import charts
from sdtune.core.evaluation.comparison_page import write_comparison_page
from sdtune.core.evaluation.contact import (
    CHOSEN,
    Album,
    Column,
    cut,
    example,
    rows_of,
    sheet,
    sheets,
    true_column,
    truth,
)
from sdtune.core.evaluation.copies_shown import alarming, copies
from sdtune.core.evaluation.curves import charts as curves
from sdtune.core.evaluation.curves import loss_charts, places_of, strengths_of
from sdtune.core.evaluation.figures import (
    DIRECTIONS,
    Meaning,
    against,
    between,
    cell_name,
    counted,
    meanings,
    number,
    strength_of,
)
from sdtune.core.evaluation.intervals import Refused, Value
from sdtune.core.evaluation.outcome import Judged, Outcome
from sdtune.core.evaluation.page_frame import (
    POLICY,
    STYLE,
    cost,
    listed,
    looked_at,
    looks,
    meant,
    opening,
    pairs,
    protocol,
    refusals,
    write_pieces,
)
from sdtune.core.evaluation.subject import Case, Cell
from sdtune.core.html_page import head, text

__all__ = ["write_comparison_page", "write_page"]

EACH = "each LoRA at each strength"
CARDS = 3  # measures that are told large, beside copies
CHARTS = 6  # that are seen at once
COLUMNS = 9  # LoRAs beside each other in a contact sheet


def write_page(outcome: Outcome, out: Path) -> None:
    """The page of an evaluation, whole or not at all."""
    write_pieces(html(outcome), out)


def html(outcome: Outcome) -> Iterator[str]:
    """The page in pieces; the same for the same outcome."""
    album = Album()
    best = outcome.ranking[0].cell if outcome.ranking else None
    chosen = next((one for one in outcome.cells if best is not None and one.cell == best), None)
    measures = meanings([one.values for one in outcome.cells])
    yield head(outcome.title, POLICY, STYLE)
    yield from _verdict(outcome, chosen, album)
    yield from _cards(outcome, chosen, measures)
    yield "<main>\n"
    yield from _alarms(outcome, chosen, album)
    yield from _ranking(outcome)
    yield from _curves(outcome, measures, best)
    yield from _table(outcome, measures, best)
    yield from _details(chosen, measures)
    yield from _contact(outcome, best, album)
    yield from meant(measures, outcome.floor)
    yield from protocol(outcome.case, outcome.units, outcome.encoder, outcome.resize)
    yield from listed("Settings", outcome.settings)
    yield from listed("Versions", outcome.versions)
    yield from cost(outcome.cost)
    yield "</main>\n</body>\n</html>\n"


def _verdict(outcome: Outcome, chosen: Judged | None, album: Album) -> Iterator[str]:
    case = outcome.case
    yield '<header class="verdict">\n'
    below = looked_at(len(outcome.units), EACH, len(case.references), outcome.encoder)
    yield from opening(outcome.title, outcome.sentence, below)
    place = example(case, outcome.units)
    if place is not None:
        prompt = case.prompts[outcome.units[place].prompt].text
        shown = [("base", outcome.cells[0].pictures[place], False)] if outcome.cells else []
        if chosen is not None and chosen.cell.candidate is not None:
            shown.append((cell_name(case, chosen.cell), chosen.pictures[place], True))
        beside = truth(case, outcome.units[place], _subject(case, chosen))
        if beside is not None:
            shown.append((beside[0], beside[1].path, False))
        yield from looks(album, shown, prompt)
    yield "</header>\n"


def _subject(case: Case, one: Judged | None) -> int | None:
    return None if one is None or one.cell.candidate is None else case.candidates[one.cell.candidate].subject


def _cards(outcome: Outcome, chosen: Judged | None, measures: Sequence[Meaning]) -> Iterator[str]:
    one = chosen or (outcome.cells[0] if outcome.cells else None)
    if one is None:
        return
    yield '<div class="cards">\n'
    shown = [meaning for meaning in measures if isinstance(one.values.get(meaning.name), Value)]
    for meaning in [meaning for meaning in shown if meaning.name != "copies"][:CARDS]:
        value = one.values[meaning.name]
        assert isinstance(value, Value)
        yield f"<div><span>{text(meaning.title)}</span>"
        yield f'<span class="figure">{number(value.estimate, meaning.digits)}</span>'
        yield f"<small>{between(value, meaning.digits)}, {DIRECTIONS[meaning.better]}</small>"
        yield f"{_against_base(one, meaning, outcome.floor)}</div>\n"
    yield f"{_copies_card(outcome, one)}</div>\n"


def _against_base(one: Judged, meaning: Meaning, floor: Mapping[str, float]) -> str:
    change = one.change.get(meaning.name)
    if change is None:
        return ""
    word = against(change, meaning.better, floor.get(meaning.name))
    said = f"{word} than the base" if word else "no clear difference from the base"
    by = number(change.estimate, meaning.digits, signed=True)
    return f'<em class="{_shade(word)}"><b>{said}</b> ({by})</em>'


def _shade(word: str) -> str:
    return {"better": "good", "worse": "worse"}.get(word, "soft")


def _copies_card(outcome: Outcome, one: Judged) -> str:
    subject = _subject(outcome.case, one)
    count = len(alarming(one.copies))
    if subject is None or not outcome.case.subjects[subject].trained:
        figure, said = "not known", "<small>which pictures were trained is not known; give them by --trained</small>"
        figure, said = ("none", "<small>the base has seen none of them</small>") if subject is None else (figure, said)
    else:
        figure = f"{count:,} of {len(outcome.units):,}"
        words = (
            ("no drawing is nearly a trained picture", "good") if not count else ("look at the pairs below", "worse")
        )
        said = f'<small>drawings, lower is better</small><em class="{words[1]}"><b>{words[0]}</b></em>'
    return f'<div><span>near-copies</span><span class="figure">{figure}</span>{said}</div>'


def _alarms(outcome: Outcome, chosen: Judged | None, album: Album) -> Iterator[str]:
    case = outcome.case
    found = [
        (_subject(case, one) or 0, cell_name(case, one.cell), one is chosen, copy, one.pictures[copy.unit])
        for one in outcome.cells
        for copy in one.copies
    ]
    lines = [
        f"{case.subjects[one.subject].name}: {line}" if len(case.subjects) > 1 else line
        for one in outcome.ranking
        for line in one.alarms
    ]
    yield from copies(album, case, outcome.units, found, lines, "what is recommended")


def _ranking(outcome: Outcome) -> Iterator[str]:
    if len(outcome.case.subjects) < 2:
        return
    yield '<section id="ranking">\n<h2>Ranking</h2>\n<ol>\n'
    for one in outcome.ranking:
        name = outcome.case.subjects[one.subject].name
        best = cell_name(outcome.case, one.cell) if one.cell is not None else "no better than the base"
        yield f'<li dir="auto"><b>{cut(name)}</b>, {cut(best)}: {cut(one.told)}</li>\n'
    yield "</ol>\n</section>\n"


def _curves(outcome: Outcome, measures: Sequence[Meaning], chosen: Cell | None) -> Iterator[str]:
    shown = list(curves(outcome, measures, chosen))
    if not shown:
        return
    across = places_of(outcome.case)
    yield f'<section id="curves">\n<h2>Over {"strengths" if across.by_strength else "checkpoints and strengths"}</h2>\n'
    yield '<div class="legend">'
    if not across.by_strength:
        for kind, strength in enumerate(strengths_of(outcome.cells)):
            yield f"<span>{charts.swatch(kind)}strength {strength_of(strength)}</span>"
    yield f"<span>{charts.swatch(None)}base</span>"
    if chosen is not None:
        yield f"<span>{charts.swatch(None, ring=True)}recommended</span>"
    yield "<span>whiskers and bands: intervals of 95&nbsp;%</span></div>\n"
    figures = [
        f'<div class="chart"><h3>{text(meaning.title)}</h3><p class="soft">{DIRECTIONS[meaning.better]}</p>\n'
        f"{''.join(charts.drawn(chart))}</div>\n"
        for meaning, chart in shown
    ]
    yield f'<div class="charts">\n{"".join(figures[:CHARTS])}</div>\n'
    if figures[CHARTS:]:
        yield f"<details><summary>{counted(len(figures) - CHARTS, 'more measure')}</summary>\n"
        yield f'<div class="charts">\n{"".join(figures[CHARTS:])}</div>\n</details>\n'
    losses = list(loss_charts(outcome, chosen))
    if losses:
        yield "<h3>Loss of the run against the base, %</h3>\n"
        kinds = f"<span>{charts.swatch(0)}held out</span><span>{charts.swatch(1)}trained</span>"
        yield f'<div class="legend">{kinds}</div>\n'
        yield '<div class="charts">\n'
        for name, chart in losses:
            yield f'<div class="chart"><h3 dir="auto">{cut(name)}</h3><p class="soft">lower is better; where held out '
            yield f"rises and trained falls, it is over-fitted</p>\n{''.join(charts.drawn(chart))}</div>\n"
        yield "</div>\n"
    yield "</section>\n"


def _table(outcome: Outcome, measures: Sequence[Meaning], chosen: Cell | None) -> Iterator[str]:
    columns = [
        meaning for meaning in measures if any(isinstance(one.values.get(meaning.name), Value) for one in outcome.cells)
    ]
    yield '<section id="figures">\n<h2>All figures</h2>\n'
    if columns:
        seen = looked_at(len(outcome.units), EACH, len(outcome.case.references), outcome.encoder)
        yield f'<p class="soft">{seen}. Below each figure is its interval of 95&nbsp;%; better and worse are against '
        yield "the base, drawing by drawing.</p>\n"
        yield '<div class="scroll" tabindex="0"><table class="figures">\n<thead><tr><td></td>'
        for meaning in columns:
            yield f'<th scope="col">{text(meaning.title)}<small>{_of(outcome, meaning)}</small></th>'
        yield '<th scope="col">near-copies<small>and recited</small></th></tr></thead>\n<tbody>\n'
        for one in outcome.cells:
            yield _row(outcome, one, columns, is_chosen=chosen is not None and one.cell == chosen)
        yield "</tbody>\n</table></div>\n"
    yield from _refused(outcome, measures)
    yield "</section>\n"


def _of(outcome: Outcome, meaning: Meaning) -> str:
    """ "lower is better; 20 drawings, 12 references", as far as all cells have the same."""
    values = [value for one in outcome.cells if isinstance(value := one.values.get(meaning.name), Value)]
    counts = [sorted({value.n for value in values}), sorted({value.references for value in values})]
    drawings, references = (f"{ones[0]:,}" if len(ones) == 1 else f"{ones[0]:,} to {ones[-1]:,}" for ones in counts)
    beside = f", {references} ref." if any(counts[1]) else ""
    return f"{DIRECTIONS[meaning.better].removesuffix(' is better')} &middot; n {drawings}{beside}"


def _row(outcome: Outcome, one: Judged, columns: Sequence[Meaning], *, is_chosen: bool) -> str:
    if one.cell.candidate is None:
        label = "base"
    else:
        name = cut(outcome.case.candidates[one.cell.candidate].name)
        badge = ' <span class="badge">recommended</span>' if is_chosen else ""
        label = f"{name}<small>strength {strength_of(one.cell.strength)}{badge}</small>"
    cells = "".join(f"<td>{_figure(one, meaning, outcome.floor)}</td>" for meaning in columns)
    sharp = len(alarming(one.copies))
    mild = len(one.copies) - sharp
    shade = ' class="worse"' if sharp else ""
    count = (
        f"<td{shade}>{sharp:,}<small>{mild:,} recited</small></td>" if one.cell.candidate is not None else "<td></td>"
    )
    return f'<tr{CHOSEN if is_chosen else ""}><th scope="row" dir="auto">{label}</th>{cells}{count}</tr>\n'


def _figure(one: Judged, meaning: Meaning, floor: Mapping[str, float]) -> str:
    value = one.values.get(meaning.name)
    if value is None:
        return ""
    if isinstance(value, Refused):
        return "<small>refused, see below</small>"
    change = one.change.get(meaning.name)
    word = against(change, meaning.better, floor.get(meaning.name)) if change is not None else ""
    said = f' <em class="{_shade(word)}">{word}</em>' if word else ""
    return f"{number(value.estimate, meaning.digits)}{said}<small>{between(value, meaning.digits)}</small>"


def _refused(outcome: Outcome, measures: Sequence[Meaning]) -> Iterator[str]:
    reasons: dict[tuple[str, str], list[Cell]] = {}
    for meaning in measures:
        for one in outcome.cells:
            value = one.values.get(meaning.name)
            if isinstance(value, Refused):
                reasons.setdefault((meaning.title, value.reason), []).append(one.cell)
    rows = []
    for (title, reason), cells in reasons.items():
        some = (
            ""
            if len(cells) == len(outcome.cells)
            else f" ({', '.join(cell_name(outcome.case, cell) for cell in cells)})"
        )
        rows.append((title, f"{reason}{some}"))
    yield from refusals(rows)


def _details(chosen: Judged | None, measures: Sequence[Meaning]) -> Iterator[str]:
    """What belongs to the figures of what is recommended: what of them was taken for what, and further figures."""
    known = [(one, chosen.details[one.name]) for one in measures if chosen is not None and chosen.details.get(one.name)]
    if not known:
        return
    yield '<details class="more"><summary>More of what is recommended</summary>\n'
    for one, found in known:
        yield f"<h3>{text(one.title)}</h3>\n"
        classes, confusion = found.get("classes"), found.get("confusion")
        rest = {name: value for name, value in found.items() if name not in ("classes", "confusion")}
        if classes and confusion:
            yield from _confusion(classes, confusion)
        yield from pairs(rest)
    yield "</details>\n"


def _confusion(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> Iterator[str]:
    heads = "".join(f'<th scope="col" dir="auto">{cut(name)}</th>' for name in classes)
    yield '<p class="soft">Rows: what was asked for; columns: what was taken to be shown.</p>\n'
    yield '<div class="scroll" tabindex="0"><table class="figures">\n'
    yield f"<thead><tr><td></td>{heads}</tr></thead>\n<tbody>\n"
    for place, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        cells = "".join(
            f"<td><b>{count:,}</b></td>" if place == column else f"<td>{count:,}</td>"
            for column, count in enumerate(row)
        )
        yield f'<tr><th scope="row" dir="auto">{cut(name)}</th>{cells}</tr>\n'
    yield "</tbody>\n</table></div>\n"


def _contact(outcome: Outcome, chosen: Cell | None, album: Album) -> Iterator[str]:
    case = outcome.case
    if not outcome.cells or not outcome.units:
        return
    first = [place for place, unit in enumerate(outcome.units) if unit.seed == outcome.units[0].seed]
    others = len({unit.seed for unit in outcome.units}) - 1
    yield '<section id="pictures">\n<h2>Pictures</h2>\n'
    more = f" {counted(others, 'further seed')} for each prompt in pictures/." if others else ""
    yield f'<p class="soft">Seed {outcome.units[0].seed}, the same noise in every column.{more}</p>\n'
    strength = chosen.strength if chosen is not None else max(strengths_of(outcome.cells), default=0.0)
    beside = [outcome.cells[0], *_across(outcome, chosen, strength)]
    yield from sheets(album, rows_of(case, outcome.units, first), _columns(outcome, beside, first, chosen))
    if chosen is not None and len(case.candidates) > 1:
        same = [outcome.cells[0], *(one for one in outcome.cells if one.cell.candidate == chosen.candidate)]
        if len(same) > 2:
            name = cut(case.candidates[chosen.candidate or 0].name)
            yield f'<details class="more"><summary>{name} at every strength</summary>\n'
            rows = rows_of(case, outcome.units, first)
            columns = _columns(outcome, same, first, chosen)
            yield from sheet(album, rows, columns, range(len(rows)))
            yield "</details>\n"
    yield "</section>\n"


def _across(outcome: Outcome, chosen: Cell | None, strength: float) -> list[Judged]:
    """Every LoRA at about this strength, of many some; of a single LoRA every strength."""
    cells = [one for one in outcome.cells if one.cell.candidate is not None]
    if len(outcome.case.candidates) == 1:
        return cells[:COLUMNS]
    nearest: dict[int | None, Judged] = {}
    for one in sorted(cells, key=lambda one: (abs(one.cell.strength - strength), one.cell.strength)):
        nearest.setdefault(one.cell.candidate, one)
    ones = sorted(nearest.values(), key=lambda one: one.cell.candidate or 0)
    if len(ones) <= COLUMNS:
        return ones
    kept = {round(place * (len(ones) - 1) / (COLUMNS - 2)) for place in range(COLUMNS - 1)}
    return [one for place, one in enumerate(ones) if place in kept or one.cell == chosen]


def _columns(outcome: Outcome, ones: Sequence[Judged], places: Sequence[int], chosen: Cell | None) -> list[Column]:
    case = outcome.case
    columns = [
        Column(cell_name(case, one.cell), [one.pictures[place] for place in places], one.cell == chosen) for one in ones
    ]
    return [*columns, *true_column(case, outcome.units, places)]
