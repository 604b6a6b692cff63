"""What all pages of evaluations have: their style, their opening, what measures mean, the protocol, the cost."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdtune.core.evaluation import charts
from sdtune.core.evaluation.contact import CHOSEN, LARGE, NAME, Album, cut
from sdtune.core.evaluation.figures import DIRECTIONS, Meaning, counted, number
from sdtune.core.evaluation.outcome import Cost
from sdtune.core.evaluation.subject import Case, Unit
from sdtune.core.html_page import COLOURS, text
from sdtune.core.run_folder import write_atomically

STYLE = (
    COLOURS
    + charts.STYLE
    + """* { box-sizing: border-box; }
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
.scroll { overflow: auto; max-height: 44rem; border: 1px solid var(--line); border-radius: .4rem;
  background: var(--card); width: fit-content; max-width: 100%; }
table { border-collapse: separate; border-spacing: 0; overflow-wrap: normal; }
th { text-align: left; font-weight: 600; }
thead th, thead td { position: sticky; top: 0; z-index: 1; background: var(--card);
  border-bottom: 1px solid var(--line); }
tbody th, thead td:first-child, thead th:first-child { position: sticky; left: 0; background: var(--card);
  border-right: 1px solid var(--line); }
thead td:first-child, thead th:first-child { z-index: 2; }
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
.contact th, .contact td { padding: .3rem; font-size: .82rem; }
.contact tbody th { width: 13rem; min-width: 7rem; max-width: 13rem; font-weight: normal; vertical-align: top;
  padding: .5rem .6rem; overflow-wrap: anywhere; }
.contact tbody th small { display: block; }
.contact td { width: 8.5rem; min-width: 8.5rem; }
.contact thead th { width: 8.5rem; max-width: 8.5rem; overflow-wrap: anywhere; vertical-align: bottom; }
.contact thead .chosen { color: var(--good); }
.contact img { border-radius: .25rem; }
details { margin-top: .6rem; }
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
"""
)
DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; img-src data:; style-src 'sha256-{DIGEST}'; base-uri 'none'; form-action 'none'"


def write_pieces(pieces: Iterator[str], out: Path) -> None:
    """A page that comes in pieces, whole or not at all."""

    def write(place: Path) -> None:
        with place.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(pieces)

    write_atomically(out, write)


def opening(title: str, sentence: str, below: str) -> Iterator[str]:
    """What a page says at its top: the end of its sentence stands smaller below its beginning."""
    begin, _, rest = sentence.partition(": ")
    begin = f"{begin[:1].upper()}{begin[1:]}"
    yield f'<div>\n<p class="soft" dir="auto">{cut(title)}</p>\n<h1 dir="auto">{cut(begin)}</h1>\n'
    if rest:
        yield f'<p class="lead" dir="auto">{cut(rest[:1].upper() + rest[1:])}</p>\n'
    yield f'<p class="soft">{below}</p>\n</div>\n'


def looked_at(drawings: int, of: str, references: int, encoder: str) -> str:
    """What figures are of, in a line of HTML."""
    beside = f", beside {counted(references, 'reference')}" if references else ""
    return f"{counted(drawings, 'drawing')} of {of}{beside}; looked at by {cut(encoder)}"


def looks(album: Album, figures: Sequence[tuple[str, Path, bool]], prompt: str) -> Iterator[str]:
    """Large pictures beside each other: (name, file, whether it is the recommended one), and what was asked for."""
    yield '<div>\n<div class="look">\n'
    for name, path, is_chosen in figures:
        yield (
            f"<figure{CHOSEN if is_chosen else ''}>{album.picture(path, f'{name}: {prompt}', LARGE)}"
            f'<figcaption dir="auto"><b>{cut(name, NAME)}</b></figcaption></figure>\n'
        )
    yield f'</div>\n<p class="soft" dir="auto">{cut(prompt)}</p>\n</div>\n'


def bullets(kind: str, lines: Sequence[str], said: str = "") -> Iterator[str]:
    """Lines of a box, with a sentence of ours below."""
    if lines or said:
        points = "".join(f'<li dir="auto">{cut(line)}</li>\n' for line in lines)
        listed = f"<ul>\n{points}</ul>\n" if points else ""
        yield f'<div class="{kind}">{listed}{f"<p>{text(said)}</p>" if said else ""}</div>\n'


def refusals(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Measures that cannot be told, with the reason."""
    if rows:
        yield '<h3>Not told</h3>\n<ul class="plain">\n'
        for title, reason in rows:
            yield f'<li dir="auto"><b>{text(title)}</b>: {cut(reason)}</li>\n'
        yield "</ul>\n"


def meant(measures: Sequence[Meaning], floor: Mapping[str, float]) -> Iterator[str]:
    """What each measure says, where it is from, and what of it is noise."""
    yield '<section>\n<h2>How to read this</h2>\n<details class="more">'
    yield "<summary>What the measures mean</summary>\n<dl>\n"
    for one in measures:
        source = f' <span class="soft">{text(one.source)}.</span>' if one.source else ""
        noise = floor.get(one.name)
        floored = (
            f" Differences of up to {number(noise, one.digits)} are noise."
            if noise is not None and math.isfinite(noise)
            else ""
        )
        yield f"<dt>{text(one.title)} <small>{DIRECTIONS[one.better]}; {text(one.name)}</small></dt>"
        yield f"<dd>{text(one.says)}{floored}{source}</dd>\n"
    yield "</dl>\n</details>\n"


def protocol(case: Case, units: Sequence[Unit], encoder: str, resize: str) -> Iterator[str]:
    """What was drawn and laid beside what."""
    yield '<details class="more"><summary>Prompts, seeds and references</summary>\n'
    for line in case.told:
        yield f'<p dir="auto">{cut(line)}</p>\n'
    seeds = ", ".join(str(seed) for seed in sorted({unit.seed for unit in units}))
    resized = f"; {cut(resize)}" if resize else ""
    trigger = f" Words that call up what was learned: {cut(case.trigger)}." if case.trigger else ""
    looked = f"Encoder: {cut(encoder)}{resized}."
    yield f'<p dir="auto">Base model: {cut(case.model)}.{trigger} Seeds: {seeds}. {looked}</p>\n'
    for kind in dict.fromkeys(prompt.kind for prompt in case.prompts):
        yield f'<h3>{kind[:1].upper() + kind[1:]}</h3>\n<ol class="plain">\n'
        for prompt in case.prompts:
            if prompt.kind == kind:
                yield f'<li dir="auto">{cut(prompt.text)}</li>\n'
        yield "</ol>\n"
    if case.references:
        yield '<h3>References</h3>\n<ul class="plain">\n'
        for reference in case.references:
            yield f'<li dir="auto">{cut(reference.name)}</li>\n'
        yield "</ul>\n"
    yield "</details>\n"


def listed(title: str, told_of: Mapping[str, Any]) -> Iterator[str]:
    """Names and values behind a click."""
    if told_of:
        yield f'<details class="more"><summary>{title}</summary>\n'
        yield from pairs(told_of)
        yield "</details>\n"


def pairs(told_of: Mapping[str, Any]) -> Iterator[str]:
    """A table of names and values, those within others by their path."""
    yield '<table class="pairs-of">\n'
    for name, value in _flat(told_of):
        yield f'<tr><th dir="auto">{cut(name)}</th><td dir="auto">{cut(value)}</td></tr>\n'
    yield "</table>\n"


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
    yield f'<p class="soft">Cost: {counted(spent.drawn, "picture")} drawn{there}; {time} on {cut(spent.device)}.</p>\n'
    yield "</section>\n"
