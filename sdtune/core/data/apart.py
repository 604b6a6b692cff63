"""Folders of one run held against each other: none is read twice, and an image that lies in two of them is told."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from sdtune.core.data.sources import SYSTEM
from sdtune.errors import DataError

NAMED = 3  # images named in one message


def check_places(folders: Sequence[tuple[Path, bool]]) -> list[str]:
    """What is wrong where folders (path, whether for regularisation) are the same or lie in each other."""
    real = [(os.path.realpath(path), path, prior) for path, prior in folders]
    problems = []
    for (place, path, prior), (other_place, other, other_prior) in combinations(real, 2):
        if place == other_place and prior != other_prior:
            problems.append(
                f"{other}: is the data itself ({path}), and regularisation images show the class without the subject; "
                'leave prior out, or let --prior 200 --class-prompt "a dog" draw them'
            )
        elif place == other_place:
            problems.append(f"{other}: is given already, as {path}; leave one out, and say how often with repeats")
        elif os.path.commonpath([place, other_place]) in (place, other_place):
            inner, outer = (path, other) if len(place) > len(other_place) else (other, path)
            problems.append(f"{inner}: lies in {outer}, which is read with all below it; leave it out, or move it out")
    return problems


def check_cache(cache: Path, folders: Sequence[Path]) -> list[str]:
    """What is wrong where the cache lies in data, as which it would be read the next time."""
    place = os.path.realpath(cache)
    for folder in folders:
        real = os.path.realpath(folder)
        if os.path.commonpath([place, real]) != real or any(
            part.startswith(".") or part in SYSTEM for part in Path(os.path.relpath(place, real)).parts
        ):
            continue
        return [
            f"{cache}: the cache would lie among the images of {folder}, and be read as such; give it another folder "
            "with --cache.folder or in SDTUNE_CACHE"
        ]
    return []


@dataclass(frozen=True)
class Placed:
    """An image of one of the run's folders."""

    path: Path
    sha256: str
    folder: Path
    """which the run was given"""
    prior: bool


def check_images(images: Sequence[Placed]) -> list[str]:
    """Warnings of images that are there twice in ways that matter.

    Raises DataError where what a folder holds for regularisation is nothing but images of the data, and where two
    folders hold the very same file, by links.
    """
    _check_files(images)
    own = {one.sha256 for one in images if not one.prior}
    priors: dict[Path, list[Placed]] = defaultdict(list)
    for one in images:
        if one.prior:
            priors[one.folder].append(one)
    same = [found[0].path.parent for found in priors.values() if all(one.sha256 in own for one in found)]
    if same:
        raise DataError(
            *(
                f"{place}: holds only images that are to be learned, too; regularisation images show the class "
                'without the subject: put such there, or let --prior 200 --class-prompt "a dog" draw them'
                for place in same
            )
        )
    both = [one.path for one in images if one.prior and one.sha256 in own]
    warnings = [f"{_told(both)} to be learned and for regularisation, too; leave them out of one"] if both else []
    first: dict[str, Path] = {}
    data = (one for one in images if not one.prior)
    again = [one.path for one in data if first.setdefault(one.sha256, one.folder) != one.folder]
    return warnings + ([f"{_told(again)} in another folder, too, and counted in each"] if again else [])


def _check_files(images: Sequence[Placed]) -> None:
    """Stop where links lead from one folder to the files of another."""
    first: dict[str, Placed] = {}
    again = []
    for one in images:
        there = first.setdefault(os.path.realpath(one.path), one)
        if there.folder != one.folder:
            again.append((one.path, there.path))
    if again:
        path, other = again[0]
        more = f", and {len(again) - 1} more alike" if len(again) > 1 else ""
        raise DataError(
            f"{path}: is the very file that is read as {other}{more}; leave out one of the folders or links"
        )


def _told(paths: Sequence[Path]) -> str:
    named = ", ".join(str(path) for path in paths[:NAMED]) + (" ..." if len(paths) > NAMED else "")
    return f"{named}: 1 image is" if len(paths) == 1 else f"{named}: {len(paths)} images are"
