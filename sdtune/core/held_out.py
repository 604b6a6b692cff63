"""Held-out images: which ones a training never sees, so that its loss on them tells whether it over-fits.

The choice follows from the images' bytes alone (SHA-256), so that neither names nor the order nor the run's seed change
it: an image whose hash is below `share` of all hashes is held out, today and when others have been added. Where fewer
than two are, the next ones by hash are taken, too; and ten are trained at least. So the held-out ones are the first k
by hash, and an image that is added or removed, unlike all others, moves at most one other across.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from sdtune.core.data.folder import Example, in_lowest_terms
from sdtune.core.intake.likeness import groups
from sdtune.core.intake.verdicts import FEWEST_HELD_OUT, SPLIT_FROM
from sdtune.core.reports import Note, Telling, Warned
from sdtune.tables import Judge, Validation

MOST = 1.5
"""times the share"""
NAMED = 3  # images named in one message


def choose(examples: Sequence[Example], settings: Validation) -> Telling[tuple[list[Example], list[Example]]]:
    """(what is trained on, what is held out); what lies in held-out/ is that, else it is chosen."""
    given = [one for one in examples if one.held_out]
    trained = [one for one in examples if not one.held_out]
    if settings.off:
        return trained, []
    if given:
        return trained, (yield from _apart(given, trained))
    pool = [one for one in trained if not one.prior and one.weight]
    families = alike(pool)
    out = {id(one) for family in families[: _count(families, settings.held_out)] for one in family}
    held_out = [one for one in trained if id(one) in out]
    if not held_out and settings.held_out and not settings.folds:
        are = "1 image is" if len(families) == 1 else f"{len(families)} different images are"
        yield Note(
            f"validation: none, since {are} too few to hold some out ({SPLIT_FROM} are needed); --validation.folds 4 "
            "finds out how many steps are best all the same, in five times the time"
        )
    elif held_out:
        yield Note(
            f"held out: {len(held_out)} of {len(trained)} images, which data.json names; --validation.off trains on all"
        )
    return in_lowest_terms([one for one in trained if id(one) not in out]), held_out


def alike(examples: Sequence[Example]) -> list[list[Example]]:
    """Images with their near-duplicates and copies; families and what is in them by their hashes, the least first."""
    ordered = sorted(examples, key=lambda one: (one.sha256, str(one.path)))
    hashes = numpy.array([int(one.fingerprint or "0", 16) for one in ordered], dtype=numpy.uint64)
    tints = numpy.frombuffer(bytes.fromhex("".join(one.tints or "00" * 192 for one in ordered)), dtype=numpy.uint8)
    first: dict[str, int] = {}
    of = [first.setdefault(one.sha256, place) for place, one in enumerate(ordered)]
    compared = [place for place, one in enumerate(ordered) if one.fingerprint and of[place] == place]
    for group in groups(hashes, tints.reshape(len(ordered), -1), compared, Judge().likeness):
        for member in group.members:
            of[member] = group.leader
    families: dict[int, list[Example]] = {}
    for place, one in enumerate(ordered):
        families.setdefault(of[of[place]], []).append(one)  # a copy is where its first is
    return list(families.values())


def _count(families: Sequence[Sequence[Example]], share: float) -> int:
    """How many of them, from the first on, are held out."""
    if not share or len(families) < SPLIT_FROM:
        return 0
    below = sum(int(family[0].sha256[:12], 16) < share * 16**12 for family in families)
    most = max(FEWEST_HELD_OUT, round(MOST * share * len(families)))  # or chance would hold out a quarter of a few
    return min(max(below, FEWEST_HELD_OUT), most, len(families) - (SPLIT_FROM - FEWEST_HELD_OUT))


def _apart(held_out: Sequence[Example], trained: Sequence[Example]) -> Telling[list[Example]]:
    """Those that are not trained, too."""
    known = {one.sha256: one for one in trained}
    both = [one for one in held_out if one.sha256 in known]
    if both:
        named = ", ".join(f"{one.path} ({known[one.sha256].path})" for one in both[:NAMED])
        more = f" and {len(both) - NAMED} more" if len(both) > NAMED else ""
        them = "it says" if len(both) == 1 else "they say"
        yield Warned(
            f"{named}{more}: held out, and trained on as well, so that {them} nothing of others; left out of "
            "validation: remove one of the two"
        )
    return [one for one in held_out if one.sha256 not in known]
