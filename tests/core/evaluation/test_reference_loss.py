"""The loss on references: with LoRAs that change something and those that do not, kept by content, on a tiny model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import pytest

from sdtune.config import Evaluate
from sdtune.core.applied import Applied
from sdtune.core.blocks import Strength
from sdtune.core.data.cache import Store
from sdtune.core.data.image_file import read
from sdtune.core.evaluation import reference_loss
from sdtune.core.evaluation.intervals import Array
from sdtune.core.evaluation.measures.base import Seen, Told
from sdtune.core.evaluation.measures.loss import ReferenceLoss
from sdtune.core.evaluation.reference_loss import Acting, losses_of
from sdtune.core.evaluation.subject import Reference
from sdtune.core.lora import Lora
from sdtune.core.reports import Note, Progress, Warned
from sdtune.tables import Machine
from tests.core.evaluation.measures.handmade import cloud, seen
from tests.core.evaluation.runs import heard, picture
from tests.core.loras import trained

CONFIG = Evaluate(subjects=("x",), losses=3, levels=2, memory=Machine(device="cpu", precision="fp32"))
BASE: Acting = ()


def sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(read(path)).hexdigest()


@dataclass
class Ground:
    """A tiny model, four references, one of them without a caption, and a LoRA by the parts that it changes."""

    model: Path
    references: tuple[Reference, ...]
    learned: Lora

    def lora(self, part: str = "", strength: float = 1.0) -> Acting:
        modules = {name: module for name, module in self.learned.modules.items() if name.startswith(part)}
        return (Applied(Path(f"{part}.safetensors"), replace(self.learned, modules=modules), Strength(strength, {})),)

    def losses(
        self, *sets: Acting, store: Store | None = None, config: Evaluate = CONFIG, **more: Sequence[Reference]
    ) -> list[Array] | None:
        references = more.get("references", self.references)
        work = losses_of(config, str(self.model), None, references, sets, store or Store(None, 2**24))
        found: list[Array] | None = heard(work)[0]
        return found


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Ground:
    folder = tmp_path_factory.mktemp("references")
    captions = ("a red house", "a tree", None, "a dog")
    references = []
    for number, caption in enumerate(captions):
        path = picture(folder / f"{number}.png", number)
        references.append(Reference(path, path.name, sha256(path), caption))
    return Ground(tiny_models["sd1"], tuple(references), trained("sd1")[0])


@pytest.fixture(scope="module")
def rows(ground: Ground) -> dict[str, Array]:
    """One measurement of all kinds of sets."""
    sets = {
        "base": BASE,
        "none": ground.lora(strength=0.0),
        "all": ground.lora(),
        "half": ground.lora(strength=0.5),
        "net": ground.lora("unet"),
        "texts": ground.lora("text_encoder"),
        "again": BASE,
    }
    found = ground.losses(*sets.values())
    assert found is not None
    return dict(zip(sets, found, strict=True))


def test_each_is_of_the_references_that_have_a_caption(rows):
    assert {row.shape for row in rows.values()} == {(3,)}
    assert all(numpy.isfinite(row).all() and (row > 0).all() for row in rows.values())


def test_at_strength_0_it_is_the_base_s(rows):
    assert rows["none"].tolist() == rows["base"].tolist() == rows["again"].tolist()


def test_every_part_that_a_lora_changes_changes_it(rows):
    """The denoiser's, and that of text encoders alone, which changes what the denoiser is told."""
    assert len({tuple(rows[name].tolist()) for name in ("base", "all", "half", "net", "texts")}) == 5


def test_a_set_is_measured_alike_whatever_was_measured_before_it(ground, rows):
    found = ground.losses(ground.lora("texts"), ground.lora(), BASE)
    assert found is not None
    assert found[1].tolist() == rows["all"].tolist()
    assert found[2].tolist() == rows["base"].tolist()


def test_the_order_of_references_changes_nothing(ground, rows):
    found = ground.losses(BASE, references=ground.references[::-1])
    assert found is not None
    assert found[0].tolist() == rows["base"].tolist()


def test_a_picture_that_is_there_twice_counts_once(ground, rows, tmp_path):
    first = ground.references[0]
    copy = replace(first, path=Path(shutil.copy(first.path, tmp_path / "copy.png")), name="copy.png")
    found = ground.losses(BASE, references=(*ground.references, copy))
    assert found is not None
    assert found[0].tolist() == rows["base"].tolist()


def test_what_was_measured_before_is_taken_from_the_store(ground, monkeypatch, tmp_path):
    store = Store(tmp_path, 2**24)
    first = ground.losses(BASE, ground.lora(), store=store)
    monkeypatch.setattr(reference_loss.parts, "reader", lambda *_: pytest.fail("the model is loaded"))
    again = ground.losses(ground.lora(), BASE, store=Store(tmp_path, 2**24))
    assert first is not None
    assert again is not None
    assert [row.tolist() for row in again[::-1]] == [row.tolist() for row in first]
    assert ground.losses(store=Store(tmp_path, 2**24)) == []


@pytest.mark.parametrize("changed", ["levels", "caption", "strength", "clip skip", "references"])
def test_what_is_in_the_store_is_of_the_same_alone(ground, changed, monkeypatch, tmp_path):
    """Anything that it depends on is measured anew."""
    measured = []

    def counting(*given: object):
        (*_, sets, _) = given
        measured.append(len(sets))
        return [numpy.ones(2)] * len(sets)
        yield

    monkeypatch.setattr(reference_loss, "_measured", counting)
    store = Store(tmp_path, 2**24)
    ground.losses(BASE, ground.lora(), store=store)
    ground.losses(BASE, ground.lora(), store=store)
    assert measured == [2]
    config, references, sets, clip_skip = CONFIG, ground.references, (BASE, ground.lora()), None
    if changed == "levels":
        config = CONFIG.model_copy(update={"levels": 3})
    elif changed == "caption":
        references = (replace(references[0], caption="a blue house"), *references[1:])
    elif changed == "strength":
        sets = (BASE, ground.lora(strength=0.8))
    elif changed == "clip skip":
        clip_skip = 2
    else:
        references = references[1:]
    heard(losses_of(config, str(ground.model), clip_skip, references, sets, store))
    assert measured == [2, 1 if changed == "strength" else 2]


def test_without_a_caption_there_is_none(ground):
    assert ground.losses(BASE, references=[ground.references[2]]) is None
    assert ground.losses(BASE, references=[]) is None


def test_no_more_are_looked_at_than_were_asked_for(ground, rows):
    found = ground.losses(BASE, config=CONFIG.model_copy(update={"losses": 2}))
    assert found is not None
    assert len(found[0]) == 2
    assert set(found[0]) < set(rows["base"])


def test_references_that_are_too_small_are_told_and_left_out(ground, rows, tmp_path):
    path = picture(tmp_path / "small.png", 9, side=20)
    small = Reference(path, path.name, sha256(path), "small")
    config = CONFIG.model_copy(update={"losses": 4})
    work = losses_of(config, str(ground.model), None, (*ground.references, small), [BASE], Store(None, 2**24))
    reports, found = [], None
    while True:
        try:
            reports.append(next(work))
        except StopIteration as end:
            found = end.value
            break
    assert found is not None
    assert sorted(found[0]) == sorted(rows["base"])
    assert [one.text for one in reports if isinstance(one, Warned)] == [
        "the loss is not measured on 1 reference, too small for the model"
    ]
    assert [one.text for one in reports if isinstance(one, Note)][-1] == "loss on 3 references, at 2 noise levels"
    last = [one for one in reports if isinstance(one, Progress)][-1]
    assert (last.phase, last.number, last.of) == ("measuring losses", 6, 6)
    assert ground.losses(BASE, references=[small]) is None


# ---- the measure made of them


def with_losses(losses: Array | None, *, is_base: bool = False) -> Seen:
    random = numpy.random.default_rng(0)
    return seen(cloud(random, 4), cloud(random, 6), losses=losses, is_base=is_base)


def test_the_measure_is_the_ratio_of_the_sums():
    from sdtune.core.evaluation.intervals import Refused, Value, resampled

    weights = resampled([0, 1, 2, 3], 6, 1000)
    measure = ReferenceLoss()
    losses = numpy.array([[0.8, 1.0], [0.3, 0.5], [1.5, 1.5]])
    value = measure.value(with_losses(losses), weights)
    assert isinstance(value, Value)
    assert value.estimate == pytest.approx(2.6 / 3)
    assert (value.n, value.references) == (0, 3)
    assert 0 <= value.low < value.estimate < value.high
    told = measure.told(with_losses(losses), weights)
    assert isinstance(told, Told)
    assert told.groups == 3
    base = measure.value(with_losses(losses[:, [1, 1]], is_base=True), weights)
    assert isinstance(base, Value)
    assert (base.estimate, base.low, base.high) == (1, 1, 1)
    assert isinstance(measure.value(with_losses(None), weights, force=True), Refused)
