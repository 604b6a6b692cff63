"""Near-copies on a page: each trained picture that is copied, beside the drawings that are most like it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sdtune.core.evaluation.contact import NAME, Album, cut
from sdtune.core.evaluation.figures import counted
from sdtune.core.evaluation.outcome import Copy
from sdtune.core.evaluation.page_frame import bullets
from sdtune.core.evaluation.subject import Case, Unit

GROUPS = 24  # trained pictures of which copies are shown
COPIES = 2  # drawings shown beside each of them
NAMED = 200  # further copies listed by name


def alarming(copies: Sequence[Copy]) -> list[Copy]:
    """Copies that no caption of that very picture asked for."""
    return [copy for copy in copies if not copy.own_prompt]


Found = tuple[int, str, bool, Copy, Path]
"""(subject, name of the LoRA and strength, whether it is what is recommended, the copy, the drawing)"""


def copies(
    album: Album, case: Case, units: Sequence[Unit], found: Sequence[Found], lines: Sequence[str], recommended: str
) -> Iterator[str]:
    """Near-copies beside the pictures that they copy; those that their own captions asked for stand apart."""
    sharp, mild = ([one for one in found if one[3].own_prompt is own] for own in (False, True))
    if sharp or lines:
        count = f" <small>{len(sharp):,}</small>" if sharp else ""
        yield f'<section id="copies">\n<h2>Near-copies of trained pictures{count}</h2>\n'
        own = sum(one[2] for one in sharp)
        by = f"{counted(own, 'of these is', 'of these are') if own else 'None of these is'} by {recommended}."
        said = by if recommended and sharp else ""
        yield from bullets("alarm", lines, said)
        yield from _grouped(album, case, units, sharp)
        yield "</section>\n"
    if mild:
        yield '<section id="recited" class="mild">\n<details class="more">'
        yield f"<summary>Recited captions: {counted(len(mild), 'drawing')} like the picture whose caption they were "
        yield 'drawn from</summary>\n<p class="soft">Milder than a copy that nobody asked for; yet where there are '
        yield "many, the LoRA knows pictures rather than what they show.</p>\n"
        yield from _grouped(album, case, units, mild)
        yield "</details>\n</section>\n"


def _grouped(album: Album, case: Case, units: Sequence[Unit], found: Sequence[Found]) -> Iterator[str]:
    """A box for each trained picture: it, and the drawings that are most like it."""
    groups: dict[tuple[int, int], list[Found]] = {}
    for one in sorted(found, key=lambda one: (not one[2], -one[3].likeness)):
        groups.setdefault((one[0], one[3].trained), []).append(one)
    yield '<div class="pairs">\n'
    rest: list[str] = []
    for number_of_group, ((subject, place), ones) in enumerate(groups.items()):
        trained = case.subjects[subject].trained[place]
        rest += [
            f"{trained.name}: {name}, seed {units[copy.unit].seed}, likeness {copy.likeness:.3f}, "
            f"{case.prompts[units[copy.unit].prompt].text}"
            for _, name, _, copy, _ in (ones if number_of_group >= GROUPS else ones[COPIES:])
        ]
        if number_of_group >= GROUPS:
            continue
        run = f"{case.subjects[subject].name}: " if len(case.subjects) > 1 else ""
        heading = f"{cut(run + trained.name, NAME)} <small>{counted(len(ones), 'drawing')}</small>"
        yield f'<div class="pair"><h3 dir="auto">{heading}</h3><div>\n'
        yield f'<figure class="trained">{album.picture(trained.path, f"trained picture {trained.name}")}'
        yield "<figcaption><b>trained picture</b></figcaption></figure>\n"
        for _, name, _, copy, path in ones[:COPIES]:
            unit = units[copy.unit]
            prompt = case.prompts[unit.prompt].text
            yield f"<figure>{album.picture(path, f'{name}: {prompt}')}"
            yield f'<figcaption dir="auto"><b>{cut(name, NAME)}</b>{cut(prompt)} <small>seed {unit.seed}; likeness '
            yield f"{copy.likeness:.3f}, usual up to {copy.usual:.3f}</small></figcaption></figure>\n"
        yield "</div></div>\n"
    yield "</div>\n"
    if rest:
        yield f'<details><summary>{len(rest):,} more, by name</summary><ul class="plain">\n'
        for line in rest[:NAMED]:
            yield f'<li dir="auto">{cut(line)}</li>\n'
        if len(rest) > NAMED:
            yield f"<li>and {len(rest) - NAMED:,} more, in report.json</li>\n"
        yield "</ul></details>\n"
