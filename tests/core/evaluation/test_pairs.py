"""Prompts of which the true picture is known, beside those that are drawn anyway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

from sdtune.config import resolve
from sdtune.core.evaluation.case import case_of
from sdtune.core.evaluation.drawings import units_of
from sdtune.core.evaluation.seeing import _Layout
from sdtune.core.evaluation.subject import Case, Prompt
from sdtune.errors import DataError
from sdtune.evaluate_config import Evaluate
from tests.core.evaluation.runs import heard, picture, pictures, run

THINGS = ("cat", "dog", "cup", "tree", "car", "key", "hat", "egg", "jar", "axe")
HELD_OUT = (0, 1, 2, 3, 4)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(Path("runs/cats-1"), Path("cats"), [f"a {thing}, soft style" for thing in THINGS], held_out=HELD_OUT)


def case(**told: Any) -> Case:
    return heard(case_of(resolve(Evaluate, [{"subjects": ["runs/cats-1"], **told}])))[0]  # type: ignore[no-any-return]


def added(found: Case) -> list[Prompt]:
    return [one for one in found.prompts if one.kind == "pair"]


def test_captions_are_drawn_with_the_trigger_for_their_pictures_alone() -> None:
    pictures(Path("pairs"), ["a boat", "a kite, soft style"], first=20)
    found = case(pairs="pairs")
    assert [(one.text, one.plain, one.truth) for one in added(found)] == [
        ("a boat, soft style", "a boat", Path("pairs/20.png")),
        ("a kite, soft style", "a kite", Path("pairs/21.png")),
    ]
    assert found.prompts[: -len(added(found))] == case().prompts


def test_no_measure_of_sets_or_means_counts_them() -> None:
    pictures(Path("pairs"), ["a boat", "a kite", "a bell"], first=20)
    found = case(pairs="pairs", reference="pairs", prompts_each=1)  # one of them is drawn as a reference anyway
    config = resolve(Evaluate, [{"subjects": ["runs/cats-1"], "seeds": 1}])
    layout = _Layout(found, units_of(found, config))
    is_pair = numpy.array([one.kind == "pair" for one in found.prompts])
    assert is_pair.sum() == 2
    assert (layout.of_reference[is_pair] < 0).all()
    assert not layout.has_concept[is_pair].any()
    assert not numpy.isin(layout.kind[is_pair], ["in-distribution", "new context", "generic"]).any()
    assert all(truth for truth, pair in zip(layout.truths, is_pair, strict=True) if pair)
    assert sum(truth is not None for truth in layout.truths) == 3


def test_a_prompt_that_is_drawn_anyway_gets_its_true_picture() -> None:
    usual = case()
    told = next(one for one in usual.prompts if one.held_out is not None)
    pictures(Path("pairs"), [told.plain], first=20)
    found = case(pairs="pairs")
    assert added(found) == []
    assert len(found.prompts) == len(usual.prompts)
    assert [one.text for one in found.prompts if one.truth] == [told.text]


def test_what_there_is_to_know_of_them_is_told() -> None:
    pictures(Path("pairs"), ["a boat", "a boat", None, "a kite"], first=20)
    trained = picture(Path("pairs/seven.png"), 7)
    assert trained.read_bytes() == Path("cats/07.png").read_bytes()
    trained.with_suffix(".txt").write_text("seven eggs")
    (Path("pairs") / "23.txt").write_bytes(b"\0")
    found = case(pairs="pairs")
    lines = [line for line in found.told if "pairs" in line]
    assert lines[0].startswith("pairs/23.txt: ")
    assert lines[1:] == [
        "--pairs: 2 of 5 pictures without a caption, left out: 22.png, 23.png",
        "--pairs: 1 of 5 pictures with a caption that another has, left out: 21.png",
        "--pairs: 1 of 5 pictures trained, so that they tell how it recites: seven.png",
    ]
    seven = next(one for one in added(found) if one.plain == "seven eggs")
    assert seven.trained is not None
    assert found.subjects[0].trained[seven.trained[1]].name == "07.png"


def test_pictures_without_captions_are_no_pairs() -> None:
    pictures(Path("pairs"), [None, None], first=20)
    with pytest.raises(DataError, match=r"--pairs pairs: none of its pictures has a caption.*write some"):
        case(pairs="pairs")
