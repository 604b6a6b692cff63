"""What is recommended, of cells whose measures are made up."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy
import pytest

from sdtune.core.evaluation.intervals import Refused, Value
from sdtune.core.evaluation.judging import Marks
from sdtune.core.evaluation.measures import measures
from sdtune.core.evaluation.measures.base import Told
from sdtune.core.evaluation.outcome import Copy
from sdtune.core.evaluation.recommend import ALARMS, CLOSENESS, alarms_of, is_copying, rank
from sdtune.core.evaluation.subject import BASE, Candidate, Case, Cell, Prompt, Reference, Subject

SPREAD = numpy.random.default_rng(3).normal(0, 1, 200)
DRAWINGS = 20
PICTURES = tuple(Reference(Path(f"{name}.png"), f"{name}.png", name) for name in ("tree", "rose", *"abcdefghijkl"))


@dataclass
class Made:
    """Marks of a cell: each figure with resamples that are spread as all cells' are, and some of its own."""

    closeness: float
    f1: float = 0.9
    spread: float = 0.01
    own: float = 0.001
    groups: int = DRAWINGS
    astray: int = 0
    recited: int = 0
    unasked: int = 0
    asked: int = DRAWINGS
    more: dict[str, float] = field(default_factory=dict)
    refused: tuple[str, ...] = ()

    def marks(self, place: int = 1) -> Marks:
        noise = numpy.random.default_rng(place).normal(0, 1, 200)

        def told(value: float) -> Told:
            rows = numpy.concatenate([[value], value + self.spread * SPREAD + self.own * noise])
            return Told(Value(value, value - 0.02, value + 0.02, DRAWINGS, 5), rows, self.groups)

        figures = {"closeness": self.closeness, "concept_f1": self.f1, "concept_recall": self.f1} | self.more
        found: dict[str, Told | Refused] = {name: told(value) for name, value in figures.items()}
        share = self.astray / self.asked
        found["copies"] = Told(Value(share, 0, 1, self.asked, 5), numpy.full(201, share), self.groups)
        found |= {name: Refused("too few; give more") for name in self.refused}
        copies = [Copy(number, 0, 0.99, 0.9, own_prompt=False) for number in range(self.astray)]
        copies += [Copy(10 + number, 1, 0.99, 0.9, own_prompt=True) for number in range(self.recited)]
        copies += [Copy(15 + number, 1, 0.99, 0.9, own_prompt=False, asked=False) for number in range(self.unasked)]
        return Marks(found, {"copies": {"of_trained_captions": 5}}, tuple(copies))


def case_of(candidates: int, subjects: int = 1) -> Case:
    return Case(
        "mini",
        tuple(Subject(f"run-{number}", Path(f"run-{number}"), PICTURES) for number in range(subjects)),
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


NOTHING = Made(0.5, 0.0)
"""the base model's"""


def test_the_figures_that_decide_are_measured():
    assert {CLOSENESS, "cmmd", "concept_f1", "concept_recall", "concept_precision", "copies", "loss"} <= set(measures())


def test_the_closest_to_the_references_is_recommended():
    (first,) = ranked(
        NOTHING, (Cell(0, 0.5), Made(0.6)), (Cell(0, 1.0), Made(0.7)), (Cell(1, 0.5), Made(0.68)), subjects=1
    )
    assert first.cell == Cell(0, 1.0)
    assert first.score == 0.7
    assert "closeness 0.70, base 0.50" in first.told
    assert "90%" in first.told
    assert "no copies" in first.told


def test_of_a_single_one_nothing_is_said_to_be_the_closest():
    (first,) = ranked(NOTHING, (Cell(0, 1.0), Made(0.7)))
    assert "closest" not in first.told


def test_of_those_as_close_as_each_other_the_weakest_is_recommended():
    (first,) = ranked(NOTHING, (Cell(0, 1.0), Made(0.7)), (Cell(1, 0.5), Made(0.7)), (Cell(0, 0.8), Made(0.7)))
    assert first.cell == Cell(1, 0.5)


def test_how_many_cannot_be_told_from_it_is_said():
    (first,) = ranked(
        NOTHING, (Cell(0, 0.5), Made(0.6)), (Cell(0, 1.0), Made(0.7)), (Cell(1, 1.0), Made(0.6999)), subjects=1
    )
    assert first.cell == Cell(0, 1.0)
    assert "1 of the 2 others" in first.told


def test_what_is_told_from_all_others_says_nothing_of_them():
    (first,) = ranked(NOTHING, (Cell(0, 0.5), Made(0.6)), (Cell(0, 1.0), Made(0.7)))
    assert "other" not in first.told


def test_what_copies_is_none_of_those_that_are_as_close():
    (first,) = ranked(NOTHING, (Cell(0, 0.5), Made(0.6999, astray=3)), (Cell(0, 1.0), Made(0.7)))
    assert "as close" not in first.told


def test_what_copies_is_left_out_however_close_it_comes():
    (first,) = ranked(NOTHING, (Cell(0, 0.8), Made(0.6)), (Cell(1, 0.8), Made(0.9, astray=3)))
    assert first.cell == Cell(0, 0.8)
    assert "1 of 2 LoRAs and strengths copy, and are left out" in first.told
    assert first.alarms == ("step 200 at strength 0.8: 3 drawings are near-copies of tree.png",)


def test_where_all_copy_the_alarm_names_the_pictures():
    (first,) = ranked(NOTHING, (Cell(0, 0.8), Made(0.6, astray=3)), (Cell(1, 0.8), Made(0.5, astray=4)))
    assert first.cell == Cell(0, 0.8)
    assert "it copies trained pictures" in first.told
    assert first.alarms == ("step 200 at strength 0.8: 4 drawings are near-copies of tree.png",)


@pytest.mark.parametrize(
    ("made", "copying"),
    [
        (Made(0.6), False),
        (Made(0.6, astray=1), False),  # one may be chance
        (Made(0.6, astray=2), True),
        (Made(0.6, astray=4, asked=100), False),  # and so may few of many
        (Made(0.6, astray=5, asked=100), True),
        (Made(0.6, recited=5), False),  # its own caption asked for it
        (Made(0.6, unasked=5), False),  # as the measure of copies leaves these out
        (Made(0.6, astray=1, recited=5, unasked=5), False),
        (Made(0.6, astray=2, refused=("copies",)), True),
    ],
)
def test_which_copies_are_copying(made, copying):
    assert is_copying(made.marks()) is copying


def test_a_picture_that_comes_out_for_its_own_caption_is_no_alarm_but_is_said():
    assert alarms_of(case_of(1), Cell(0, 1.0), Made(0.6, recited=5).marks()) == ()
    (first,) = ranked(NOTHING, (Cell(0, 1.0), Made(0.6, recited=3)))
    assert "no copies but for 3 of 5 trained captions that it recites" in first.told


def test_where_copies_were_not_looked_for_it_is_said():
    (first,) = ranked(NOTHING, (Cell(0, 1.0), Made(0.6, refused=("copies",))))
    assert "copies were not looked for" in first.told


def test_alarms_name_the_most_copied_pictures_first_and_not_too_many():
    copies = [Copy(0, place, 0.99, 0.9, own_prompt=False) for place in (*range(12), 3, 3)]
    alarms = alarms_of(case_of(1), Cell(0, 1.0), Marks({}, {}, tuple(copies)))
    assert alarms[0] == f"3 drawings are near-copies of {PICTURES[3].name}"
    assert alarms[1] == "1 drawing is a near-copy of tree.png"
    assert len(alarms) == ALARMS


@pytest.mark.parametrize(("precision", "told"), [(0.79, True), (0.81, False)])
def test_bleeding_is_told(precision, told):
    (first,) = ranked(NOTHING, (Cell(0, 1.0), Made(0.6, more={"concept_precision": precision})))
    assert ("bleeds" in first.told) is told


@pytest.mark.parametrize(("loss", "told"), [(0.70, True), (0.68, False), (0.5, False)])
def test_one_past_its_least_loss_is_said_to_be_over_fitted(loss, told):
    (first,) = ranked(
        NOTHING,
        (Cell(0, 1.0), Made(0.6, more={"loss": 0.6})),
        (Cell(1, 1.0), Made(0.7, more={"loss": loss})),
        (Cell(0, 0.5), Made(0.6, more={"loss": 0.3})),  # at another strength
    )
    assert first.cell == Cell(1, 1.0)
    assert ("over-fitted" in first.told) is told


def test_without_losses_nothing_is_said_of_over_fitting():
    (first,) = ranked(NOTHING, (Cell(0, 1.0), Made(0.6)), (Cell(1, 1.0), Made(0.7, more={"loss": 0.7})))
    assert first.cell == Cell(1, 1.0)
    assert "over-fitted" not in first.told


def test_where_nothing_was_learned_the_base_is_better():
    (first,) = ranked(NOTHING, (Cell(0, 0.5), Made(0.5, 0.0)), (Cell(0, 1.0), Made(0.49, 0.05)))
    assert first.cell is None
    assert "train longer" in first.told
    assert first.score == 0.5


@pytest.mark.parametrize(("f1", "learned"), [(0.29, False), (0.3, True)])
def test_what_shows_was_learned_though_it_comes_no_closer(f1, learned):
    (first,) = ranked(NOTHING, (Cell(0, 1.0), Made(0.49, f1)))
    assert (first.cell is not None) is learned


@pytest.mark.parametrize(("cmmd", "learned"), [(2.0, True), (4.0, False)])
def test_what_brings_the_two_sets_nearer_was_learned(cmmd, learned):
    base = Made(0.5, 0.0, more={"cmmd": 3.0})
    (first,) = ranked(base, (Cell(0, 1.0), Made(0.49, 0.0, more={"cmmd": cmmd})))
    assert (first.cell is not None) is learned


def test_it_is_enough_that_another_one_shows_what_was_learned():
    (first,) = ranked(NOTHING, (Cell(0, 0.5), Made(0.501, 0.1)), (Cell(0, 1.0), Made(0.49, 0.6)))
    assert first.cell == Cell(0, 0.5)


@pytest.mark.parametrize(
    ("made", "recommended"),
    [
        (Made(0.51, 0.0, own=0.2), True),  # too few to say that nothing was learned
        (Made(0.51, 0.0, groups=1), True),
        (Made(0.49, 0.0, own=0.2), False),
        (Made(0.5001, 0.0, own=0.003), False),  # no gain that would count has room in the interval
    ],
)
def test_where_drawings_are_too_few_to_say_that_nothing_was_learned_it_is_said(made, recommended):
    (first,) = ranked(NOTHING, (Cell(0, 1.0), made))
    assert (first.cell is not None) is recommended
    assert ("--prompts-each" in first.told) is recommended


def test_where_no_prompt_asks_for_it_nothing_is_recommended():
    (first,) = ranked(Made(0.5, refused=(CLOSENESS,)), (Cell(0, 1.0), Made(0.7, refused=(CLOSENESS,))))
    assert first.cell is None
    assert "no prompt asks" in first.told


def test_trainings_are_ranked_those_that_copy_and_those_that_learned_nothing_last():
    ranking = ranked(
        NOTHING,
        (Cell(0, 1.0), Made(0.5, 0.0)),
        (Cell(1, 1.0), Made(0.9, astray=9)),
        (Cell(2, 1.0), Made(0.7)),
        subjects=3,
    )
    assert [one.subject for one in ranking] == [2, 1, 0]


def test_a_training_that_copies_only_where_it_is_strong_is_ranked_as_one_that_copies():
    ranking = ranked(
        NOTHING,
        (Cell(0, 0.5), Made(0.8)),
        (Cell(0, 1.0), Made(0.9, astray=9)),
        (Cell(1, 1.0), Made(0.7)),
        subjects=2,
    )
    assert [one.subject for one in ranking] == [1, 0]
    assert ranking[1].cell == Cell(0, 0.5)
    assert ranking[1].alarms == ("step 100 at strength 1: 9 drawings are near-copies of tree.png",)


def test_copies_at_strengths_that_nobody_trains_for_do_not_count_against_a_training():
    ranking = ranked(
        NOTHING,
        (Cell(0, 1.0), Made(0.8)),
        (Cell(0, 1.5), Made(0.9, astray=9)),
        (Cell(0, 2.0), Made(0.9, astray=9)),
        (Cell(1, 1.0), Made(0.7)),
        subjects=2,
    )
    assert [one.subject for one in ranking] == [0, 1]


def test_where_it_is_drawn_at_other_strengths_alone_these_count():
    ranking = ranked(NOTHING, (Cell(0, 0.5), Made(0.8, astray=9)), (Cell(1, 0.5), Made(0.7)), subjects=2)
    assert [one.subject for one in ranking] == [1, 0]


def test_trainings_that_are_equal_stand_as_they_were_named():
    ranking = ranked(NOTHING, (Cell(0, 1.0), Made(0.7)), (Cell(1, 1.0), Made(0.7)), subjects=2)
    assert [one.subject for one in ranking] == [0, 1]


def test_what_is_plainly_further_from_the_references_than_the_base_is_not_recommended():
    (first,) = ranked(Made(0.5, 0.0), (Cell(0, 1.0), Made(0.3)), (Cell(0, 0.5), Made(0.35)))
    assert first.cell is None
    assert "spoils" in first.told
    (first,) = ranked(Made(0.5, 0.0), (Cell(0, 1.0), Made(0.3)), (Cell(0, 0.5), Made(0.55)))
    assert first.cell == Cell(0, 0.5)


def test_one_near_copy_is_not_told_as_none():
    (first,) = ranked(Made(0.5, 0.0), (Cell(0, 1.0), Made(0.7, astray=1)))
    assert "1 near-copy" in first.told
    assert "no copies" not in first.told
