"""report.html: what became of every image, in one page that needs nothing else and runs nothing."""

from __future__ import annotations

import base64
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from sdtune.core.data.buckets import Size, Tally, bucket_for, tally
from sdtune.core.html_page import COLOURS, head, text
from sdtune.core.reports import Problem

ENLARGED = 1.25  # times; beyond it an image is too small for its bucket
SHOWN = 1000  # images of a kind; what is more is listed by name, since a page with all would not open
NAMED = 200  # images named under a problem of captions
LETTERS = 240  # of a caption
THUMBNAIL_BYTES = 256 * 2**10
TOKENS = 77  # CLIP reads no further
MODELS = (("SD 1.5", 512), ("SD 2", 768), ("SDXL, SD 3", 1024))
SIDES = (256, 384, 512, 640, 768, 1024, 1536, 2048, 3072, 4096)  # pixels; where the bars of a histogram begin
LENGTHS = (1, 11, 21, 31, 41, 51, 61, TOKENS + 1)  # tokens
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True)
class Kept:
    """An image of the data set."""

    name: str
    """of the file in the data set"""
    thumbnail: Path | None
    """JPEG; None, or a file that is not there: a blank"""
    original: Size
    prepared: Size
    caption: str | None = None
    tokens: int = 0
    """length of the caption"""
    repeats: int = 1
    held_out: bool = False
    notices: tuple[str, ...] = ()
    """what was done with the image: "animated: only the first frame is used" """
    remarks: tuple[str, ...] = ()
    """what the user should put right: "caption over 77 tokens" """


@dataclass(frozen=True, slots=True)
class SetAside:
    """An image that was left out and can be looked at."""

    name: str
    """as the user knows it"""
    thumbnail: Path | None
    reason: str
    original: Size | None = None
    instead: str | None = None
    """near-duplicates: name of the image that is kept in its stead"""
    instead_thumbnail: Path | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that cannot be used."""

    name: str
    reason: str


Item = TypeVar("Item", Kept, SetAside)


@dataclass(frozen=True)
class ReportView:
    """All that the page says; the sequences may be long, and are gone through several times."""

    title: str
    settings: str
    """in one line"""
    kept: Sequence[Kept] = ()
    set_aside: Sequence[SetAside] = ()
    skipped: Sequence[Skipped] = ()
    problems: Sequence[Problem] = ()
    """of captions"""
    left: Sequence[Skipped] = ()
    """files that are no images"""


STYLE = (
    COLOURS
    + """* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 100rem; padding: 1.5rem clamp(.8rem, 3vw, 2.5rem) 4rem; background: var(--page);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 .8rem; font-size: 1.25rem; }
h3 { margin: 1.8rem 0 .4rem; font-size: 1rem; }
h2 small, caption small { color: var(--soft); font-weight: normal; }
p { margin: .3rem 0; }
.settings, section > p { color: var(--soft); max-width: 60rem; }
nav { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .7rem; margin-top: 1.2rem; }
nav > * { padding: .7rem .9rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  color: inherit; text-decoration: none; line-height: 1.25; }
nav a:hover, nav a:focus-visible { border-color: var(--bar); }
nav > div { opacity: .6; }
nav b { display: block; font-size: 1.6rem; font-variant-numeric: tabular-nums; }
nav small { display: block; color: var(--soft); }
.problems { margin: 0; padding: 0; list-style: none; display: grid; gap: .6rem; }
.problems > li { padding: .7rem .9rem; background: var(--card); border: 1px solid var(--line);
  border-left: 4px solid var(--warned-bar); border-radius: .4rem; }
.problems strong { display: block; font-weight: 600; }
.problems span { color: var(--soft); }
details { margin-top: .4rem; }
summary { cursor: pointer; color: var(--soft); width: fit-content; }
details ul { margin: .4rem 0; padding-left: 1.4rem; columns: 22rem; font-size: .87rem; }
table { border-collapse: collapse; }
th { font-weight: 600; text-align: left; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
.skipped { width: 100%; background: var(--card); border: 1px solid var(--line); font-size: .9rem; }
.skipped th, .skipped td { padding: .4rem .8rem; border-top: 1px solid var(--line); vertical-align: top; width: 50%; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem 2.5rem;
  align-items: start; }
.bars, .buckets { width: 100%; font-size: .87rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
.bars th, .buckets th { font-weight: normal; white-space: nowrap; padding-right: .7rem; width: 1%; color: var(--soft); }
.bars td, .buckets td { text-align: right; padding: .12rem 0 .12rem .5rem; width: 1%; white-space: nowrap; }
.bars td.bar, .buckets td.bar { width: auto; text-align: left; padding-left: 0; }
.bar i { display: block; height: .8rem; border-radius: 2px; background: var(--bar); }
.bar i.warned { background: var(--warned-bar); }
.buckets tr:first-of-type th { padding: 0 0 .2rem .7rem; text-align: right; }
.buckets tr:first-of-type th:nth-child(2) { padding-left: 0; text-align: left; }
.buckets td:first-child { padding: 0 .5rem 0 0; text-align: center; }
.shape { display: inline-block; vertical-align: middle; border: 1px solid var(--soft); border-radius: 2px; }
.sum td, .sum th { border-top: 1px solid var(--line); font-weight: 600; color: var(--ink); }
.warned { color: var(--warned); }
.good { color: var(--good); }
.none { color: var(--soft); font-style: italic; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 11.5rem), 1fr)); gap: .9rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; overflow: clip; }
.pair { grid-column: span 2; display: grid; grid-template-columns: 1fr 1fr; }
.pair > div + div { border-left: 1px solid var(--line); }
.picture { position: relative; aspect-ratio: 1; display: grid; place-items: center; background: var(--mat);
  color: var(--soft); font-size: .85rem; }
.picture img { position: absolute; width: 100%; height: 100%; object-fit: contain; }
figcaption { padding: .55rem .7rem .7rem; font-size: .85rem; line-height: 1.35; }
figcaption strong { display: block; font-weight: 600; }
figcaption small { color: var(--soft); font-size: .8rem; margin-right: .4rem; }
figcaption em { display: inline-block; font-style: normal; font-size: .75rem; line-height: 1.2; padding: .1rem .4rem;
  border: 1px solid var(--line); border-radius: 1rem; margin-right: .3rem; color: var(--soft); }
figcaption .notice { color: var(--soft); font-size: .8rem; }
figcaption .warned, figcaption .good { font-size: .8rem; }
@media (max-width: 30rem) {
  .sheet { grid-template-columns: 1fr 1fr; gap: .6rem; }
  .skipped th, .skipped td { display: block; width: 100%; }
  .skipped td { border: 0; padding-top: 0; }
}
"""
)


def bucket_table(sizes: Iterable[Size], resolution: int) -> tuple[Tally, ...]:
    """The buckets of a resolution that images of these sizes fall into, with those that are too small for them."""
    listed = list(sizes)
    return tally(listed, [bucket_for(*size, resolution) for size in listed], beyond=ENLARGED)


def html(view: ReportView) -> Iterator[str]:
    """The page in pieces, to be written one after another; the same for the same view."""
    yield head(view.title, POLICY, STYLE)
    yield from _header(view)
    yield "<main>\n"
    yield from _problems(view.problems)
    yield from _table("skipped", "Skipped", view.skipped)
    yield from _section("set-aside", "Set aside", view.set_aside, _set_aside_card)
    yield from _shapes(view.kept)
    yield from _section("kept", "In the data set", view.kept, _kept_card)
    yield from _table("left", "Left alone", view.left)
    yield "</main>\n</body>\n</html>\n"


def _header(view: ReportView) -> Iterator[str]:
    images = len(view.kept)
    held_out = sum(one.held_out for one in view.kept)
    described = sum(bool(one.caption) for one in view.kept)
    tiles = [
        ("kept", images, "in the data set", f"{held_out:,} of them held out" if held_out else ""),
        ("kept", described, "with a caption", f"{images - described:,} without" if described < images else ""),
        ("problems", len(view.problems), "problems of captions", ""),
        ("set-aside", len(view.set_aside), "set aside", ""),
        ("skipped", len(view.skipped), "skipped", "files that cannot be used" if view.skipped else ""),
    ]
    yield f'<header>\n<h1 dir="auto">{text(view.title)}</h1>\n'
    yield f'<p class="settings" dir="auto">{text(view.settings)}</p>\n<nav>\n'
    for anchor, count, what, more in tiles:
        small = f" <small>{more}</small>" if more else ""
        inner = f"<b>{count:,}</b> <span>{what}</span>{small}"
        yield f'<a href="#{anchor}">{inner}</a>\n' if count else f"<div>{inner}</div>\n"
    yield "</nav>\n</header>\n"


def _problems(problems: Sequence[Problem]) -> Iterator[str]:
    if not problems:
        return
    yield '<section id="problems">\n<h2>Problems of captions</h2>\n<ul class="problems">\n'
    for one in problems:
        yield f'<li><strong dir="auto">{text(one.told)}</strong> <span dir="auto">{text(one.remedy)}</span>\n'
        if one.names:
            more = [f"and {len(one.names) - NAMED:,} more"] if len(one.names) > NAMED else []
            yield from _names(f"the images ({len(one.names):,})", [*one.names[:NAMED], *more])
        yield "</li>\n"
    yield "</ul>\n</section>\n"


def _table(anchor: str, title: str, skipped: Sequence[Skipped]) -> Iterator[str]:
    if not skipped:
        return
    yield f'<section id="{anchor}">\n<h2>{title} <small>{len(skipped):,}</small></h2>\n'
    yield from _skipped_table(skipped[:SHOWN])
    if len(skipped) > SHOWN:
        yield f"<details><summary>and {len(skipped) - SHOWN:,} more</summary>\n"
        yield from _skipped_table(skipped[SHOWN:])
        yield "</details>\n"
    yield "</section>\n"


def _skipped_table(skipped: Sequence[Skipped]) -> Iterator[str]:
    yield '<table class="skipped">\n'
    for one in skipped:
        yield f'<tr><th dir="auto">{_name(one.name)}</th><td dir="auto">{text(one.reason)}</td></tr>\n'
    yield "</table>\n"


def _shapes(kept: Sequence[Kept]) -> Iterator[str]:
    if not kept:
        return
    yield '<section id="shapes">\n<h2>Sizes and captions</h2>\n<div class="columns">\n'
    sides = [f"under {SIDES[0]:,}", *(f"{a:,}-{b - 1:,}" for a, b in pairwise(SIDES)), f"{SIDES[-1]:,} and more"]
    counts = [0] * len(sides)
    for one in kept:
        counts[bisect_right(SIDES, min(one.original))] += 1
    yield from _histogram("Shorter side of the originals, pixels", list(zip(sides, counts, strict=True)))
    lengths = [f"{a}-{b - 1}" for a, b in pairwise(LENGTHS)]
    counts = [0] * (len(lengths) + 2)
    for one in kept:
        counts[bisect_right(LENGTHS, max(one.tokens, 1)) if one.caption else 0] += 1
    rows = list(zip(["no caption", *lengths, f"over {TOKENS}: cut off"], counts, strict=True))
    yield from _histogram("Length of captions, tokens", rows, warned=(0, len(rows) - 1))
    yield "</div>\n<h3>Buckets</h3>\n"
    yield (
        "<p>How training sorts the images by their shape, for each size of model. An image is too small where it must "
        "be enlarged beyond 1.25 times; what a bucket has no room for is cropped away at the edges.</p>\n"
    )
    yield '<div class="columns">\n'
    for model, resolution in MODELS:
        yield from _buckets(model, resolution, bucket_table((one.prepared for one in kept), resolution))
    yield "</div>\n</section>\n"


def _histogram(title: str, rows: Sequence[tuple[str, int]], warned: Sequence[int] = ()) -> Iterator[str]:
    """Bars from the first row that has any to the last; those that are warned of stand out."""
    filled = [place for place, (_, count) in enumerate(rows) if count]
    most = max(count for _, count in rows)
    yield f'<table class="bars">\n<caption>{title}</caption>\n'
    for place in range(filled[0], filled[-1] + 1):
        label, count = rows[place]
        yield f"<tr><th>{label}</th>{_bar(count, most, 'warned' if place in warned else '')}<td>{count:,}</td></tr>\n"
    yield "</table>\n"


def _buckets(model: str, resolution: int, rows: Sequence[Tally]) -> Iterator[str]:
    images, most = sum(row.images for row in rows), max(row.images for row in rows)
    enlarged = sum(row.enlarged for row in rows)
    cropped = sum(row.images * row.cropped for row in rows) / images
    yield f'<table class="buckets">\n<caption>{model} <small>{resolution} px</small></caption>\n'
    yield '<tr><td></td><th>bucket</th><td class="bar"></td><th>images</th><th>too small</th><th>cropped</th></tr>\n'
    for row in rows:
        yield (
            f"<tr><td>{_shape(row.size)}</td><th>{_size(row.size)}</th>{_bar(row.images, most)}"
            f"<td>{row.images:,}</td>{_warned(row.enlarged)}<td>{_percent(row.cropped)}</td></tr>\n"
        )
    yield f'<tr class="sum"><td></td><th>all</th><td class="bar"></td><td>{images:,}</td>{_warned(enlarged)}'
    yield f"<td>{_percent(cropped)}</td></tr>\n</table>\n"


def _shape(bucket: Size) -> str:
    """The bucket's shape as a little picture."""
    width, height = (round(18 * side / max(bucket)) for side in bucket)
    return f'<i class="shape" style="width:{width}px;height:{height}px"></i>'


def _bar(count: int, most: int, kind: str = "") -> str:
    width = max(1.0, 100 * count / most) if count else 0
    return f'<td class="bar"><i class="{kind}" style="width:{width:.1f}%"></i></td>'


def _warned(count: int) -> str:
    return f'<td class="warned">{count:,}</td>' if count else "<td>0</td>"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _section(anchor: str, title: str, items: Sequence[Item], card: Callable[[Item], str]) -> Iterator[str]:
    """A contact sheet of the first items; the rest by name."""
    if not items:
        return
    yield f'<section id="{anchor}">\n<h2>{title} <small>{len(items):,}</small></h2>\n<div class="sheet">\n'
    for one in items[:SHOWN]:
        yield card(one)
    yield "</div>\n"
    if len(items) > SHOWN:
        yield from _names(f"and {len(items) - SHOWN:,} more, by name", (_line(one) for one in items[SHOWN:]))
    yield "</section>\n"


def _names(summary: str, names: Iterable[str]) -> Iterator[str]:
    yield f"<details><summary>{summary}</summary><ul>\n"
    for name in names:
        yield f'<li dir="auto">{_name(name)}</li>\n'
    yield "</ul></details>\n"


def _line(one: Kept | SetAside) -> str:
    return one.name if isinstance(one, Kept) else f"{one.name}: {one.reason}"


def _kept_card(one: Kept) -> str:
    badges = [f"{one.repeats:,} repeats"] if one.repeats != 1 else []
    badges += ["held out"] if one.held_out else []
    size = _size(one.original)
    size += f" &rarr;&nbsp;{_size(one.prepared)}" if one.prepared != one.original else ""
    caption = f'<p dir="auto">{text(_cut(one.caption))}</p>' if one.caption else '<p class="none">no caption</p>'
    lines = [f'<p class="notice" dir="auto">{text(told)}</p>' for told in one.notices]
    lines += [f'<p class="warned" dir="auto">{text(told)}</p>' for told in one.remarks]
    return (
        f"<figure>{_picture(one.thumbnail, one.name)}<figcaption>"
        f'<strong dir="auto">{_name(one.name)}</strong><small>{size}</small>'
        f"{''.join(f'<em>{badge}</em>' for badge in badges)}{caption}{''.join(lines)}"
        "</figcaption></figure>\n"
    )


def _set_aside_card(one: SetAside) -> str:
    size = f"<small>{_size(one.original)}</small>" if one.original else ""
    told = f'<strong dir="auto">{_name(one.name)}</strong>{size}<p class="warned" dir="auto">{text(one.reason)}</p>'
    told = f"{_picture(one.thumbnail, one.name)}<figcaption>{told}</figcaption>"
    if one.instead is None:
        return f"<figure>{told}</figure>\n"
    name = f'<strong dir="auto">{_name(one.instead)}</strong><p class="good">kept instead</p>'
    kept = f"{_picture(one.instead_thumbnail, one.instead)}<figcaption>{name}</figcaption>"
    return f'<figure class="pair"><div>{told}</div><div>{kept}</div></figure>\n'


def _picture(path: Path | None, name: str) -> str:
    try:
        with open(path or os.devnull, "rb") as file:
            found = file.read(THUMBNAIL_BYTES + 1)
    except OSError:
        found = b""
    if not found.startswith(b"\xff\xd8") or len(found) > THUMBNAIL_BYTES:
        return '<div class="picture">no picture</div>'
    data = base64.b64encode(found).decode()
    return f'<div class="picture"><img src="data:image/jpeg;base64,{data}" alt="{text(name)}"></div>'


def _size(size: Size) -> str:
    return f"{size[0]}&nbsp;&times;&nbsp;{size[1]}"


def _cut(caption: str) -> str:
    rest = len(caption) - LETTERS
    return caption if rest <= 0 else f"{caption[:LETTERS]}... and {rest:,} letters more"


def _name(name: str) -> str:
    """A file's name, which may go on in the next line behind a slash or an underline."""
    return text(name).replace("/", "/<wbr>").replace("_", "_<wbr>")
