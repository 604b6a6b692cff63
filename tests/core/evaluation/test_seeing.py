"""Drawings, references and trained pictures as measures look at them, of two trainings that are made by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from PIL import Image

from sdtune.core.data.cache import Store
from sdtune.core.evaluation.encoders.base import Encoder
from sdtune.core.evaluation.intervals import Array
from sdtune.core.evaluation.measures import Seen
from sdtune.core.evaluation.seeing import see
from sdtune.core.evaluation.subject import BASE, Candidate, Case, Cell, Prompt, Reference, Subject, Unit
from tests.core.evaluation.measures.handmade import unit
from tests.core.evaluation.runs import heard, picture

CATS, DOGS = Cell(0, 1.0), Cell(1, 0.5)
CELLS = (BASE, CATS, DOGS)
SEEDS = (0, 1)


class Small(Encoder):
    """Sixteen greys of a picture, counted by what they are."""

    name, label, fingerprint, resize, width = "small", "small", "small", "by boxes", 16

    def __init__(self, *, reads: bool = False) -> None:
        self.reads_texts = reads
        self.looked: Counter[bytes] = Counter()
        self.read: list[str] = []

    def images(self, images: Sequence[Image.Image]) -> Array:
        self.looked.update(image.tobytes() for image in images)
        return unit(numpy.array([_greys(image) for image in images]))

    def texts(self, texts: Sequence[str]) -> Array:
        self.read += texts
        return unit(numpy.array([numpy.resize([float(ord(letter)) for letter in text], 16) for text in texts]))


def _greys(image: Image.Image) -> Array:
    small = image.convert("L").resize((4, 4), Image.Resampling.BOX)
    return numpy.asarray(small, dtype=numpy.float64).ravel() + 1


def greys(paths: Sequence[Path]) -> Array:
    found = []
    for path in paths:
        with Image.open(path) as image:
            found.append(_greys(image.convert("RGB")))
    return unit(numpy.array(found))


class Ground:
    """Two trainings with a picture in common, two references, prompts of all kinds, and drawings of three cells."""

    def __init__(self, folder: Path) -> None:
        def reference(number: int, name: str, caption: str | None = None) -> Reference:
            place = picture(folder / f"{name}.png", number)
            return Reference(place, place.name, str(number), caption)

        cats = tuple(reference(number, f"cat-{number}") for number in (1, 2, 3))
        dogs = tuple(reference(number, f"dog-{number}") for number in (4, 2, 5))  # 2 is in both
        references = (reference(6, "true-6", "a true cat"), reference(7, "true-7"))
        self.truth = picture(folder / "pair.png", 8)
        prompts = (
            Prompt("a true cat", "a true", "in-distribution", has_concept=True, held_out=0),
            Prompt("a cat", "a", "in-distribution", has_concept=True, trained=(0, 1)),
            Prompt("a dog", "a", "in-distribution", has_concept=True, trained=(1, 2)),
            Prompt("a cat on a beach", "on a beach", "new context", has_concept=True),
            Prompt("a house", "a house", "generic", has_concept=False),
            Prompt("a ball", "a ball", "pair", has_concept=False, truth=self.truth),
        )
        self.units = tuple(Unit(prompt, seed) for prompt in range(len(prompts)) for seed in SEEDS)
        self.case = Case(
            "mini",
            (Subject("cats", folder, cats), Subject("dogs", folder, dogs)),
            (Candidate(0, "cats", Path("c"), None), Candidate(1, "dogs", Path("d"), None)),
            references,
            prompts,
            "cat",
            None,
        )
        self.pictures = {
            cell: tuple(
                picture(folder / f"{name}-{place}.png", 20 + 12 * number + place) for place in range(len(self.units))
            )
            for number, (cell, name) in enumerate(zip(CELLS, ("base", "cats", "dogs"), strict=True))
        }

    def see(self, encoder: Small, losses: dict[Cell, Array] | None = None, **more: object) -> dict[Cell, Seen]:
        case = replace(self.case, **more)
        found, _ = heard(see(case, self.units, self.pictures, losses or {}, encoder, Store(None, 2**20)))
        return found


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("seen"))


@pytest.fixture(scope="module")
def seen(ground: Ground) -> dict[Cell, Seen]:
    return ground.see(Small())


def twice(*each: object) -> list[object]:
    """One of each prompt for each seed."""
    return [one for one in each for _ in SEEDS]


def test_every_cell_has_its_own_drawings_beside_the_base_s(ground, seen):
    assert list(seen) == list(CELLS)
    for cell, one in seen.items():
        assert one.pictures == ground.pictures[cell]
        assert numpy.allclose(one.drawn, greys(ground.pictures[cell]))
        assert numpy.allclose(one.base, greys(ground.pictures[BASE]))
        assert numpy.allclose(one.references, greys([one.path for one in ground.case.references]))
        assert one.reference_pictures == tuple(one.path for one in ground.case.references)
        assert one.is_base is (cell == BASE)


def test_prompts_are_told_apart_by_their_kind(seen):
    for one in seen.values():
        assert one.prompt.tolist() == twice(0, 1, 2, 3, 4, 5)
        assert one.in_distribution.tolist() == twice(True, True, True, False, False, False)
        assert one.new_context.tolist() == twice(False, False, False, True, False, False)
        assert one.generic.tolist() == twice(False, False, False, False, True, False)
        assert one.has_concept.tolist() == twice(True, True, True, True, False, False)
        assert one.of_reference.tolist() == twice(0, -1, -1, -1, -1, -1)


def test_a_cell_may_copy_what_its_own_training_had(ground, seen):
    for cell, number in ((CATS, 0), (DOGS, 1)):
        trained = ground.case.subjects[number].trained
        assert seen[cell].trained_pictures == tuple(one.path for one in trained)
        assert numpy.allclose(seen[cell].trained, greys([one.path for one in trained]))
    assert seen[CATS].of_trained.tolist() == twice(-1, 1, -1, -1, -1, -1)


def test_a_picture_that_both_were_trained_on_is_found_by_its_content(seen):
    """The second caption is of a picture of the cats, which the dogs have, too, in the same place by chance."""
    assert seen[DOGS].of_trained.tolist() == twice(-1, 1, 2, -1, -1, -1)


def test_the_base_may_recite_what_any_training_had_each_once(ground, seen):
    names = [path.name for path in seen[BASE].trained_pictures]
    assert len(names) == len(seen[BASE].trained) == 5
    hashes = [one.sha256 for one in ground.case.trained_of(BASE)]
    assert sorted(hashes) == ["1", "2", "3", "4", "5"]
    assert seen[BASE].of_trained.tolist() == twice(-1, hashes.index("2"), hashes.index("5"), -1, -1, -1)


def test_a_reference_that_was_trained_is_known_by_its_content(ground):
    stands_in = (replace(ground.case.subjects[0].trained[2], caption="a"), ground.case.references[1])
    found = ground.see(Small(), references=stands_in)
    assert found[CATS].of_trained.tolist() == twice(2, 1, -1, -1, -1, -1)
    assert found[DOGS].of_trained.tolist() == twice(-1, 1, 2, -1, -1, -1)


def test_where_nothing_is_known_of_a_training_nothing_is_compared(ground):
    unknown = replace(ground.case.subjects[1], trained=())
    prompts = tuple(one for one in ground.case.prompts if one.trained is None or one.trained[0] == 0)
    prompts += (ground.case.prompts[3],)
    found = ground.see(Small(), subjects=(ground.case.subjects[0], unknown), prompts=prompts)
    assert found[DOGS].trained.shape == (0, 16)
    assert set(found[DOGS].of_trained.tolist()) == {-1}
    assert len(found[BASE].trained) == 3


def test_pixels_are_compared_where_the_true_picture_is_known(ground):
    found = ground.see(Small())
    for one in found.values():
        for name in ("psnr", "ssim", "perceptual"):
            assert numpy.isnan(one.values[name]).tolist() == twice(True, True, True, True, True, False)
    drawn, true = found[CATS].drawn[-1], greys([ground.truth])[0]
    assert found[CATS].values["perceptual"][-1] == pytest.approx(1 - drawn @ true)


def test_texts_are_those_of_plain_words_where_the_encoder_reads(ground, seen):
    assert seen[CATS].texts is None
    encoder = Small(reads=True)
    found = ground.see(encoder)
    assert sorted(encoder.read) == sorted({one.plain for one in ground.case.prompts})
    expected = Small().texts([ground.case.prompts[unit.prompt].plain for unit in ground.units])
    for one in found.values():
        assert one.texts is not None
        assert numpy.allclose(one.texts, expected)


def test_losses_stand_beside_the_base_s(ground, seen):
    assert seen[CATS].losses is None
    losses = {cell: numpy.array([1.0, 2.0]) * (number + 1) for number, cell in enumerate(CELLS)}
    found = ground.see(Small(), losses)
    assert found[BASE].losses is not None
    assert found[BASE].losses.tolist() == [[1, 1], [2, 2]]
    assert found[DOGS].losses is not None
    assert found[DOGS].losses.tolist() == [[3, 1], [6, 2]]


def test_classes_are_told_where_there_are_any(ground, seen):
    assert seen[CATS].of_class is None
    assert seen[CATS].reference_classes is None
    first, *others = ground.case.prompts
    references = (replace(ground.case.references[0], of_class=1), ground.case.references[1])
    found = ground.see(
        Small(), classes=("cat", "dog"), prompts=(replace(first, of_class=1), *others), references=references
    )
    assert found[DOGS].of_class is not None
    assert found[DOGS].of_class.tolist() == twice(1, -1, -1, -1, -1, -1)
    assert found[DOGS].reference_classes is not None
    assert found[DOGS].reference_classes.tolist() == [1, -1]


def test_no_picture_goes_through_the_encoder_twice(ground):
    encoder = Small()
    ground.see(encoder)
    assert set(encoder.looked.values()) == {1}
    assert len(encoder.looked) == 3 * len(ground.units) + 5 + 2 + 1
