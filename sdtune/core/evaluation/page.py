"""report.html: the recommendation and all that speaks for it, in one page that needs nothing else and runs nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sdtune.core.evaluation import charts
from sdtune.core.evaluation.contact import (
    CHOSEN,
    NAME,
    Album,
    Column,
    escaped,
    example,
    rows_of,
    sheets,
    true_column,
    truth,
)
from sdtune.core.evaluation.copies_shown import Found, copies
from sdtune.core.evaluation.curves import charts as curves
from sdtune.core.evaluation.curves import loss_charts, places_of, strengths_of
from sdtune.core.evaluation.details import details
from sdtune.core.evaluation.figures import (
    BY_CONSTRUCTION,
    DIRECTIONS,
    SCALE_ENDS,
    against_base,
    begun,
    between,
    cell_name,
    counted,
    number,
    shown,
    strength_of,
)
from sdtune.core.evaluation.intervals import Refused, Value
from sdtune.core.evaluation.measures import Measure
from sdtune.core.evaluation.measures.closeness import Closeness
from sdtune.core.evaluation.measures.copying import CopyShare
from sdtune.core.evaluation.outcome import Judged, Outcome
from sdtune.core.evaluation.page_frame import (
    POLICY,
    SENTENCE,
    STYLE,
    cost,
    listed,
    looked_at,
    looks,
    opening,
    protocol,
    reading,
    refusals,
    write_pieces,
)
from sdtune.core.evaluation.subject import BASE, Cell
from sdtune.core.html_page import head, text

EACH = "each LoRA at each strength and of the base model"
CARDS = 3  # measures that are told large, beside copies
CHARTS = 6  # measures that are seen at once
WIDE = 7  # measures beside each other in the tables of all others
COLUMNS = 9  # LoRAs beside each other in a contact sheet


def write_page(outcome: Outcome, out: Path) -> None:
    """The page of an evaluation, whole or not at all."""
    write_pieces(html(outcome), out)


def html(outcome: Outcome) -> Iterator[str]:
    """The page in pieces; the same for the same outcome."""
    album = Album()
    best = outcome.ranking[0].cell if outcome.ranking else None
    looked = _looked_at(outcome, best)
    measures = shown(name for one in outcome.cells for name in one.values)
    yield head(outcome.title, POLICY, STYLE)
    yield from _verdict(outcome, looked, best, album)
    yield from _cards(outcome, looked, best, measures)
    yield "<main>\n"
    yield from _pictures(outcome, looked, best, album)
    yield from _copies(outcome, best, album)
    yield from _ranking(outcome)
    yield from _curves(outcome, measures, best)
    yield from _table(outcome, measures, best)
    yield from reading(outcome.case, measures, outcome.floor)
    if found := "".join(details(looked.details, measures)):
        name = escaped(cell_name(outcome.case, looked.cell), NAME)
        yield f'<details class="more"><summary>More figures of {name}</summary>\n{found}</details>\n'
    yield from protocol(outcome.case, outcome.units, outcome.encoder, outcome.resize)
    yield from listed("Settings", outcome.settings)
    yield from listed("Versions", outcome.versions)
    yield from cost(outcome.cost)
    yield "</main>\n</body>\n</html>\n"


def _looked_at(outcome: Outcome, best: Cell | None) -> Judged:
    """What is shown large: what is recommended; where nothing is, the closest, so that this can be seen."""

    def telling(one: Judged) -> tuple[bool, bool, float]:
        closeness = one.values.get(Closeness.name)
        known = closeness.estimate if isinstance(closeness, Value) else math.nan
        return one.cell == best, one.cell != BASE, known if math.isfinite(known) else -math.inf

    return max(reversed(outcome.cells), key=telling)


def _verdict(outcome: Outcome, looked: Judged, best: Cell | None, album: Album) -> Iterator[str]:
    case, units = outcome.case, outcome.units
    headline, _, rest = outcome.sentence.partition(": ")
    reasons = outcome.ranking[0].reasons if outcome.ranking else ()
    yield '<header class="verdict">\n<div>\n'
    yield from opening(outcome.title, headline, reasons or ((rest,) if rest else ()))
    if best is not None and best.candidate is not None and outcome.try_next:
        name = escaped(case.candidates[best.candidate].path.name)
        yield f'<p class="do">Use the file <code>{name}</code>, for example:</p>\n'
        begin, *options = text(outcome.try_next).split(" --")
        rest = "".join(f" <span>--{option}</span>" for option in options)  # so that no line ends between two hyphens
        yield f'<code class="command">{begin}{rest}</code>\n'
    yield f'<p class="soft">{looked_at(len(units), EACH, len(case.references), outcome.encoder)}.</p>\n</div>\n'
    place = example(case, units)
    if place is not None:
        figures = [("base model", outcome.cells[0].pictures[place], False)]
        if looked.cell != BASE:
            figures.append((cell_name(case, looked.cell), looked.pictures[place], looked.cell == best))
        beside = truth(case, units[place])
        if beside is not None:
            figures.append((*beside, False))
        yield from looks(album, figures, case.prompts[units[place].prompt].text)
    yield "</header>\n"


def _cards(outcome: Outcome, looked: Judged, best: Cell | None, measures: Sequence[Measure]) -> Iterator[str]:
    if looked.cell != best:
        name = escaped(cell_name(outcome.case, looked.cell), NAME)
        yield f'<p class="soft of" dir="auto">Nothing is recommended. The figures of {name}:</p>\n'
    yield '<div class="cards">\n'
    known = [one for one in measures if isinstance(looked.values.get(one.name), Value) and one.name != CopyShare.name]
    for measure in known[:CARDS]:
        value = looked.values[measure.name]
        assert isinstance(value, Value), "others are not known"
        yield f"<div><span>{text(begun(measure.title))}</span>"
        yield f'<span class="figure">{number(value.estimate, measure.digits)}</span>'
        yield f"<small>{between(value, measure.digits)}, {DIRECTIONS[measure.better]}</small>"
        yield f'{_beside_base(outcome, looked, measure)}<small class="says">{text(measure.says)}</small></div>\n'
    yield f"{_copies_card(looked)}</div>\n"


def _beside_base(outcome: Outcome, one: Judged, measure: Measure) -> str:
    change, base = one.change.get(measure.name), outcome.cells[0].values.get(measure.name)
    if change is None or not isinstance(base, Value):
        return ""
    figure = number(base.estimate, measure.digits)
    if measure.name in SCALE_ENDS:
        return f"<em>base model: {figure} by construction</em>"
    word = against_base(measure, change, outcome.floor.get(measure.name))
    said = f"{word} than the base model" if word else "no clear difference from the base model"
    return f'<em class="{_shade(word)}"><b>{said}</b> ({figure})</em>'


def _shade(word: str) -> str:
    return {"better": "good", "worse": "worse"}.get(word, "soft")


def _copies_card(one: Judged) -> str:
    """Copies as they are counted: of how many drawings, and how many captions are recited."""
    measured = one.values.get(CopyShare.name)
    title = f"<span>{CopyShare.title}</span>"
    if not isinstance(measured, Value):
        reason = measured.reason if isinstance(measured, Refused) else "not looked for"
        return f'<div>{title}<span class="figure">not known</span><small>{escaped(reason)}</small></div>'
    count = sum(copy.astray for copy in one.copies)
    word, shade = ("look at the pairs below", "worse") if count else ("no sign of copying", "good")
    recited = sum(copy.own_prompt for copy in one.copies)
    captions = one.details.get(CopyShare.name, {}).get("of_trained_captions", 0)
    recites = f"<small>recites {recited:,} of {counted(captions, 'trained caption')}</small>" if captions else ""
    return (
        f'<div>{title}<span class="figure">{count:,} of {measured.n:,}</span><small>drawings, lower is better</small>'
        f'<em class="{shade}"><b>{word}</b></em>{recites}<small class="says">{text(CopyShare.says)}</small></div>'
    )


def _copies(outcome: Outcome, best: Cell | None, album: Album) -> Iterator[str]:
    case = outcome.case
    found = [
        Found(
            cell_name(case, one.cell),
            one.cell == best,
            copy,
            case.trained_of(one.cell)[copy.trained],
            one.pictures[copy.unit],
        )
        for one in outcome.cells
        for copy in one.copies
    ]
    lines = [line for one in outcome.ranking for line in one.alarms]
    recommended = "" if best is None else cell_name(case, best)
    yield from copies(album, case, outcome.units, found, lines, recommended)


def _ranking(outcome: Outcome) -> Iterator[str]:
    if len(outcome.ranking) < 2 or all(one.cell is None for one in outcome.ranking):
        return
    yield '<section id="ranking">\n<h2>Ranking</h2>\n<ol>\n'
    for one in outcome.ranking:
        name = outcome.case.subjects[one.subject].name
        best = cell_name(outcome.case, one.cell) if one.cell is not None else "none of its LoRAs"
        yield f'<li dir="auto"><b>{escaped(name)}</b>, {escaped(best)}: {escaped(one.told, SENTENCE)}</li>\n'
    yield "</ol>\n</section>\n"


def _curves(outcome: Outcome, measures: Sequence[Measure], chosen: Cell | None) -> Iterator[str]:
    drawn = list(curves(outcome, measures, chosen))
    if not drawn:
        return
    across = places_of(outcome.case)
    yield f'<section id="curves">\n<h2>Over {"strengths" if across.by_strength else "checkpoints and strengths"}</h2>\n'
    yield '<div class="legend">'
    if not across.by_strength:
        for kind, strength in enumerate(strengths_of(outcome.cells)):
            yield f"<span>{charts.swatch(kind)}strength {strength_of(strength)}</span>"
    yield f"<span>{charts.swatch(None)}base model</span>"
    if chosen is not None:
        yield f"<span>{charts.swatch(None, ring=True)}recommended</span>"
    yield "<span>upright lines and pale bands: where a figure lies with a certainty of 95&nbsp;%</span></div>\n"
    figures = [
        f'<div class="chart"><h3>{text(begun(measure.title))}</h3><p class="soft">{DIRECTIONS[measure.better]}</p>\n'
        f"{''.join(charts.drawn(chart))}</div>\n"
        for measure, chart in drawn
    ]
    yield f'<div class="charts">\n{"".join(figures[:CHARTS])}</div>\n'
    if figures[CHARTS:]:
        yield f"<details><summary>{counted(len(figures) - CHARTS, 'more measure')}</summary>\n"
        yield f'<div class="charts">\n{"".join(figures[CHARTS:])}</div>\n</details>\n'
    losses = list(loss_charts(outcome, chosen))
    if losses:
        yield "<h3>Over-fitted? The loss while it was trained, against the base model's, %</h3>\n"
        kinds = f"<span>{charts.swatch(0)}held out</span><span>{charts.swatch(1)}trained</span>"
        marked = "<span>dotted, upright: recommended</span>" if chosen is not None else ""
        yield f'<div class="legend">{kinds}{marked}</div>\n<div class="charts">\n'
        for name, said, chart in losses:
            yield f'<div class="chart"><h3 dir="auto">{escaped(name)}</h3><p class="soft">{text(said)}</p>\n'
            yield f"{''.join(charts.drawn(chart))}</div>\n"
        yield "</div>\n"
    yield "</section>\n"


def _table(outcome: Outcome, measures: Sequence[Measure], chosen: Cell | None) -> Iterator[str]:
    """The first measures, and those of all others behind a click: every LoRA at every strength a row."""
    known = [one for one in measures if any(isinstance(cell.values.get(one.name), Value) for cell in outcome.cells)]
    yield '<section id="figures">\n<h2>All figures</h2>\n'
    if known:
        yield '<p class="soft">Below each figure: where it lies with a certainty of 95&nbsp;%. Better and worse are '
        yield "against the base model, drawing by drawing. Wide tables scroll sideways.</p>\n"
        yield from _rows(outcome, known[:CHARTS], chosen)
    if known[CHARTS:]:
        yield f"<details><summary>{counted(len(known) - CHARTS, 'more measure')}</summary>\n"
        for begin in range(CHARTS, len(known), WIDE):
            yield from _rows(outcome, known[begin : begin + WIDE], chosen)
        yield "</details>\n"
    yield from _refused(outcome, measures)
    yield "</section>\n"


def _rows(outcome: Outcome, columns: Sequence[Measure], chosen: Cell | None) -> Iterator[str]:
    yield '<div class="scroll" tabindex="0"><table class="figures">\n<thead><tr><td></td>'
    for measure in columns:
        yield f'<th scope="col">{text(begun(measure.title))}<small>{_of(outcome, measure)}</small></th>'
    yield "</tr></thead>\n<tbody>\n"
    for one in outcome.cells:
        yield _row(outcome, one, columns, is_chosen=one.cell == chosen)
    yield "</tbody>\n</table></div>\n"


def _of(outcome: Outcome, measure: Measure) -> str:
    """ "lower is better; 20 drawings, 12 references", as far as all cells have the same."""
    values = [value for one in outcome.cells if isinstance(value := one.values.get(measure.name), Value)]
    counts = [sorted({value.n for value in values}), sorted({value.references for value in values})]
    drawings, references = (f"{ones[0]:,}" if len(ones) == 1 else f"{ones[0]:,} to {ones[-1]:,}" for ones in counts)
    of = [f"n {drawings}"] if any(counts[0]) else []
    beside = [f"{references} ref."] if any(counts[1]) else []
    return f"{DIRECTIONS[measure.better].removesuffix(' is better')}<br>{', '.join([*of, *beside])}"


def _row(outcome: Outcome, one: Judged, columns: Sequence[Measure], *, is_chosen: bool) -> str:
    if one.cell.candidate is None:
        label = "base model"
    else:
        name = escaped(outcome.case.candidates[one.cell.candidate].name)
        badge = ' <span class="badge">recommended</span>' if is_chosen else ""
        label = f"{name}<small>strength {strength_of(one.cell.strength)}{badge}</small>"
    cells = "".join(f"<td>{_figure(one, measure, outcome.floor)}</td>" for measure in columns)
    return f'<tr{CHOSEN if is_chosen else ""}><th scope="row" dir="auto">{label}</th>{cells}</tr>\n'


def _figure(one: Judged, measure: Measure, floor: Mapping[str, float]) -> str:
    value = one.values.get(measure.name)
    if value is None:
        return ""
    if isinstance(value, Refused):
        return "<small>not measured, see below</small>"
    figure = number(value.estimate, measure.digits)
    if one.cell == BASE and measure.name in BY_CONSTRUCTION:
        return f"{figure}<small>by construction</small>"
    word = against_base(measure, one.change.get(measure.name), floor.get(measure.name))
    said = f' <em class="{_shade(word)}">{word}</em>' if word else ""
    if measure.name == CopyShare.name:
        astray, recited = sum(copy.astray for copy in one.copies), sum(copy.own_prompt for copy in one.copies)
        said = f" <small>{counted(astray, 'copy', 'copies')}, {recited:,} recited</small>"
    return f"{figure}{said}<small>{between(value, measure.digits)}</small>"


def _refused(outcome: Outcome, measures: Sequence[Measure]) -> Iterator[str]:
    """What could not be measured: of each measure one reason."""
    rows = []
    for measure in measures:
        found = [value.reason for one in outcome.cells if isinstance(value := one.values.get(measure.name), Refused)]
        if found:
            some = "" if len(found) == len(outcome.cells) else f" (in {len(found):,} of {len(outcome.cells):,} rows)"
            rows.append((begun(measure.title), f"{found[-1]}{some}"))
    yield from refusals(rows)


def _pictures(outcome: Outcome, looked: Judged, best: Cell | None, album: Album) -> Iterator[str]:
    """What is recommended at every strength; behind a click, all others at its strength."""
    case, units = outcome.case, outcome.units
    if not units:
        return
    first = [place for place, unit in enumerate(units) if unit.seed == units[0].seed]
    others = len({unit.seed for unit in units}) - 1
    rows = rows_of(case, units, first)
    of = "" if looked.cell.candidate is None else f" of {escaped(case.candidates[looked.cell.candidate].name, NAME)}"
    more = f" {counted(others, 'further seed')} for each prompt in pictures/." if others else ""
    yield f'<section id="pictures">\n<h2 dir="auto">Pictures{of}</h2>\n<p class="soft">In a row all is drawn from the '
    yield f"same noise (seed {units[0].seed}), so that columns differ by the LoRA and its strength alone.{more}</p>\n"

    def columns(ones: Sequence[Judged], names: Sequence[str]) -> list[Column]:
        drawn = [
            Column(name, [one.pictures[place] for place in first], one.cell == best)
            for name, one in zip(names, ones, strict=True)
        ]
        base = Column(cell_name(case, BASE), [outcome.cells[0].pictures[place] for place in first])
        return [base, *drawn, *true_column(case, units, first)]

    own = [one for one in outcome.cells if one.cell.candidate == looked.cell.candidate and one.cell != BASE]
    own = _some(own, looked.cell)
    yield from sheets(album, rows, columns(own, [f"at strength {strength_of(one.cell.strength)}" for one in own]))
    if len(case.candidates) > 1:
        across = _some(_across(outcome, looked.cell.strength), looked.cell)
        yield '<details class="more"><summary>All LoRAs at about strength '
        yield f"{strength_of(looked.cell.strength)}</summary>\n"
        yield from sheets(album, rows, columns(across, [cell_name(case, one.cell) for one in across]))
        yield "</details>\n"
    yield "</section>\n"


def _across(outcome: Outcome, strength: float) -> list[Judged]:
    """Every LoRA at about this strength."""
    cells = [one for one in outcome.cells if one.cell.candidate is not None]
    nearest: dict[int | None, Judged] = {}
    for one in sorted(cells, key=lambda one: (abs(one.cell.strength - strength), one.cell.strength)):
        nearest.setdefault(one.cell.candidate, one)
    return sorted(nearest.values(), key=lambda one: one.cell.candidate or 0)


def _some(ones: Sequence[Judged], kept: Cell) -> list[Judged]:
    """Of many as many as have room beside each other, and that one."""
    if len(ones) <= COLUMNS:
        return list(ones)
    places = {round(place * (len(ones) - 1) / (COLUMNS - 2)) for place in range(COLUMNS - 1)}
    return [one for place, one in enumerate(ones) if place in places or one.cell == kept]
