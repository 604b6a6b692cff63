"""Near-copies on a page: each trained picture that is copied, beside the drawings that are most like it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.core.evaluation.contact import NAME, TRAINED, Album, escaped
from sdtune.core.evaluation.figures import counted
from sdtune.core.evaluation.outcome import Copy
from sdtune.core.evaluation.page_frame import bullets
from sdtune.core.evaluation.subject import Case, Reference, Unit
from sdtune.core.html_page import text

GROUPS = 24  # trained pictures of which copies are shown
COPIES = 2  # drawings shown beside each of them
NAMED = 200  # further copies listed by name


@dataclass(frozen=True)
class Found:
    """A near-copy with all that a page says of it."""

    name: str
    """of the LoRA and its strength"""
    recommended: bool
    copy: Copy
    trained: Reference
    drawing: Path


def copies(
    album: Album, case: Case, units: Sequence[Unit], found: Sequence[Found], lines: Sequence[str], recommended: str
) -> Iterator[str]:
    """Near-copies beside the pictures that they copy, and folded those that are milder; `recommended`: what is, if any.

    Milder is what was asked for by the picture's own caption, and what no prompt of what was learned brought.
    """
    astray = [one for one in found if one.copy.astray]
    if astray or lines:
        count = f" <small>{len(astray):,}</small>" if astray else ""
        yield f'<section id="copies">\n<h2>Near-copies of trained pictures{count}</h2>\n'
        own = sum(one.recommended for one in astray)
        by = f"{counted(own, 'of these is', 'of these are') if own else 'None of these is'} by {recommended}."
        yield from bullets("alarm", lines, by if recommended and astray else "")
        yield from _grouped(album, case, units, astray)
        yield "</section>\n"
    yield from _folded(
        album,
        case,
        units,
        [one for one in found if one.copy.own_prompt],
        "Recited captions",
        "Like the trained picture whose very caption was drawn. Milder than a copy that nobody asked for; yet where "
        "there are many, the LoRA knows pictures rather than what they show.",
        recommended,
    )
    yield from _folded(
        album,
        case,
        units,
        [one for one in found if not one.copy.own_prompt and not one.copy.asked],
        "Near-copies in other prompts",
        "Like a trained picture though the prompt does not ask for what was learned.",
        recommended,
    )


def _folded(
    album: Album,
    case: Case,
    units: Sequence[Unit],
    found: Sequence[Found],
    title: str,
    said: str,
    recommended: str,
) -> Iterator[str]:
    """A section behind a click: first of what is recommended, then of all others behind another."""
    if not found:
        return
    own, others = ([one for one in found if one.recommended is here] for here in (True, False))
    split = f"{len(own):,} by {escaped(recommended, NAME)}, {len(others):,} by others"
    by = split if recommended else counted(len(others), "drawing")
    yield f'<section class="mild">\n<details class="more"><summary>{title}: {by}</summary>\n'
    yield f'<p class="soft">{text(said)}</p>\n'
    if own:
        yield from _grouped(album, case, units, own)
    if own and others:
        yield f"<details><summary>{counted(len(others), 'drawing')} by others</summary>\n"
    if others:
        yield from _grouped(album, case, units, others)
    if own and others:
        yield "</details>\n"
    yield "</details>\n</section>\n"


def _grouped(album: Album, case: Case, units: Sequence[Unit], found: Sequence[Found]) -> Iterator[str]:
    """A box for each trained picture: it, and the drawings that are most like it."""
    groups: dict[Reference, list[Found]] = {}
    for one in sorted(found, key=lambda one: (not one.recommended, -one.copy.likeness)):
        groups.setdefault(one.trained, []).append(one)
    yield '<div class="pairs">\n'
    rest: list[str] = []
    for number_of_group, (trained, ones) in enumerate(groups.items()):
        rest += [
            f"{trained.name}: {one.name}, seed {units[one.copy.unit].seed}, likeness {one.copy.likeness:.3f}, "
            f"{case.prompts[units[one.copy.unit].prompt].text}"
            for one in (ones if number_of_group >= GROUPS else ones[COPIES:])
        ]
        if number_of_group >= GROUPS:
            continue
        heading = f"{escaped(trained.name, NAME)} <small>{counted(len(ones), 'drawing')}</small>"
        yield f'<div class="pair"><h3 dir="auto">{heading}</h3><div>\n'
        yield f'<figure class="trained">{album.picture(trained.path, f"{TRAINED} {trained.name}")}'
        yield f"<figcaption><b>{TRAINED}</b></figcaption></figure>\n"
        for one in ones[:COPIES]:
            unit = units[one.copy.unit]
            prompt = case.prompts[unit.prompt].text
            yield f"<figure>{album.picture(one.drawing, f'{one.name}: {prompt}')}"
            yield f'<figcaption dir="auto"><b>{escaped(one.name, NAME)}</b>{escaped(prompt)} <small>seed {unit.seed}; '
            yield f"likeness {one.copy.likeness:.3f}, usual up to {one.copy.usual:.3f}</small></figcaption></figure>\n"
        yield "</div></div>\n"
    yield "</div>\n"
    if rest:
        yield f'<details><summary>{len(rest):,} more, by name</summary><ul class="plain">\n'
        for line in rest[:NAMED]:
            yield f'<li dir="auto">{escaped(line)}</li>\n'
        if len(rest) > NAMED:
            yield f"<li>and {len(rest) - NAMED:,} more, in report.json</li>\n"
        yield "</ul></details>\n"
