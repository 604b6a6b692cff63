"""Prior images are drawn once by the base model, kept, and drawn anew only where they would be others."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdtune.config import TrainLora, resolve
from sdtune.core import priors
from sdtune.core.families import family_named
from sdtune.core.identity import Identity
from sdtune.core.model import identify
from sdtune.core.priors import as_examples, check_priors, draw_priors, drawn_in
from sdtune.core.reports import Note, Report, Warned
from sdtune.errors import ConfigError, DataError


def config_for(tmp_path: Path, model: Path, **tables: Any) -> TrainLora:
    usual = {
        "model": str(model),
        "data": {"folder": tmp_path, "resolution": 64},
        "cache": {"folder": tmp_path / "cache"},
        "prior": {"count": 3, "prompt": "a dog"},
        "memory": {"device": "cpu", "precision": "fp32"},
    }
    return resolve(TrainLora, [usual, tables])


def drawn(config: TrainLora) -> tuple[list[Path], list[Report]]:
    identity = identify(config.model)
    work, reports = draw_priors(config, identity, family_named(identity.family)), []
    while True:
        try:
            reports.append(next(work))
        except StopIteration as end:
            return end.value, reports


def key_of(config: TrainLora) -> str:
    return priors._key(identify(config.model), priors._settings(config))


def hashes(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


@pytest.fixture
def model(tiny_models: dict[str, Path]) -> Path:
    return tiny_models["sd1"]


def test_they_are_drawn_once_and_only_what_is_missing(model: Path, tmp_path: Path) -> None:
    first, _ = drawn(config_for(tmp_path, model))
    assert sorted(drawn_in(first[0].parent, "a dog", identify(str(model)).name)) == [0, 1, 2]
    assert len(list(first[0].parent.iterdir())) == 3  # no sheet of all
    before, times = hashes(first), [path.stat().st_mtime_ns for path in first]
    assert len(set(before)) == 3
    again, reports = drawn(config_for(tmp_path, model))
    assert (again, hashes(again), [path.stat().st_mtime_ns for path in again]) == (first, before, times)
    assert any(isinstance(one, Note) and "3 in the cache" in one.text for one in reports)
    assert drawn(config_for(tmp_path, model, prior={"count": 2}))[0] == first[:2]
    first[1].unlink()
    mended, reports = drawn(config_for(tmp_path, model, prior={"count": 5}))
    assert any(isinstance(one, Note) and "3 of 5 are to be drawn" in one.text for one in reports)
    assert [path.stat().st_mtime_ns for path in (mended[0], mended[2])] == [times[0], times[2]]
    with Image.open(mended[1]) as image:
        assert ("Seed: 1," in image.info["parameters"], image.size) == (True, (64, 64))
    assert len(set(hashes(mended))) == 5


def test_what_makes_other_pictures_has_another_place(model: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = shutil.copytree(model, tmp_path / "other" / model.name)
    changes: list[tuple[Path, dict[str, Any]]] = [
        (model, {}),
        (model, {"prior": {"prompt": "a cat"}}),
        (model, {"data": {"resolution": 32}}),
        (model, {"data": {"folder": tmp_path, "resolution": None}}),
        (other, {}),
    ]
    keys = [key_of(config_for(tmp_path, place, **change)) for place, change in changes]
    assert len(set(keys)) == len(keys)
    assert key_of(config_for(tmp_path, model, seed=7, batch_size=4, prior={"count": 1, "weight": 0.5})) == keys[0]
    keys.append(key_of(config_for(tmp_path, model, memory={"precision": "bf16"})))
    linked = tmp_path / "linked"
    shutil.move(other / "vae", linked)
    (other / "vae").symlink_to(linked)
    assert key_of(config_for(tmp_path, other)) == keys[4]
    (linked / "notes.md").write_text("what it is not read from")
    assert key_of(config_for(tmp_path, other)) == keys[4]
    for file in sorted(path for path in [*other.glob("*.json"), *other.glob("*/*")] if path.suffix in priors.READ):
        file.write_bytes(file.read_bytes() + b" ")  # of the same meaning, for all that is known
        keys.append(key_of(config_for(tmp_path, other)))
    assert len(set(keys)) == len(keys) > 12
    ((path,), _) = drawn(config_for(tmp_path, model, prior={"count": 1}))
    assert path.parent == tmp_path / "cache" / "priors" / keys[0]


def test_as_examples_they_say_the_class_and_weigh_as_told(model: Path, tmp_path: Path) -> None:
    config = config_for(tmp_path, model, prior={"weight": 0.25, "count": 2})
    paths, _ = drawn(config)
    examples = as_examples(paths, config)
    assert [one.path for one in examples] == paths
    assert {(one.captions, one.width, one.height, one.weight, one.prior) for one in examples} == {
        (("a dog",), 64, 64, 0.25, True)
    }
    assert [one.sha256 for one in examples] == hashes(paths)
    blank = config_for(tmp_path, model, task="unconditional")
    assert as_examples(paths, blank)[0].captions == ("",)


@pytest.mark.parametrize("how", ["memory", "a file in its place"])
def test_without_a_place_to_keep_them_they_are_drawn_for_one_run(how: str, model: Path, tmp_path: Path) -> None:
    cache = {"place": "memory"} if how == "memory" else {}
    if how != "memory":
        (tmp_path / "cache").write_text("a file")
    paths, reports = drawn(config_for(tmp_path, model, cache=cache, prior={"count": 1}))
    assert paths[0].is_file()
    assert tmp_path not in paths[0].parents
    assert any(isinstance(one, Warned) and "cannot be written" in one.text for one in reports) == (how != "memory")
    assert not (tmp_path / "cache").is_dir()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"count": 3, "prompt": None}, r"prior\.prompt \(--class-prompt\): not given"),
        ({"count": 0, "prompt": "a dog"}, r"prior\.count \(--prior\): not given"),
    ],
)
def test_a_number_and_a_prompt_belong_together(told: dict[str, Any], words: str, model: Path, tmp_path: Path) -> None:
    config = config_for(tmp_path, model, prior=told)
    with pytest.raises(ConfigError, match=words) as caught:
        check_priors(config, identify(config.model))
    assert len(caught.value.problems) == 1
    with pytest.raises(ConfigError):
        drawn(config)


def test_none_are_drawn_where_none_are_asked_for(model: Path, tmp_path: Path) -> None:
    assert drawn(config_for(tmp_path, model, prior={"count": 0, "prompt": None})) == ([], [])
    assert not (tmp_path / "cache").exists()


def test_a_class_prompt_with_the_trigger_is_told(model: Path, tmp_path: Path) -> None:
    config = config_for(tmp_path, model, data={"trigger": "dog"}, prior={"count": 1})
    assert any(isinstance(one, Warned) and "holds the trigger dog" in one.text for one in drawn(config)[1])


def test_pictures_are_known_by_what_they_say_of_themselves(model: Path, tmp_path: Path) -> None:
    prompt = "a dog, Seed: 5, Model: x, Version: y"
    (path,) = drawn(config_for(tmp_path, model, prior={"count": 1, "prompt": prompt}))[0]
    name = identify(str(model)).name
    assert drawn_in(path.parent, prompt, name) == {0: path}
    assert drawn_in(path.parent, prompt, "x") == {}
    assert drawn_in(path.parent, "a dog", name) == {}
    (path.parent / "no.png").write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save(path.parent / "another.png")
    assert drawn_in(path.parent, prompt, name) == {0: path}


def test_large_files_are_told_apart_by_their_time(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priors, "SMALL", 1)
    other = shutil.copytree(model, tmp_path / model.name)
    before = key_of(config_for(tmp_path, other))
    weights = next(other.glob("unet/*.safetensors"))
    os.utime(weights, ns=(1, 1))
    assert key_of(config_for(tmp_path, other)) != before


def test_a_model_of_the_hub_is_told_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    identity = Identity("sd1", "hub", "owner/model", "sd1")
    repository = tmp_path / "models--owner--model"
    (repository / "refs").mkdir(parents=True)
    keys = [priors.stamp(identity)]
    for commit in ("a" * 40, "b" * 40):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "model_index.json").write_text("{}")
        (repository / "refs/main").write_text(commit)
        keys.append(priors.stamp(identity))
    assert keys == [[], [("a" * 40,)], [("b" * 40,)]]


@pytest.mark.parametrize("damage", ["cut", "size", "both sizes", "no picture"])
def test_damaged_pictures_are_drawn_anew(damage: str, model: Path, tmp_path: Path) -> None:
    config = config_for(tmp_path, model)
    first, _ = drawn(config)
    whole = hashes(first)
    data = first[1].read_bytes()
    with Image.open(first[1]) as image:
        told = str(image.info["parameters"])
    if damage == "cut":
        first[1].write_bytes(data[: len(data) * 2 // 3])
    elif damage == "no picture":
        first[1].write_bytes(b"")
    else:
        told = told.replace("64x64", "32x32") if damage == "both sizes" else told
        info = PngInfo()
        info.add_text("parameters", told)
        Image.new("RGB", (32, 32)).save(first[1], pnginfo=info)
    again, reports = drawn(config)
    assert hashes(again) == whole
    assert sorted(again[0].parent.iterdir()) == sorted(again)
    (note,) = (one.text for one in reports if isinstance(one, Note) and "damaged" in one.text)
    assert note == 'prior images of "a dog": 1 in the cache damaged or of another size, removed'
    assert not any(isinstance(one, Note) and "damaged" in one.text for one in drawn(config)[1])


def test_pictures_that_others_are_writing_stay(model: Path, tmp_path: Path) -> None:
    config = config_for(tmp_path, model, prior={"count": 1})
    ((path,), _) = drawn(config)
    unfinished = path.with_name(".00002-1-x.png")
    unfinished.write_bytes(path.read_bytes()[:99])
    drawn(config)
    assert unfinished.exists()


def test_images_that_are_pruned_meanwhile_are_told_in_one_line(model: Path, tmp_path: Path) -> None:
    config = config_for(tmp_path, model, prior={"count": 2})
    paths, _ = drawn(config)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DataError, match=r"^prior images in the cache were removed meanwhile; run again$"):
        as_examples(paths, config)
