"""What all pages of evaluations have: their style, their opening, what measures mean, the protocol, the cost."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdtune.core.evaluation import charts
from sdtune.core.evaluation.contact import CHOSEN, KINDS, LARGE, NAME, Album, escaped
from sdtune.core.evaluation.details import table
from sdtune.core.evaluation.figures import DIRECTIONS, begun, counted, number
from sdtune.core.evaluation.measures import Measure
from sdtune.core.evaluation.outcome import Cost
from sdtune.core.evaluation.subject import Case, Unit
from sdtune.core.html_page import COLOURS, text
from sdtune.core.run_folder import write_atomically

SENTENCE = 1500  # letters
STYLE = (
    COLOURS
    + charts.STYLE
    + """:root { --shade: #0005; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1.6rem clamp(.8rem, 3vw, 2.5rem) 4rem; background: var(--page);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: .1rem 0 .5rem; font-size: clamp(1.7rem, 3.2vw, 2.4rem); line-height: 1.15; text-wrap: balance; }
h2 { margin: 2.8rem 0 .6rem; font-size: 1.25rem; }
h3 { margin: 1.4rem 0 .4rem; font-size: 1rem; }
h2 small, h3 small { color: var(--soft); font-weight: normal; }
p { margin: .3rem 0; max-width: 60rem; }
.soft, small { color: var(--soft); }
.good { color: var(--good); } .worse { color: var(--warned); }
.verdict { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); gap: 1.5rem 2.5rem;
  align-items: center; }
.lead { font-size: 1.12rem; line-height: 1.4; }
.reasons { margin: .6rem 0; padding-left: 1.15rem; font-size: 1.05rem; line-height: 1.4; }
.reasons li { margin: .15rem 0; }
.reasons li:first-child { font-weight: 600; }
code { font: .85rem/1.45 ui-monospace, monospace; overflow-wrap: anywhere; user-select: all; }
.command { display: block; margin: .2rem 0 .8rem; padding: .5rem .7rem; white-space: pre-wrap;
  max-height: 12rem; overflow: auto; background: var(--card); border: 1px solid var(--line); border-radius: .4rem; }
.of { margin: 1.6rem 0 -.9rem; }
.command span { display: inline-block; max-width: 100%; }
.do { margin-top: .9rem; font-size: .9rem; }
.look { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: .7rem; }
figure { margin: 0; }
.look figure, .pair figure { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  overflow: clip; }
.look + p { font-size: .85rem; margin-top: .5rem; }
.look .chosen { border-color: var(--good); box-shadow: 0 0 0 1px var(--good); }
img, .blank { display: block; width: 100%; height: auto; background: var(--mat); }
.blank { aspect-ratio: 1; display: grid; place-items: center; color: var(--soft); font-size: .8rem; }
figcaption { padding: .45rem .6rem .55rem; font-size: .85rem; line-height: 1.35; }
figcaption b { display: block; font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); gap: .8rem;
  margin-top: 1.6rem; }
.cards > div, .chart { padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; }
.cards span { display: block; }
.cards .figure { font-size: 1.75rem; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.cards small, .cards em { display: block; line-height: 1.35; font-style: normal; font-size: .85rem; }
.cards .says { margin-top: .4rem; font-size: .8rem; }
.alarm, .note { margin: .7rem 0 0; padding: .7rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-left: 4px solid var(--warned-bar); border-radius: .4rem; }
.note { border-left-color: var(--line); }
.alarm ul, .note ul { margin: .2rem 0; padding-left: 1.2rem; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: .9rem;
  margin-top: .9rem; }
.pair { padding: .7rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.pair > div { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: .6rem; }
.pair h3 { margin: 0 0 .5rem; }
.pair figcaption { font-size: .78rem; padding: .35rem .45rem .45rem; }
.pair .trained { border: 2px solid var(--warned-bar); }
.mild .pair .trained { border: 1px solid var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.3rem; margin: .2rem 0 .8rem; font-size: .9rem; }
.legend .swatch { margin-right: .4rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: .9rem; }
.chart h3 { margin: 0; }
.chart p { font-size: .8rem; margin: 0 0 .4rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; width: fit-content; max-width: 100%;
  scrollbar-width: thin; background:
  linear-gradient(to left, var(--card) 40%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--shade), transparent) right / 1.1rem 100% no-repeat scroll, var(--card); }
table { border-collapse: separate; border-spacing: 0; overflow-wrap: normal; }
th { text-align: left; font-weight: 600; }
thead th, thead td { border-bottom: 1px solid var(--line); }
tbody th, thead td:first-child, thead th:first-child { position: sticky; left: 0; background: var(--card);
  border-right: 1px solid var(--line); }
.figures th, .figures td { padding: .4rem .7rem; font-size: .88rem; vertical-align: top; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.figures thead th { vertical-align: bottom; }
.figures tbody tr + tr > * { border-top: 1px solid var(--line); }
.figures small { display: block; font-weight: normal; font-size: .78rem; }
.figures em { font-style: normal; font-size: .78rem; }
.figures .chosen > * { background: color-mix(in srgb, var(--good) 13%, var(--card)); }
.figures tbody th { min-width: 7rem; max-width: 14rem; white-space: normal; }
.figures .nought { width: 10rem; min-width: 10rem; }
.badge { display: inline-block; padding: 0 .4rem; border-radius: 1rem; font-size: .72rem; font-weight: 600;
  color: var(--card); background: var(--good); }
.sheets { display: flex; flex-wrap: wrap; gap: 0 1.2rem; align-items: start; }
.sheets > div { max-width: 100%; }
.contact th, .contact td { padding: .3rem; font-size: .82rem; }
.contact tbody th { width: 9rem; min-width: 7rem; max-width: 9rem; font-weight: normal; vertical-align: top;
  padding: .5rem .6rem; overflow-wrap: anywhere; }
.contact tbody th small { display: block; }
.contact td { width: 6.9rem; min-width: 6.9rem; }
.contact thead th { width: 6.9rem; max-width: 6.9rem; overflow-wrap: anywhere; vertical-align: bottom; }
.contact thead .chosen { color: var(--good); }
.contact img { border-radius: .25rem; }
details { margin-top: .6rem; }
details .scroll + .scroll { margin-top: .9rem; }
summary { cursor: pointer; color: var(--soft); width: fit-content; }
.more > summary { color: var(--ink); font-weight: 600; }
dl { margin: .4rem 0; max-width: 60rem; }
dt { font-weight: 600; margin-top: .7rem; }
dd { margin: .1rem 0 0; }
.plain { margin: .4rem 0; padding-left: 1.3rem; font-size: .9rem; }
.pairs-of { font-size: .88rem; width: 100%; max-width: 60rem; border: 1px solid var(--line); background: var(--card);
  table-layout: fixed; }
.pairs-of th, .pairs-of td { padding: .25rem .7rem; vertical-align: top; overflow-wrap: anywhere; }
.pairs-of th { width: 35%; font-weight: normal; color: var(--soft); position: static; border: 0; }
@media (max-width: 52rem) { .verdict { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 36rem) {
  .cards { grid-template-columns: 1fr 1fr; gap: .5rem; }
  .cards > div { padding: .6rem .7rem; }
  .cards .figure { font-size: 1.35rem; }
  .look { gap: .4rem; }
  .look figcaption { padding: .3rem .4rem .4rem; font-size: .75rem; }
  .figures th, .figures td { padding: .35rem .5rem; }
  .figures tbody th { max-width: 7.5rem; }
  .contact td { width: 6rem; min-width: 6rem; }
  .contact thead th { width: 6rem; max-width: 6rem; }
  .contact tbody th { min-width: 5.5rem; width: 5.5rem; max-width: 5.5rem; font-size: .75rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 11px; }
  .scroll { overflow: visible; border: 0; background: none; }
  .figures th, .figures td { padding: .15rem .25rem; font-size: .62rem; white-space: normal; }
  .figures small, .figures em, .badge { font-size: .55rem; }
  tbody th, thead td:first-child, thead th:first-child { position: static; }
  .contact th, .contact td { width: auto; min-width: 0; max-width: 7rem; }
  .contact tbody th { min-width: 4rem; max-width: 7rem; width: auto; }
  tr, figure, .cards > div, .chart, .pair { break-inside: avoid; }
  summary { list-style: none; font-weight: 600; }
  details::details-content { content-visibility: visible; block-size: auto; display: block; }
}
"""
)
DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; img-src data:; style-src 'sha256-{DIGEST}'; base-uri 'none'; form-action 'none'"


def write_pieces(pieces: Iterator[str], out: Path) -> None:
    """A page that comes in pieces, whole or not at all; OSError names it, whatever of it cannot be written."""

    def write(place: Path) -> None:
        with place.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(pieces)

    try:
        write_atomically(out, write)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from None


def opening(title: str, headline: str, reasons: Sequence[str]) -> Iterator[str]:
    """What a page says at its top: what to do, and why; one reason as a sentence, several as points."""
    yield f'<p class="soft" dir="auto">{escaped(title)}</p>\n<h1 dir="auto">{escaped(begun(headline))}</h1>\n'
    if len(reasons) == 1:
        yield f'<p class="lead" dir="auto">{escaped(begun(reasons[0]), SENTENCE)}</p>\n'
    elif reasons:
        points = "".join(f'<li dir="auto">{escaped(begun(reason))}</li>\n' for reason in reasons)
        yield f'<ul class="reasons">\n{points}</ul>\n'


def looked_at(drawings: int, of: str, references: int, encoder: str) -> str:
    """What figures are of, in a line of HTML."""
    beside = f", beside {counted(references, 'real picture')}" if references else ""
    return f"{counted(drawings, 'drawing')} of {of}{beside}, as {escaped(encoder)} sees them"


def looks(album: Album, figures: Sequence[tuple[str, Path, bool]], prompt: str) -> Iterator[str]:
    """Large pictures beside each other: (name, file, whether it is the recommended one), and what was asked for."""
    yield '<div>\n<div class="look">\n'
    for name, path, is_chosen in figures:
        yield (
            f"<figure{CHOSEN if is_chosen else ''}>{album.picture(path, f'{name}: {prompt}', LARGE)}"
            f'<figcaption dir="auto"><b>{escaped(name, NAME)}</b></figcaption></figure>\n'
        )
    yield f'</div>\n<p class="soft" dir="auto">{escaped(prompt)}</p>\n</div>\n'


def bullets(kind: str, lines: Sequence[str], said: str = "") -> Iterator[str]:
    """Lines of a box, with a sentence of ours below."""
    if lines or said:
        points = "".join(f'<li dir="auto">{escaped(line)}</li>\n' for line in lines)
        listed = f"<ul>\n{points}</ul>\n" if points else ""
        yield f'<div class="{kind}">{listed}{f"<p>{text(said)}</p>" if said else ""}</div>\n'


def refusals(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Measures that cannot be told, (title, reason) each; those of the same reason together."""
    reasons: dict[str, list[str]] = {}
    for title, reason in rows:
        reasons.setdefault(reason, []).append(title)
    if reasons:
        yield '<h3>Could not be measured</h3>\n<ul class="plain">\n'
        for reason, titles in reasons.items():
            yield f'<li dir="auto"><b>{text(", ".join(titles))}</b>: {escaped(reason)}</li>\n'
        yield "</ul>\n"


def reading(case: Case, measures: Sequence[Measure], floor: Mapping[str, float]) -> Iterator[str]:
    """What there is to know of this evaluation; what each measure says, where it is from, and what of it is noise."""
    yield "<section>\n<h2>How to read this</h2>\n"
    for line in case.told:
        yield f'<p dir="auto">{escaped(begun(line))}.</p>\n'
    yield '<details class="more"><summary>What the measures mean</summary>\n<dl>\n'
    for one in measures:
        source = f' <span class="soft">{text(one.source)}.</span>' if one.source else ""
        noise = floor.get(one.name)
        floored = (
            f" Differences of up to {number(noise, one.digits)} are noise."
            if noise is not None and math.isfinite(noise)
            else ""
        )
        yield f"<dt>{text(begun(one.title))} <small>{DIRECTIONS[one.better]}; {text(one.name)}</small></dt>"
        yield f"<dd>{text(one.says)}{floored}{source}</dd>\n"
    yield "</dl>\n</details>\n"


def protocol(case: Case, units: Sequence[Unit], encoder: str, resize: str) -> Iterator[str]:
    """What was drawn and laid beside what."""
    yield '<details class="more"><summary>Prompts, seeds and references</summary>\n'
    seeds = ", ".join(str(seed) for seed in sorted({unit.seed for unit in units}))
    resized = f"; {escaped(resize)}" if resize else ""
    trigger = f" Words that call up what was learned: {escaped(case.trigger)}." if case.trigger else ""
    looked = f"Encoder: {escaped(encoder)}{resized}."
    yield f'<p dir="auto">Base model: {escaped(case.model)}.{trigger} Seeds: {seeds}. {looked}</p>\n'
    for kind in dict.fromkeys(prompt.kind for prompt in case.prompts):
        yield f'<h3>{KINDS[kind]}</h3>\n<ol class="plain">\n'
        for prompt in case.prompts:
            if prompt.kind == kind:
                yield f'<li dir="auto">{escaped(prompt.text)}</li>\n'
        yield "</ol>\n"
    if case.references:
        yield '<h3>References</h3>\n<ul class="plain">\n'
        for reference in case.references:
            yield f'<li dir="auto">{escaped(reference.name)}</li>\n'
        yield "</ul>\n"
    yield "</details>\n"


def listed(title: str, told_of: Mapping[str, Any]) -> Iterator[str]:
    """Names and values behind a click."""
    if told_of:
        yield f'<details class="more"><summary>{title}</summary>\n'
        yield from table(list(_flat(told_of)))
        yield "</details>\n"


def _flat(told_of: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in told_of.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{above}{name}", ", ".join(str(one) for one in value)
        elif isinstance(value, float):
            yield f"{above}{name}", f"{value:.6g}"
        else:
            yield f"{above}{name}", "" if value is None else str(value)


def cost(spent: Cost) -> Iterator[str]:
    """What it took; the end of every page."""
    minutes, seconds = divmod(round(spent.seconds), 60)
    time = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    there = f", {counted(spent.there, 'was', 'were')} there already" if spent.there else ""
    drawn = counted(spent.drawn, "picture")
    yield f'<p class="soft">Cost: {drawn} drawn{there}; {time} on {escaped(spent.device)}.</p>\n'
    yield "</section>\n"
