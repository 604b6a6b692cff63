"""Drawings of an evaluation are those of `sample`: by cell and unit, drawn once, on a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdtune.config import Evaluate, Sample
from sdtune.core import lora_file
from sdtune.core.evaluation import drawings
from sdtune.core.evaluation.drawings import Drawings, acting, draw, units_of
from sdtune.core.evaluation.subject import BASE, Candidate, Case, Cell, Prompt, Subject, Unit
from sdtune.core.reports import Drawn, Progress, There, Warned
from sdtune.core.sample import sample
from sdtune.errors import ConfigError, LoraError
from sdtune.tables import Machine
from tests.core.evaluation.runs import heard, lora
from tests.core.loras import trained

ON_CPU = Machine(device="cpu", precision="fp32")
CONFIG = Evaluate(subjects=("x",), steps=1, guidance=2.0, seeds=2, seed=5, batch_size=3, memory=ON_CPU)
TEXTS = ("a red house", "(a cat:1.3), --n not a flag")
CELLS = (BASE, Cell(0, 0.5), Cell(1, 1.0), Cell(0, 0.0))


class Ground:
    """Two LoRAs of a tiny model, of which the second leaves texts alone, and all cells drawn."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        paths = [folder / "all.safetensors", folder / "net.safetensors"]
        learned = trained("sd1")[0]
        lora_file.write(paths[0], learned)
        of_net = {name: module for name, module in learned.modules.items() if name.startswith("unet")}
        lora_file.write(paths[1], replace(learned, modules=of_net))
        self.case = Case(
            str(model),
            (Subject("x", folder),),
            tuple(Candidate(0, path.stem, path, None) for path in paths),
            (),
            tuple(Prompt(text, text, "generic", has_concept=False) for text in TEXTS),
            None,
            None,
        )
        self.loras = tuple(lora_file.read(path) for path in paths)
        self.units = units_of(self.case, CONFIG)
        self.drawn = self.draw()

    def draw(self, cells: tuple[Cell, ...] = CELLS, config: Evaluate = CONFIG, **more: Any) -> Drawings:
        work = draw(config, replace(self.case, **more), cells, self.units, self.loras, self.folder / "pictures")
        return heard(work)[0]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Ground:
    return Ground(tmp_path_factory.mktemp("drawings"), tiny_models["sd1"])


def test_units_are_every_prompt_with_every_seed(ground):
    assert ground.units == (Unit(0, 5), Unit(0, 6), Unit(1, 5), Unit(1, 6))


def test_what_acts_in_a_cell_is_its_lora_at_its_strength(ground):
    assert acting(ground.case, BASE, ground.loras) == ()
    (one,) = acting(ground.case, Cell(1, 0.5), ground.loras)
    assert (one.path, one.lora, one.strength.usual) == (ground.case.candidates[1].path, ground.loras[1], 0.5)


def test_every_cell_has_its_own_files_in_the_order_of_the_units(ground):
    assert list(ground.drawn.pictures) == list(CELLS)
    files = [path for some in ground.drawn.pictures.values() for path in some]
    assert len(set(files)) == len(files) == 16
    assert all(path.parent == ground.folder / "pictures" for path in files)
    assert (ground.drawn.drawn, ground.drawn.there, ground.drawn.device) == (16, 0, "cpu")


@pytest.mark.parametrize(("cell", "unit"), [(0, 3), (1, 0), (2, 1), (2, 2)])
def test_files_are_those_that_sample_draws(ground, tmp_path, cell, unit):
    """Each by itself: the same prompt as it stands, seed, LoRA and strength."""
    here, one = CELLS[cell], ground.units[unit]
    applied = () if here.candidate is None else (f"{ground.case.candidates[here.candidate].path}:{here.strength}",)
    config = Sample(
        prompt=(TEXTS[one.prompt],),
        syntax="plain",
        model=ground.case.model,
        lora=applied,
        seed=one.seed,
        out=tmp_path,
        steps=1,
        guidance=2.0,
        memory=ON_CPU,
    )
    (alone,) = [report.path for report in sample(config) if isinstance(report, Drawn)]
    assert alone.read_bytes() == ground.drawn.pictures[here][unit].read_bytes()


def test_at_strength_0_a_lora_does_nothing_and_else_it_does(ground):
    pixels = {cell: [_pixels(path) for path in paths] for cell, paths in ground.drawn.pictures.items()}
    assert pixels[Cell(0, 0.0)] == pixels[BASE]
    for place in range(4):
        assert len({cell[place] for cell in (pixels[BASE], pixels[CELLS[1]], pixels[CELLS[2]])}) == 3


def test_what_is_there_is_not_drawn_again_but_what_is_new_is(ground):
    again = ground.draw()
    assert (again.drawn, again.there, again.pictures) == (0, 16, ground.drawn.pictures)
    lost = ground.drawn.pictures[CELLS[1]][2]
    kept = lost.read_bytes()
    lost.unlink()
    again = ground.draw()
    assert (again.drawn, again.there) == (1, 15)
    assert again.pictures[CELLS[1]][2].read_bytes() == kept


def test_it_tells_how_far_it_has_come_but_not_of_each_picture(ground):
    reports = list(draw(CONFIG, ground.case, CELLS[:2], ground.units, ground.loras, ground.folder / "once more"))
    assert any(isinstance(report, Progress) for report in reports)
    assert not any(isinstance(report, Drawn | There) for report in reports)


def test_what_an_interrupt_leaves_is_told(ground, monkeypatch):
    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(drawings, "pictures_of", interrupted)
    with pytest.raises(KeyboardInterrupt, match="16 of 16 pictures are there; the same command goes on"):
        ground.draw()


def test_too_many_pictures_are_refused_before_anything_is_read(ground):
    units = ground.units * 30_000
    with pytest.raises(ConfigError, match=r"4 LoRAs and strengths of 120,000 pictures each: over .*--prompts-each"):
        heard(draw(CONFIG, ground.case, CELLS, units, ground.loras, ground.folder))


def test_a_lora_of_another_family_is_refused(ground, tmp_path):
    other = lora(tmp_path / "other.safetensors", family="sdxl")
    read = lora_file.read(other)
    case = replace(ground.case, candidates=(Candidate(0, "other", other, None),))
    with pytest.raises(LoraError, match=r"other\.safetensors: a LoRA for .*choose one to fit"):
        heard(draw(CONFIG, case, CELLS[:2], ground.units, (read,), tmp_path / "pictures"))


def test_attention_that_is_asked_for_and_not_there_is_told(ground):
    asked = CONFIG.model_copy(update={"memory": ON_CPU.model_copy(update={"attention": "xformers"})})
    work = draw(asked, ground.case, CELLS, ground.units, ground.loras, ground.folder / "pictures")
    told = [report.text for report in work if isinstance(report, Warned)]
    assert [text.startswith("attention: sdpa, since xformers") for text in told] == [True]
    work = draw(CONFIG, ground.case, CELLS, ground.units, ground.loras, ground.folder / "pictures")
    assert not any(isinstance(report, Warned) for report in work)


def _pixels(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB").tobytes()
