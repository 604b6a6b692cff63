"""A signal is told as one, whatever a library makes of it."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Generator

import pytest

from sdtune.cli.following import follow
from sdtune.core.reports import Note, Progress, Report
from sdtune.errors import Interrupted, ModelError


def test_a_library_that_takes_a_signal_for_a_fault_of_its_own() -> None:
    def work() -> Generator[Report, None, None]:
        yield Note("loading")
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except BaseException:
            raise ModelError("the weights cannot be loaded") from None

    with pytest.raises(Interrupted) as caught:
        follow(work(), as_json=False)
    assert caught.value.exit_code == 143


def test_a_fault_without_a_signal_stays_a_fault() -> None:
    def work() -> Generator[Report, None, None]:
        yield Note("loading")
        raise ModelError("the weights cannot be loaded")

    with pytest.raises(ModelError):
        follow(work(), as_json=False)


def test_cycles_are_looked_for_once_work_has_begun() -> None:
    looked_for = []

    def work() -> Generator[Report, None, None]:
        for report in (Note("loading"), Progress("prompts", 1, 2), Progress("prompts", 2, 2)):
            yield report
            looked_for.append(gc.isenabled())

    gc.disable()
    try:
        follow(work(), as_json=False)
        assert looked_for == [False, True, True]
    finally:
        gc.enable()
