"""Doubles: pictures that are trained ones once more, saved again, scaled or recompressed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy

from sdtune.core.data.images import decode
from sdtune.core.evaluation.subject import Reference
from sdtune.core.intake.measures import alike, fingerprint, grey_of, tints
from sdtune.core.reports import Progress, Telling
from sdtune.errors import DataError
from sdtune.tables import Judge

MOST_LOOKED_AT = 2_000
"""pictures that are decoded to find near-duplicates: of photographs about a minute"""
SIDE = 512
"""pixels that a fingerprint needs"""


def doubles_of(references: Sequence[Reference], trained: Sequence[Reference]) -> Telling[dict[str, Reference]]:
    """{SHA-256 of a reference: the trained picture that it is, or is a version of}."""
    known = {one.sha256: one for one in reversed(trained)}
    doubles = {one.sha256: known[one.sha256] for one in references if one.sha256 in known}
    rest = [one for one in references if one.sha256 not in doubles]
    once = list(known.values())
    if not rest or not once or len(rest) + len(once) > MOST_LOOKED_AT:
        return doubles
    looked: list[tuple[int, bytes]] = []
    for number, one in enumerate((*rest, *once)):
        if number % 20 == 0 and len(rest) + len(once) > 100:
            yield Progress("comparing references and trained pictures", number, len(rest) + len(once))
        looked.append(_look(one.path))
    hashes = numpy.array([hash_ for hash_, _ in looked], dtype=numpy.uint64)
    colours = numpy.frombuffer(b"".join(tint for _, tint in looked), dtype=numpy.uint8).reshape(len(looked), -1)
    theirs, their_colours = hashes[len(rest) :], colours[len(rest) :]
    for place, one in enumerate(rest):
        mine = numpy.full(len(theirs), hashes[place])
        my_colours = numpy.repeat(colours[place : place + 1], len(theirs), axis=0)
        same = alike(mine, theirs, my_colours, their_colours, Judge().likeness)
        if same.any():
            doubles[one.sha256] = once[int(same.argmax())]
    return doubles


def _look(path: Path) -> tuple[int, bytes]:
    """(perceptual hash, colours) of a picture; of one that cannot be read such as nothing else has."""
    try:
        image = decode(path, "", at_least=lambda *_: (SIDE, SIDE)).image
    except (DataError, MemoryError):
        return 0, bytes(192)
    return int(fingerprint(grey_of(image)), 16), bytes.fromhex(tints(image))
