"""Relays: work whose reports are told otherwise than they come, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from sdtune.core.reports import Report, Result, Telling


def retold(work: Telling[Result], how: Callable[[Report], Report | None]) -> Telling[Result]:
    """The work with each report as `how` has it, without those of which it makes None; it is closed when this is."""
    with closing(work):
        while True:
            try:
                report = next(work)
            except StopIteration as end:
                result: Result = end.value
                return result
            told = how(report)
            if told is not None:
                yield told


def quietly(work: Telling[Result]) -> Result:
    """What comes of work whose reports nobody needs."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result
