"""Folds: what they have found together, and where that is kept."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from sdtune.core.data.folder import Example
from sdtune.core.folds import Folded, folded, rotate
from sdtune.core.reports import Measure, Note, Report, Telling, Validated, Warned
from sdtune.errors import Paused, Stopped
from tests.core.test_held_out import made


def train_fold(name: str, trained: list[Example], held_out: list[Example]) -> Telling[list[Validated]]:
    yield Note(f"trained {name}: {len(trained)}, {len(held_out)}")
    return curve({2: 0.9, 4: 0.8})


def curve(relative: dict[int, float]) -> list[Validated]:
    measures = {step: Measure(1.0, 0.1, one, 0.1, (1.0,), 2) for step, one in {0: 1.0, **relative}.items()}
    return [Validated(step, 4, one, one, step, 1.0) for step, one in measures.items()]


def rotated(path: Path | None, train: Any = train_fold) -> tuple[list[Report], Folded]:
    found: list[Folded] = []

    def listen() -> Generator[Report]:
        found.append((yield from rotate([made(number) for number in range(4)], 2, train, path, "key")))

    return list(listen()), found[0]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("kind", [Stopped, Paused])
def test_what_ends_a_fold_says_which_and_what_is_kept(kind: type[BaseException], kept: bool, tmp_path: Path) -> None:
    def ended(name: str, *parts: list[Example]) -> Telling[list[Validated]]:
        if name == "fold 2 of 2":
            raise kind("the time is up" if kind is Paused else "")
        return (yield from train_fold(name, *parts))

    path = tmp_path / "folds/some.json" if kept else None
    words = "the folds before it are kept, and the same command goes on" if kept else "nothing of it is kept"
    with pytest.raises(kind) as caught:
        rotated(path, ended)
    assert str(caught.value) == f"{'the time is up' if kind is Paused else 'stopped'} in fold 2 of 2; {words}"
    again, _ = rotated(path)
    assert (Note("fold 1 of 2: finished before") in again) == (Note("trained fold 1 of 2: 2, 2") not in again) == kept
    assert Note("trained fold 2 of 2: 2, 2") in again


def test_folds_that_cannot_be_kept_are_trained_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told, found = rotated(tmp_path / "file/some.json")
    assert len([one for one in told if isinstance(one, Warned) and "cannot be written (" in one.text]) == 2
    assert (found.best.step, found.best.relative) == (4, 0.8)


def test_only_steps_that_all_folds_have_validated_count() -> None:
    found = folded([curve({2: 0.9, 3: 0.1, 4: 0.8}), curve({2: 0.7, 4: 0.9})])
    assert [point.step for point in found.curve] == [2, 4]
    assert found.best.step == 2
    assert found.best.relative == pytest.approx(0.8)
    assert found.best.error == pytest.approx(0.1)
