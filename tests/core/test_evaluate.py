"""Evaluations as a whole, on tiny models with LoRAs that are written by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from sdtune.config import Evaluate, EvaluateCompare
from sdtune.core import lora_file
from sdtune.core.data.cache import Store
from sdtune.core.evaluate import evaluate
from sdtune.core.evaluate_compare import evaluate_compare
from sdtune.core.evaluation import recommend
from sdtune.core.evaluation.encoders import encoder_named
from sdtune.core.evaluation.features import features_of
from sdtune.core.evaluation_reports import Compared, Evaluated
from sdtune.core.header import read_header
from sdtune.core.lora_reader import read
from sdtune.core.reports import Drawing
from sdtune.errors import ConfigError, DataError, LoraError, SdtuneError
from sdtune.tables import Machine
from tests.core.evaluation.runs import heard, lora, pictures, run
from tests.core.loras import trained

STYLE = ", soft style"
TEXTS = [f"a {name}{STYLE}" for name in ("house", "tree", "car", "dog", "cat", "boat", "hat", "cup", "fish", "bird")]
HELD_OUT = (5, 6, 7, 8, 9)
QUICK: dict[str, Any] = {"steps": 1, "seeds": 1, "prompts_each": 4, "resamples": 100, "levels": 2, "losses": 2}
SMALL = {"encoder": "mini", "strengths": (0.5, 1.0), **QUICK}


@dataclass(frozen=True)
class Ground:
    """A run with two LoRAs, and the pictures that it was trained on."""

    place: Path
    data: Path

    def eval(self, out: str = "eval", *subjects: str, **settings: Any) -> tuple[Evaluated, dict[str, Any]]:
        """(what it tells at its end, its report.json)."""
        config = Evaluate(
            **{**SMALL, "subjects": subjects or (str(self.place),), "out": self.place.parent / out, **settings}
        )
        told = [report for report in evaluate(config) if isinstance(report, Evaluated)]
        assert len(told) == 1
        return told[0], json.loads(told[0].record.read_text())


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Ground:
    place = tmp_path_factory.mktemp("ground")
    made = run(place / "run", place / "data", TEXTS, held_out=HELD_OUT, steps=(10,), model=str(tiny_models["sd1"]))
    for path, step, strength in ((made.partial(10), 10, 2.0), (made.lora, 100, 4.0)):
        learned, _, _ = trained("sd1", text=False)
        modules = {name: replace(one, up=strength * one.up) for name, one in learned.modules.items()}
        lora_file.write(path, replace(learned, modules=modules, metadata={"ss_steps": str(step)}))
    return Ground(place / "run", place / "data")


@pytest.fixture(scope="module")
def first(ground: Ground) -> tuple[Evaluated, dict[str, Any]]:
    """An evaluation that went from its beginning to its end."""
    return ground.eval("first")


def without_cost(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name != "cost"}


def test_every_lora_at_every_strength_stands_beside_the_base(first):
    told, report = first
    assert [(one["step"], one["strength"]) for one in report["cells"]] == [
        (None, 0), (10, 0.5), (10, 1), (100, 0.5), (100, 1),
    ]  # fmt: skip
    assert [len(one["pictures"]) for one in report["cells"]] == [12] * 5
    assert report["cost"]["drawn"] == 60
    assert len({one["text"] for one in report["prompts"]}) == 12
    assert told.page.read_text().startswith("<!doctype html>")
    assert (told.drawings, told.references) == (12, 5)
    assert [row.strength for row in told.rows] == [0, 0.5, 1, 0.5, 1]
    base = report["cells"][0]["values"]
    assert (base["drift"]["estimate"], base["concept_f1"]["estimate"], base["loss"]["estimate"]) == (0, 0, 1)


def test_figures_are_of_the_drawings_that_the_report_names(ground, first):
    """What is told of a cell is computed once more from the files of its pictures and of the references."""
    told, report = first
    encoder = encoder_named("mini", builtin_model=False, machine=Machine())

    def looks(files: list[Path]) -> numpy.ndarray:
        return heard(features_of(files, encoder, Store(None, 2**28)))[0]

    kinds = [one["kind"] for one in report["prompts"]]
    generic = [place for place, kind in enumerate(kinds) if kind == "generic"]
    cells = [[told.record.parent / file for file in one["pictures"]] for one in report["cells"]]
    base = looks([cells[0][place] for place in generic])
    for cell, files in list(zip(report["cells"], cells, strict=True))[1:]:
        drawn = looks([files[place] for place in generic])
        assert cell["values"]["drift"]["estimate"] == pytest.approx(1 - (drawn * base).sum(1).mean(), abs=1e-6)
    described = {one["text"]: place for place, one in enumerate(report["prompts"])}
    truths = {text: ground.data / f"{number:02}.png" for number, text in enumerate(TEXTS) if number in HELD_OUT}
    asked = [text for text in truths if text in described]
    drawn = looks([cells[-1][described[text]] for text in asked])
    alike = (drawn * looks([truths[text] for text in asked])).sum(1).mean()
    assert report["cells"][-1]["values"]["truth_similarity"]["estimate"] == pytest.approx(alike, abs=1e-6)


def test_a_second_evaluation_draws_nothing_and_tells_the_same(ground, first):
    _, second = ground.eval("first")
    assert (second["cost"]["drawn"], second["cost"]["there"]) == (0, 60)
    assert without_cost(first[1]) == without_cost(second)


def test_one_that_was_stopped_goes_on_and_tells_the_same(ground, first):
    config = Evaluate(**{**SMALL, "subjects": (str(ground.place),), "out": ground.place.parent / "stopped"})
    work = evaluate(config)
    for report in work:
        if isinstance(report, Drawing) and report.number == 25:
            work.close()
            break
    assert not (ground.place.parent / "stopped" / "report.json").exists()
    _, again = ground.eval("stopped", batch_size=1)
    assert again["cost"]["there"] >= 20
    assert without_cost(again) | {"settings": {}} == without_cost(first[1]) | {"settings": {}}


def test_what_is_asked_for_and_not_reached_fails_when_all_is_written(ground, first, monkeypatch):
    told, _ = first
    told.page.unlink()
    settings = {**SMALL, "subjects": (str(ground.place),), "out": told.page.parent}
    with pytest.raises(SdtuneError, match="nothing is recommended"):
        list(evaluate(Evaluate(**settings, fail_over=("drift=2",))))
    assert told.page.is_file()
    monkeypatch.setattr(recommend, "_has_learned", lambda *_: True)
    with pytest.raises(SdtuneError, match=r"vendi is .*, under 99"):
        list(evaluate(Evaluate(**settings, fail_under=("vendi=99",))))


def test_the_recommended_strength_goes_into_the_file_that_is_recommended(ground, tmp_path, monkeypatch):
    shutil.copytree(ground.place, tmp_path / "run")
    ground = replace(ground, place=tmp_path / "run")
    monkeypatch.setattr(recommend, "_has_learned", lambda *_: True)  # random weights have learned nothing
    told, report = ground.eval(write_strength=True)
    best = report["recommendation"]
    assert told.written is not None
    assert told.written.name == Path(best["lora"]).name
    assert read_header(told.written, LoraError).metadata["modelspec.lora_default_weight"] == f"{best['strength']:g}"
    others = [file for file in ground.place.glob("*.safetensors") if file != told.written]
    assert not any("modelspec.lora_default_weight" in read_header(file, LoraError).metadata for file in others)


def test_pairs_are_drawn_and_laid_beside_their_pictures(ground, tmp_path):
    pairs = pictures(tmp_path / "pairs", ["a red ball", "a blue ball"], first=30)
    _, report = ground.eval("pairs-eval", pairs=pairs, strengths=(1.0,))
    assert len(report["prompts"]) == 14
    for cell in report["cells"]:
        assert cell["values"]["psnr"]["n"] == 2
        assert 0 < cell["values"]["psnr"]["estimate"] < 40
    drawn = ground.place.parent / "pairs-eval" / report["cells"][0]["pictures"][12]
    with Image.open(drawn) as image:
        image.convert("RGB").save(pairs / "30.png")
    with Image.open(ground.place.parent / "pairs-eval" / report["cells"][0]["pictures"][13]) as image:
        image.convert("RGB").save(pairs / "31.png")
    _, report = ground.eval("pairs-eval", pairs=pairs, strengths=(1.0,))
    assert report["cells"][0]["values"]["psnr"]["estimate"] == 100
    assert report["cells"][0]["values"]["ssim"]["estimate"] == pytest.approx(1)
    assert report["cells"][1]["values"]["psnr"]["estimate"] < 100


def test_pairs_without_captions_are_refused(ground, tmp_path):
    pairs = pictures(tmp_path / "pairs", [None, None], first=30)
    with pytest.raises(DataError, match="caption"):
        ground.eval(pairs=pairs)


def test_one_reference_is_enough_to_say_what_is_refused_and_why(ground, tmp_path):
    one = pictures(tmp_path / "one", [f"a red ball{STYLE}"], first=40)
    _, report = ground.eval("one-eval", reference=one, strengths=(1.0,))
    refused = report["cells"][1]["refused"]
    assert {"cmmd", "kid", "fid", "f1", "concept_f1"} <= refused.keys()
    assert all("reference" in refused[name] for name in ("cmmd", "kid", "concept_f1"))
    assert "image_similarity" in report["cells"][1]["values"]


def test_a_lora_that_changes_nothing_is_not_recommended(ground, tmp_path):
    nothing = lora(tmp_path / "nothing.safetensors", value=0.0, width=32)
    model = str(Path(read_model(ground)).resolve())
    told, report = ground.eval("nothing-eval", str(nothing), model=model, reference=ground.data, trigger="soft style")
    assert report["recommendation"] is None
    assert told.sentence.startswith("use none")
    assert report["cells"][1]["values"]["drift"]["estimate"] == 0
    assert report["cells"][1]["values"]["loss"]["estimate"] == 1


def read_model(ground: Ground) -> str:
    import tomllib

    return tomllib.loads((ground.place / "run.toml").read_text())["model"]


def test_loras_of_every_family_are_drawn_and_measured(tiny_models, tmp_path, family_name):
    learned, _, _ = trained(family_name)
    lora_file.write(tmp_path / "some.safetensors", learned)
    photos = pictures(tmp_path / "photos", TEXTS[:5])
    config = Evaluate(
        subjects=(str(tmp_path / "some.safetensors"),),
        model=str(tiny_models[family_name]),
        reference=photos,
        out=tmp_path / "eval",
        encoder="mini",
        strengths=(1.0,),
        **{**QUICK, "prompts_each": 2},
    )
    told = [report for report in evaluate(config) if isinstance(report, Evaluated)]
    report = json.loads(told[0].record.read_text())
    values = report["cells"][1]["values"]
    assert values["drift"]["estimate"] > 0
    assert values["loss"]["estimate"] != 1
    assert values["text_alignment"]["n"] == 4


def compared(ground: Ground, first: str, second: str, **settings: Any) -> Compared:
    config = EvaluateCompare(
        **{"encoder": "mini", **QUICK, "out": ground.place.parent / "compare", **settings}, first=first, second=second
    )
    (told,) = [report for report in evaluate_compare(config) if isinstance(report, Compared)]
    assert told.page.is_file()
    assert json.loads(told.record.read_text())["format"] == 1
    return told


def test_a_lora_differs_in_nothing_from_itself(ground):
    with pytest.raises(ConfigError, match="the same LoRA at the same strength"):
        compared(ground, str(read_lora(ground)), str(read_lora(ground)))


def test_differences_are_of_the_two_that_are_named(ground):
    file = read_lora(ground)
    one = compared(ground, f"{file}:1", f"{file}:0.5")
    other = compared(ground, f"{file}:0.5", f"{file}:1")
    for ab, ba in zip(one.differences, other.differences, strict=True):
        assert ab.difference.estimate == pytest.approx(-ba.difference.estimate)
        assert (ab.first, ab.second) == (ba.second, ba.first)
    drift = next(found for found in one.differences if found.name == "drift")
    assert drift.difference.estimate == pytest.approx(drift.first.estimate - drift.second.estimate)
    assert drift.first.estimate > drift.second.estimate > 0


def test_what_is_no_larger_than_between_twins_is_noise(ground):
    files = sorted(ground.place.glob("*.safetensors"))
    told = compared(ground, f"{files[0]}:0.5", f"{files[0]}:1", twins=(str(files[1]),))
    for one in told.differences:
        assert one.floor is not None
        if abs(one.difference.estimate) <= one.floor:
            assert one.winner == ""


def read_lora(ground: Ground) -> Path:
    (file,) = [one for one in ground.place.glob("*.safetensors") if "step" not in one.name]
    assert read(file).modules
    return file
