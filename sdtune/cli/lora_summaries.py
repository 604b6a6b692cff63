"""What the commands about LoRA files say at their end: lines of two columns, and tables by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sdtune.cli.summaries import counted, in_bytes, line

LISTED = 12
"""modules, or settings of metadata, in a list; --json has them all"""
LEGEND = (
    "norm: of all that is added; largest: singular value of a module;",
    "in use: directions of a module that matter, at most the rank",
)
LEGEND_OF_TWO = (
    "first, second: norm of what each adds; apart: norm of the difference, by the",
    "larger; cosine: 1 is the same direction, 0 nothing in common",
)
DOUBLE = 1e-12
"""shares that are but rounding of double precision"""
LETTERS = 60
"""of a value where two stand beside each other"""
HASHED = 20
"""letters of a hash; the short ones, by which sites know a LoRA, are whole"""
LONGEST = 300
"""letters of a value of metadata, unless it is asked for in JSON"""


def merged(report: Any) -> Iterator[str]:
    """Of sdtune.core.lora_reports.Merged."""
    yield line("model", f"{report.out}, {in_bytes(report.size)}")
    yield line("is", f"{titled(report.family)}, {report.layout} layout, {report.dtype}")
    yield line("changed", f"{report.changed:,} of {counted(report.of, 'module')}")
    whole = f", the whole prediction by {share(report.denoised)}" if report.denoised is not None else ""
    yield line("differs", f"from the base with its LoRAs beside it: layers by {share(report.layers)} at most{whole}")
    if report.try_next:
        yield line("try next", report.try_next)


def written(report: Any) -> Iterator[str]:
    """Of sdtune.core.lora_reports.Written."""
    yield line("LoRA", f"{report.out}, {in_bytes(report.size)}")
    yield line("made", report.made)
    modules = counted(report.modules, "module") + ("" if report.rank == "-" else f" of rank {report.rank}")
    yield line("is", f"{titled(report.family)}, {report.form} form, {report.dtype}, {modules}")
    if report.lost is not None:
        yield line("lost", f"{share(report.lost)} of {report.measured}")
    if report.blocks:
        rows = [(one.block, one.modules, one.before, one.rank, share(one.lost)) for one in report.blocks]
        yield ""
        yield from table(("block", "modules", "rank", "now", "lost"), rows)
        yield ""
    if report.try_next:
        yield line("try next", report.try_next)


def inspected(report: Any) -> Iterator[str]:
    """Of sdtune.core.lora_reports.Inspected."""
    yield line("file", f"{report.path}, {in_bytes(report.size)}")
    yield line("title", report.title)
    yield line("family", titled(report.family))
    yield line("form", f"{report.form}, {report.dtype}")
    if report.networks:
        yield line("network", f"{', '.join(report.networks)}; rank {report.rank}, alpha {report.alpha}")
    parts = ", ".join(f"{part} {count:,}" for part, count in report.parts.items())
    yield line("modules", f"{report.modules:,}" + (f" ({parts})" if parts else ""))
    yield line("trigger", report.trigger or "none is named")
    if report.embeddings:
        yield line("new words", ", ".join(report.embeddings))
    yield from _listed("trained", report.trained)
    yield from _listed("hashes", {name: _cut(value) for name, value in report.hashes.items()})
    if report.hash_holds:
        yield line("" if report.hashes else "hashes", "the hash holds: these are the weights that it was made with")
    if report.metadata:
        yield ""
        for name, value in report.metadata.items():
            yield f"{name} = {_shortened(value, LONGEST)}"
    if report.blocks:
        yield ""
        yield from _blocks(report.blocks)
        if any(one.norm is not None for one in report.blocks):
            yield from LEGEND
    if report.problems:
        yield ""
    for problem in report.problems:
        told, _, remedy = problem.partition("; ")
        yield line("note", told)
        if remedy:
            yield line("", remedy)
    if report.try_next:
        yield ""
        yield line("try next", report.try_next)


def differing(report: Any) -> Iterator[str]:
    """Of sdtune.core.lora_reports.Differing."""
    from sdtune.core.lora_metadata import OF_THE_FILE

    yield line("first", str(report.first))
    yield line("second", str(report.second))
    if report.equal:
        yield line("apart", "not at all: both add the same")
    elif report.blocks:
        yield line("apart", f"by {share(report.difference)} of the larger update, cosine {report.cosine:.4f}")
    else:
        yield line("apart", "wholly: they change no module in common")
    for which, names in (("first", report.only_first), ("second", report.only_second)):
        if names:
            yield line(f"only {which}", f"{counted(len(names), 'module')}: {_named(names)}")
    if report.blocks and not report.equal:
        yield ""
        rows = [
            (
                one.block,
                one.modules,
                f"{one.first:.3g}",
                f"{one.second:.3g}",
                share(one.difference),
                f"{one.cosine:.4f}",
            )
            for one in report.blocks
        ]
        yield from table(("block", "modules", "first", "second", "apart", "cosine"), rows)
        yield from LEGEND_OF_TWO
    said = [name for name in report.metadata if name not in OF_THE_FILE]
    if said:
        yield from ("", "metadata that differ, of the first and of the second:")
    for name in said[:LISTED]:
        first, second = (_shortened(one, LETTERS) if one is not None else "-" for one in report.metadata[name])
        yield from (name, f"    {first}", f"    {second}")
    if len(said) > LISTED:
        yield f"and {len(said) - LISTED} more that differ in the metadata; --json lists them all"


def titled(family: str | None) -> str:
    """ "sd1" -> "Stable Diffusion 1.x"; None is of a LoRA that may be for either of the first two."""
    from sdtune.core.families import family_named

    return family_named(family).title if family else "Stable Diffusion 1.x or 2.x"


def share(of: float) -> str:
    """ "12 %", "0.024 %", "2e-06 %", and "0 %" of nothing or of what double precision leaves."""
    return f"{100 * of:.0f} %" if of >= 0.1 or of < DOUBLE else f"{100 * of:.2g} %"


def table(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    """The first column to the left, the others to the right, each as wide as it has to be."""
    cells = [[str(cell) for cell in row] for row in (heading, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        rest = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([f"{first:<{widths[0]}}", *rest])


def _blocks(blocks: Sequence[Any]) -> Iterator[str]:
    """Of what is known of them; a network that all have needs no column."""
    columns: list[tuple[str, list[str]]] = [
        ("block", [one.block for one in blocks]),
        ("modules", [f"{one.modules:,}" for one in blocks]),
    ]
    if len({one.network for one in blocks}) > 1:
        columns.append(("network", [one.network for one in blocks]))
    columns += [("rank", [one.rank for one in blocks]), ("alpha", [one.alpha for one in blocks])]
    if any(one.norm is not None for one in blocks):
        columns += [
            ("norm", [_number(one.norm) for one in blocks]),
            ("largest", [_number(one.largest) for one in blocks]),
            ("in use", [_number(one.effective) for one in blocks]),
        ]
    yield from table([name for name, _ in columns], list(zip(*(cells for _, cells in columns), strict=True)))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _listed(label: str, told: Mapping[str, str]) -> Iterator[str]:
    """Names and values in columns of their own."""
    width = max(map(len, told), default=0)
    for number, (name, value) in enumerate(told.items()):
        yield line("" if number else label, f"{name:<{width}}  {_shortened(value, LONGEST)}")


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more; --json lists them all" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _cut(text: str) -> str:
    """A hash, or what it begins with."""
    return text if len(text) <= HASHED else f"{text[:HASHED]}..."


def _shortened(text: str, most: int) -> str:
    """A picture by its size; of other long text the beginning."""
    if text.startswith("data:image/"):
        return f"{text.partition(';')[0].removeprefix('data:')}, {in_bytes(len(text) * 3 / 4)}"
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} letters)"
