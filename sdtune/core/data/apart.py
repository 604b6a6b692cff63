"""Folders of one run held against each other: none is read twice, and an image that lies in two of them is told."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

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


def check_images(images: Sequence[tuple[Path, str, bool]], folders: Sequence[tuple[Path, bool]]) -> list[str]:
    """Warnings of images (path, SHA-256, whether for regularisation) that are there twice in ways that matter.

    Raises DataError where a folder for regularisation holds nothing but images of the data.
    """
    own = {digest for _, digest, prior in images if not prior}
    priors = {digest for _, digest, prior in images if prior}
    if priors and priors <= own:
        first = next(path for path, _, prior in images if prior)
        raise DataError(
            f"{first.parent}: holds only images that are to be learned, too; regularisation images show the class "
            'without the subject: put such there, or let --prior 200 --class-prompt "a dog" draw them'
        )
    both = [path for path, digest, prior in images if prior and digest in own]
    warnings = [f"{_told(both)} to be learned and for regularisation, too; leave them out of one"] if both else []
    by_digest: dict[str, dict[Path, Path]] = defaultdict(dict)
    for path, digest, prior in images:
        if not prior:
            by_digest[digest].setdefault(_folder_of(path, folders), path)
    several = [list(found.values())[1] for found in by_digest.values() if len(found) > 1]
    return warnings + ([f"{_told(several)} in another folder, too, and counted in each"] if several else [])


def _folder_of(path: Path, folders: Sequence[tuple[Path, bool]]) -> Path:
    return next(folder for folder, _ in folders if path.is_relative_to(folder))


def _told(paths: Sequence[Path]) -> str:
    named = ", ".join(str(path) for path in paths[:NAMED]) + (" ..." if len(paths) > NAMED else "")
    return f"{named}: 1 image is" if len(paths) == 1 else f"{named}: {len(paths)} images are"
