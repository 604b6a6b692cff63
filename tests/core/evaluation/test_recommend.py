"""What is recommended, of cells whose measures are made up."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy
import pytest

from sdtune.core.evaluation.intervals import Value
from sdtune.core.evaluation.judging import Marks
from sdtune.core.evaluation.outcome import Copy
from sdtune.core.evaluation.recommend import alarms_of, copies, rank
from sdtune.core.evaluation.subject import BASE, Candidate, Case, Cell, Prompt, Reference, Subject

SPREAD = numpy.random.default_rng(3).normal(0, 1, 200)
DRAWINGS = 20


@dataclass
class Made:
    """Marks of a cell: each figure with resamples that are spread as all cells' are, and some of its own."""

    closeness: float
    f1: float = 0.9
    spread: float = 0.01
    own: float = 0.001
    astray: int = 0
    recited: int = 0
    more: dict[str, float] = field(default_factory=dict)

    def marks(self, place: int) -> Marks:
        told = {"truth_similarity": self.closeness, "concept_f1": self.f1, "concept_recall": self.f1} | self.more
        noise = numpy.random.default_rng(place).normal(0, 1, 200)
        rows = {
            name: numpy.concatenate([[value], value + self.spread * SPREAD + self.own * noise])
            for name, value in told.items()
        }
        values = {name: Value(value, value - 0.02, value + 0.02, DRAWINGS, 5) for name, value in told.items()}
        rows["copies"] = numpy.full(201, self.astray / DRAWINGS)
        values["copies"] = Value(self.astray / DRAWINGS, 0, 1, DRAWINGS, 5)
        found = [Copy(number, 0, 0.99, 0.9, own_prompt=False) for number in range(self.astray)]
        found += [Copy(10 + number, 1, 0.99, 0.9, own_prompt=True) for number in range(self.recited)]
        return Marks(values, rows, dict.fromkeys(rows, DRAWINGS), copies=tuple(found))


def case_of(candidates: int, subjects: int = 1) -> Case:
    trained = tuple(Reference(Path(f"{name}.png"), f"{name}.png", name) for name in ("tree", "rose"))
    return Case(
        "mini",
        tuple(Subject(f"run-{number}", Path(f"run-{number}"), trained) for number in range(subjects)),
        tuple(
            Candidate(min(number, subjects - 1), f"step {100 * (number + 1)}", Path(f"{number}.safetensors"), None)
            for number in range(candidates)
        ),
        (),
        (Prompt("a", "a", "in-distribution", has_concept=True),),
        "sks",
        None,
    )


def ranked(base: Made, *cells: tuple[Cell, Made], subjects: int = 1):
    case = case_of(1 + max(cell.candidate or 0 for cell, _ in cells), subjects)
    made = {BASE: base.marks(0)} | {cell: one.marks(place) for place, (cell, one) in enumerate(cells, 1)}
    return rank(case, made)


def test_the_closest_to_the_references_is_recommended():
    (first,) = ranked(
        Made(0.5, 0.0), (Cell(0, 0.5), Made(0.6)), (Cell(0, 1.0), Made(0.7)), (Cell(1, 0.5), Made(0.68)), subjects=1
    )
    assert first.cell == Cell(0, 1.0)
    assert "90%" in first.told
    assert "no sign of copying" in first.told


def test_what_copies_is_left_out_however_close_it_comes():
    (first,) = ranked(Made(0.5, 0.0), (Cell(0, 0.8), Made(0.6)), (Cell(1, 0.8), Made(0.9, astray=3)))
    assert first.cell == Cell(0, 0.8)
    assert "1 of 2 that copy trained pictures are left out" in first.told
    assert first.alarms == ("step 200 at strength 0.8: 3 drawings are near-copies of tree.png",)


def test_where_all_copy_the_alarm_names_the_pictures():
    (first,) = ranked(Made(0.5, 0.0), (Cell(0, 0.8), Made(0.6, astray=3)), (Cell(1, 0.8), Made(0.5, astray=4)))
    assert first.cell == Cell(0, 0.8)
    assert "copies trained pictures" in first.told
    assert first.alarms == ("step 200 at strength 0.8: 4 drawings are near-copies of tree.png",)


def test_a_picture_that_comes_out_for_its_own_caption_is_no_alarm():
    made = Made(0.6, recited=5).marks(1)
    assert not copies(made)
    assert alarms_of(case_of(1), Cell(0, 1.0), made) == ()


@pytest.mark.parametrize(("astray", "copying"), [(0, False), (1, False), (2, True)])
def test_one_likeness_may_be_chance(astray, copying):
    assert copies(Made(0.6, astray=astray).marks(1)) is copying


def test_what_plainly_shows_less_of_the_concept_is_left_out():
    (first,) = ranked(Made(0.5, 0.0), (Cell(0, 0.5), Made(0.7, 0.2)), (Cell(0, 1.0), Made(0.65, 0.9)))
    assert first.cell == Cell(0, 1.0)


def test_a_little_less_within_the_noise_is_not():
    noisy = {"own": 0.2}
    (first,) = ranked(Made(0.5, 0.0), (Cell(0, 0.5), Made(0.7, 0.8, **noisy)), (Cell(0, 1.0), Made(0.65, 0.9, **noisy)))
    assert first.cell == Cell(0, 0.5)


def test_where_nothing_was_learned_the_base_is_better():
    (first,) = ranked(Made(0.5, 0.0), (Cell(0, 0.5), Made(0.5, 0.0)), (Cell(0, 1.0), Made(0.49, 0.05)))
    assert first.cell is None
    assert "train longer" in first.told


def test_trainings_are_ranked_those_that_copy_and_those_that_learned_nothing_last():
    ranking = ranked(
        Made(0.5, 0.0),
        (Cell(0, 1.0), Made(0.5, 0.0)),
        (Cell(1, 1.0), Made(0.9, astray=9)),
        (Cell(2, 1.0), Made(0.7)),
        subjects=3,
    )
    assert [one.subject for one in ranking] == [2, 1, 0]


def test_a_training_that_copies_only_where_it_is_strong_is_ranked_as_one_that_copies():
    ranking = ranked(
        Made(0.5, 0.0),
        (Cell(0, 0.5), Made(0.8)),
        (Cell(0, 1.0), Made(0.9, astray=9)),
        (Cell(1, 1.0), Made(0.7)),
        subjects=2,
    )
    assert [one.subject for one in ranking] == [1, 0]
    assert ranking[1].cell == Cell(0, 0.5)
    assert ranking[1].alarms == ("step 100 at strength 1: 9 drawings are near-copies of tree.png",)


def test_without_truths_the_distribution_tells():
    def with_cmmd(value: float, f1: float = 0.9) -> Made:
        return Made(0.0, f1, more={"cmmd": value})

    case = case_of(2)
    made = {
        BASE: with_cmmd(3.0, 0.0),
        Cell(0, 1.0): with_cmmd(2.0),
        Cell(1, 1.0): with_cmmd(1.0),
    }
    marks = {}
    for place, (cell, one) in enumerate(made.items()):
        found = one.marks(place)
        rows = {name: row for name, row in found.replicates.items() if name != "truth_similarity"}
        marks[cell] = Marks(found.values, rows, found.groups)
    (first,) = rank(case, marks)
    assert first.cell == Cell(1, 1.0)
    assert first.score == -1.0
