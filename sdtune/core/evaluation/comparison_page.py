"""The page of `eval compare`: which of two LoRAs is better, measure by measure, in one page that runs nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdtune.core.evaluation.charts import beside_nought
from sdtune.core.evaluation.contact import Album, Column, escaped, example, rows_of, sheets, true_column, truth
from sdtune.core.evaluation.copies_shown import Found, copies
from sdtune.core.evaluation.differences import DECISIVE
from sdtune.core.evaluation.figures import DIRECTIONS, begun, between, counted, number, shown, strength_of, told
from sdtune.core.evaluation.outcome import Comparison, Side
from sdtune.core.evaluation.page_frame import (
    POLICY,
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
from sdtune.core.evaluation_reports import Difference
from sdtune.core.html_page import head, text

WINNERS = {"A": "A is better", "B": "B is better", "": "no clear difference"}


def write_comparison_page(comparison: Comparison, out: Path) -> None:
    """The page of a comparison, whole or not at all."""
    write_pieces(html(comparison), out)


def html(comparison: Comparison) -> Iterator[str]:
    """The page in pieces; the same for the same comparison."""
    album = Album()
    measures = shown([*(one.name for one in comparison.differences), *comparison.refused])
    yield head(comparison.title, POLICY, STYLE)
    yield from _verdict(comparison, album)
    yield from _cards(comparison)
    yield "<main>\n"
    yield from _pictures(comparison, album)
    yield from _copies(comparison, album)
    yield from _table(comparison)
    yield from refusals(
        [(begun(one.title), comparison.refused[one.name]) for one in measures if one.name in comparison.refused]
    )
    floor = {one.name: one.floor for one in comparison.differences if one.floor is not None}
    yield from reading(comparison.case, measures, floor)
    yield from protocol(comparison.case, comparison.units, comparison.encoder, comparison.resize)
    yield from listed("Settings", comparison.settings)
    yield from listed("Versions", comparison.versions)
    yield from cost(comparison.cost)
    yield "</main>\n</body>\n</html>\n"


def _name(letter: str, side: Side) -> str:
    return f"{letter}: {side.name} at strength {strength_of(side.strength)}"


def _verdict(comparison: Comparison, album: Album) -> Iterator[str]:
    case, units = comparison.case, comparison.units
    headline, _, rest = comparison.sentence.partition(": ")
    yield '<header class="verdict">\n<div>\n'
    yield from opening(comparison.title, headline, (rest,) if rest else ())
    yield f'<p class="soft">{escaped(_name("A", comparison.first))}; {escaped(_name("B", comparison.second))}.</p>\n'
    yield f'<p class="soft">{looked_at(len(units), "each", len(case.references), comparison.encoder)}.</p>\n</div>\n'
    place = example(case, units)
    if place is not None:
        better = _better(comparison.differences)
        figures = [
            ("base model", comparison.base[place], False),
            ("A", comparison.first.pictures[place], better == "A"),
            ("B", comparison.second.pictures[place], better == "B"),
        ]
        beside = truth(case, units[place])
        figures += [(*beside, False)] if beside is not None else []
        yield from looks(album, figures, case.prompts[units[place].prompt].text)
    yield "</header>\n"


def _judged(differences: Sequence[Difference]) -> list[Difference]:
    """Those of measures that can be better."""
    return [one for one in differences if one.better != "none"]


def _better(differences: Sequence[Difference]) -> str:
    """A, B, or "" where neither is: by the first that tells them apart of what counts most."""
    winners = {one.name: one.winner for one in _judged(differences)}
    return next((winners[name] for name in DECISIVE if winners.get(name)), "")


def _cards(comparison: Comparison) -> Iterator[str]:
    wins = [one.winner for one in _judged(comparison.differences)]
    yield '<div class="cards">\n'
    for letter, side in (("A", comparison.first), ("B", comparison.second)):
        yield f'<div><span>{letter} is better in</span><span class="figure">{wins.count(letter):,}</span>'
        yield f'<small dir="auto">of {counted(len(wins), "measure")}; {escaped(side.name)}</small></div>\n'
    yield f'<div><span>No clear difference in</span><span class="figure">{wins.count(""):,}</span>'
    yield f"<small>of {counted(len(wins), 'measure')}</small></div>\n"
    trained = comparison.case.subjects
    counts = [
        f"{sum(copy.astray for copy in side.copies):,}" if trained[side.subject].trained else "unknown"
        for side in (comparison.first, comparison.second)
    ]
    yield f'<div><span>Near-copies of A and B</span><span class="figure">{counts[0]} and {counts[1]}</span>'
    yield f"<small>of {counted(len(comparison.units), 'drawing')} each</small></div>\n</div>\n"


def _copies(comparison: Comparison, album: Album) -> Iterator[str]:
    case = comparison.case
    found = [
        Found(letter, False, copy, case.subjects[side.subject].trained[copy.trained], side.pictures[copy.unit])
        for letter, side in (("A", comparison.first), ("B", comparison.second))
        for copy in side.copies
    ]
    yield from copies(album, case, comparison.units, found, (), "")


def _table(comparison: Comparison) -> Iterator[str]:
    if not comparison.differences:
        return
    yield '<section id="figures">\n<h2>Measure by measure</h2>\n'
    yield '<p class="soft">Below each figure: where it lies with a certainty of 95&nbsp;%. A dot right '
    yield "of the line speaks for A (where "
    yield "neither way is better, it tells that A has more). Where its interval crosses that line, or it lies within "
    yield "the grey of noise, there is no clear difference.</p>\n"
    yield '<div class="scroll" tabindex="0"><table class="figures">\n<thead><tr><td></td><th scope="col">A</th>'
    yield '<th scope="col">B</th><th scope="col">A - B</th><th scope="col" class="nought">B &middot; A</th>'
    yield '<th scope="col">verdict</th></tr></thead>\n<tbody>\n'
    for one in comparison.differences:
        yield _row(one)
    yield "</tbody>\n</table></div>\n</section>\n"


def _row(one: Difference) -> str:
    figures = "".join(
        f"<td>{number(figure.estimate, one.digits)}<small>{between(figure, one.digits)}</small></td>"
        for figure in (one.first, one.second)
    )
    by = number(one.difference.estimate, one.digits, signed=True)
    interval = between(one.difference, one.digits, signed=True)
    said = f"{one.title}, A - B: {told(one.difference, one.digits, signed=True)}"
    picture = beside_nought(one.difference, one.floor, said, mirrored=one.better == "lower")
    noise = (
        f"<small>noise up to {number(one.floor, one.digits)}</small>"
        if one.floor is not None and math.isfinite(one.floor)
        else ""
    )
    shade = ' class="good"' if one.winner else ""
    return (
        f'<tr><th scope="row">{text(begun(one.title))}<small>{DIRECTIONS.get(one.better, "")}</small></th>{figures}'
        f'<td>{by}<small>{interval}</small></td><td class="nought s0">{picture}</td>'
        f"<td><b{shade}>{WINNERS.get(one.winner, '')}</b>{noise}</td></tr>\n"
    )


def _pictures(comparison: Comparison, album: Album) -> Iterator[str]:
    case, units = comparison.case, comparison.units
    if not units:
        return
    first = [place for place, unit in enumerate(units) if unit.seed == units[0].seed]
    columns = [
        Column(label, [pictures[place] for place in first])
        for label, pictures in (
            ("base model", comparison.base),
            (_name("A", comparison.first), comparison.first.pictures),
            (_name("B", comparison.second), comparison.second.pictures),
        )
    ]
    yield '<section id="pictures">\n<h2>Pictures</h2>\n<p class="soft">In a row all is drawn '
    yield f"from the same noise (seed {units[0].seed}), so that columns differ by the LoRA alone.</p>\n"
    yield from sheets(album, rows_of(case, units, first), [*columns, *true_column(case, units, first)])
    yield "</section>\n"
