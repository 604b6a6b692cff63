"""The page of a data set: what `report.html` is told, out of what was sorted and measured."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from sdtune.config import Prepare
from sdtune.core.data.tokens import ESTIMATE
from sdtune.core.intake import report
from sdtune.core.intake.ledger import Ledger, Row
from sdtune.core.intake.one import save_thumbnail
from sdtune.core.intake.reading import Intake
from sdtune.core.intake.shelf import texts_beside
from sdtune.core.intake.sorting import Sorted
from sdtune.core.intake.verdicts import remarks, smallest_side
from sdtune.core.reports import BucketsOf, Problem
from sdtune.core.run_folder import write_atomically

PAGE = "report.html"
SHORT = {
    "unreadable": "its caption file cannot be read",
    "letters": "odd letters in the caption",
    "long": "over 77 tokens",
    "trigger": "no trigger",
    "name": "a file's name for a caption",
    "short": "hardly a caption",
    "doubled": "a tag twice",
}
"""what is told of one image; the problem with its remedy stands at the top"""


def write_page(result: Sorted, intake: Intake, problems: Sequence[Problem], ledger: Ledger, config: Prepare) -> Path:
    """Writes report.html where it would change, and returns its path."""
    path = ledger.out / PAGE
    view = _view(result, intake, problems, ledger, config)

    def write(place: Path) -> None:
        with place.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(report.html(view))

    if not (path.is_file() and _says(path, report.html(view))):
        write_atomically(path, write, within=ledger.unfinished)
    return path


def buckets_of(rows: Sequence[Row]) -> tuple[BucketsOf, ...]:
    """How the prepared images fall into the buckets of each family."""
    told = []
    for family, resolution in report.MODELS:
        table = report.bucket_table([(row.width, row.height) for row in rows], resolution)
        images = max(1, sum(bucket.images for bucket in table))
        enlarged = sum(bucket.enlarged for bucket in table)
        cropped = sum(bucket.cropped * bucket.images for bucket in table) / images
        told.append(BucketsOf(family, resolution, len(table), enlarged, cropped))
    return tuple(told)


def _says(path: Path, pieces: Iterable[str]) -> bool:
    """Whether the page on disk says just this already."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        return all(file.read(len(piece)) == piece for piece in pieces) and not file.read(1)


def _view(
    result: Sorted, intake: Intake, problems: Sequence[Problem], ledger: Ledger, config: Prepare
) -> report.ReportView:
    wrong: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        for name in problem.names if problem.kind in SHORT else ():
            wrong[name].append(SHORT[problem.kind])
    kept = []
    for one in result.kept:
        measured = intake.measured[one.row.key]
        kept.append(_kept(one.row, ledger, (*remarks(measured, one.verdict, config), *wrong[one.row.file])))
    kept += [_kept(row, ledger, ("from a source that was not given this time",)) for row in result.carried]
    aside = [
        report.SetAside(
            one.found.told,
            ledger.thumbnails / f"{one.found.identity.key}.jpg",
            one.verdict.told,
            _size(intake, one.found.identity.key),
            one.like,
            ledger.thumbnails / f"{one.like_key}.jpg" if one.like_key else None,
        )
        for one in result.aside
    ]
    skipped = [report.Skipped(name, reason) for name, reason in sorted(intake.skipped.items())]
    left = [report.Skipped(name, reason) for name, reason in intake.left]
    return report.ReportView(ledger.out.name, _settings(config), kept, aside, skipped, problems, left)


def _kept(row: Row, ledger: Ledger, remarked: tuple[str, ...]) -> report.Kept:
    texts = texts_beside(ledger.out / row.file)
    caption = " / ".join(texts if texts is not None else row.captions) or None
    return report.Kept(
        row.file,
        _thumbnail(row, ledger),
        (row.original_width, row.original_height),
        (row.width, row.height),
        caption,
        ESTIMATE(caption) if caption else 0,
        row.repeats,
        row.held_out,
        (f"mask: {row.mask}",) if row.mask else (),
        remarked,
    )


def _thumbnail(row: Row, ledger: Ledger) -> Path:
    """Made again from the image where someone has cleaned up."""
    path = ledger.thumbnails / f"{row.key}.jpg"
    if not path.exists():
        with contextlib.suppress(OSError), Image.open(ledger.out / row.file) as image:
            save_thumbnail(image.convert("RGB"), path)
    return path


def _size(intake: Intake, key: str) -> tuple[int, int]:
    measured = intake.measured[key]
    return measured.width, measured.height


def _settings(config: Prepare) -> str:
    """What has shaped the data set, in one line."""
    judge = config.judge
    told = [
        f"area of {config.resolution} x {config.resolution} at most, {config.format}",
        f"shorter side at least {smallest_side(config)}",
        f"near-duplicates within {judge.likeness} bits",
        f"sharpness at least {judge.sharpness:g}",
        f"{config.held_out:.0%} held out",
    ]
    return "; ".join([*told, *(["everything kept"] if judge.keep_all else [])])
