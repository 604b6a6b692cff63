"""The page of a grid: its pictures in tables, each a link to its file, in HTML that runs nothing."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from sdtune.core.html_page import COLOURS, head, text
from sdtune.core.run_folder import write_atomically
from sdtune.core.sampling.axes import Axis
from sdtune.core.sampling.layout import Shown, Table, label_of, own_settings, prompt_of, tables_of, told
from sdtune.core.sheet import size_of

LETTERS = 4000  # of what a picture's file says
STYLE = (
    COLOURS
    + """* { box-sizing: border-box; }
body { margin: 0; padding: 1.2rem clamp(.6rem, 2vw, 2rem) 4rem; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.5rem; line-height: 1.2; }
h2 { margin: 2rem 0 .3rem; font-size: 1.1rem; max-width: 70rem; }
p { margin: .2rem 0 .7rem; color: var(--soft); font-size: .87rem; max-width: 70rem; }
.table { border: 1px solid var(--line); background: var(--card); width: fit-content; }
table { border-collapse: separate; border-spacing: 0; }
th { position: sticky; z-index: 1; padding: .45rem .6rem; background: var(--card); font-weight: 600; font-size: .9rem; }
thead th { top: 0; border-bottom: 1px solid var(--line); }
tbody th { left: 0; text-align: left; border-right: 1px solid var(--line); min-width: 6.5rem; max-width: 16rem; }
tbody th span { position: sticky; top: 3.5rem; display: block; max-height: 24rem; overflow: hidden; }
thead th:first-child { left: 0; z-index: 2; border-right: 1px solid var(--line); }
td { padding: .5rem; vertical-align: top; background: var(--page); }
figure { margin: 0; width: 16rem; }
.few figure { width: clamp(12rem, 36vw, 32rem); }
.many figure { width: 11rem; }
img { display: block; width: 100%; height: auto; background: var(--mat); border-radius: .25rem; }
a:focus-visible img { outline: 3px solid var(--bar); }
figcaption { padding-top: .3rem; font-size: .8rem; line-height: 1.35; color: var(--soft); }
.own { color: var(--ink); }
summary { cursor: pointer; width: fit-content; }
pre { margin: .3rem 0; padding: .5rem; max-height: 16rem; overflow: auto; background: var(--card); color: var(--ink);
  border-radius: .25rem; font: .75rem/1.4 ui-monospace, monospace; white-space: pre-wrap; }
@media (max-width: 40rem) {
  figure { width: 52vw; }
  .few figure { width: 30vw; }
  .many figure { width: 40vw; }
  tbody th { min-width: 4.7rem; max-width: 22vw; font-size: .72rem; padding: .3rem; }
  tbody th span { max-height: 10rem; }
}
"""
)
DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; img-src 'self' file:; style-src 'sha256-{DIGEST}'; base-uri 'none'; form-action 'none'"


def write_page(pictures: Sequence[Shown], axes: Sequence[Axis], out: Path) -> None:
    """A page to stand beside the pictures, everything in it inert."""

    def write(place: Path) -> None:
        with place.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(html(pictures, axes, out.parent))

    write_atomically(out, write)


def html(pictures: Sequence[Shown], axes: Sequence[Axis], folder: Path) -> Iterator[str]:
    """The page in pieces; the same for the same pictures."""
    title = " by ".join(axis.name for axis in axes) or "pictures"
    tables = tables_of(pictures, axes)
    yield head(title, POLICY, STYLE)
    yield f"<header>\n<h1>{text(title[:1].upper() + title[1:])}</h1>\n"
    counted = "1 picture" if len(pictures) == 1 else f"{len(pictures):,} pictures"
    yield f"<p>{counted}. A click on one shows its file.</p>\n</header>\n<main>\n"
    for table in tables:
        yield from _table(table, axes, folder)
    yield "</main>\n</body>\n</html>\n"


def _table(table: Table, axes: Sequence[Axis], folder: Path) -> Iterator[str]:
    across = len(table.columns)
    kind = "few" if across <= 2 else "many" if across > 6 else "some"
    yield f'<section>\n<h2 dir="auto">{text(table.heading)}</h2>\n' if table.heading else "<section>\n"
    yield f'<p dir="auto">{text(told(table.settings))}</p>\n'
    labelled = any(table.rows)
    corner = "<th></th>" if labelled else ""
    columns = "".join(f'<th scope="col" dir="auto">{text(label)}</th>' for label in table.columns)
    yield f'<div class="table {kind}" tabindex="0"><table>\n<thead><tr>{corner}{columns}</tr></thead>\n<tbody>\n'
    for row, label in enumerate(table.rows):
        yield f'<tr><th scope="row" dir="auto"><span>{text(label)}</span></th>' if labelled else "<tr>"
        for column in range(across):
            one = table.cells.get((row, column))
            yield f"<td>{_figure(table, (row, column), one, axes, folder)}</td>" if one else "<td></td>"
        yield "</tr>\n"
    yield "</tbody>\n</table></div>\n</section>\n"


def _figure(table: Table, cell: tuple[int, int], one: Shown, axes: Sequence[Axis], folder: Path) -> str:
    places = [label_of(axis, place) for axis, place in zip(axes, one.cell, strict=False)]
    names = {axis.name for axis in axes}
    others = [f"seed {one.seed}"] * ("seed" not in names) + [prompt_of(one)] * ("prompt" not in names)
    alt = text(", ".join([*places, *others]))
    address = text(address_of(one.path, folder))
    size = size_of(one.path)
    sides = f' width="{size[0]}" height="{size[1]}"' if size else ""
    said = (
        one.said
        if len(one.said) <= LETTERS
        else f"{one.said[:LETTERS]}... and {len(one.said) - LETTERS:,} letters more"
    )
    lines = "\n".join(text(line) for line in said.split("\n"))
    caption = text(table.captions.get(cell, ""))
    own = text(own_settings(table, one)) or ("" if caption else f"seed {one.seed}")
    told_of_it = f'<div class="own" dir="auto">{caption}</div>' * bool(caption) + f'<div dir="auto">{own}</div>'
    return (
        f'<figure><a href="{address}"><img src="{address}" alt="{alt}"{sides} loading="lazy" decoding="async"></a>'
        f'<figcaption>{told_of_it}<details><summary>parameters</summary><pre dir="auto">{lines}</pre></details>'
        "</figcaption></figure>"
    )


def address_of(path: Path, folder: Path) -> str:
    """A file as a page in the folder leads to it, whatever letters its name has."""
    return f"./{quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))}"
