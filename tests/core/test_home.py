"""Folders that begin with ~ lie in the user's home, wherever they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdtune.config import TrainLora, resolve
from sdtune.core.data.cache_folder import FACTS
from sdtune.core.home import from_home, paths_from_home
from sdtune.core.reports import Note
from sdtune.core.train_lora import train_lora
from sdtune.sample_config import Sample
from tests import pictures


def config_of(folder: str, more: str, cache: str | None) -> TrainLora:
    data: dict[str, Any] = {"folder": folder, "folders": [{"path": more, "repeats": 3}]}
    return resolve(TrainLora, [{"data": data, "cache": {"folder": cache} if cache else {}}])


def test_folders_from_home_are_spelt_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = from_home(config_of("~/cats", "~/more/cats", "~/x"))
    assert found == config_of(f"{tmp_path}/cats", f"{tmp_path}/more/cats", f"{tmp_path}/x")
    assert from_home(found) == found


@pytest.mark.parametrize("path", ["cats", "/data/cats", "a/~/cats", "cats~", "~nobody-of-that-name/cats"])
def test_others_stay_and_nothing_else_counts_as_set(path: str) -> None:
    for cache in (None, path):
        given = config_of(path, path, cache)
        found = from_home(given)
        assert found == given
        assert found.model_dump(exclude_unset=True) == given.model_dump(exclude_unset=True)


def test_a_training_makes_no_folder_of_that_name(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    pictures.folder(tmp_path / "home" / "discs")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tables = {"model": str(tiny_models["sd1"]), "data": {"folder": "~/discs"}, "cache": {"folder": "~/x"}}
    work = train_lora(resolve(TrainLora, [tables]))
    assert any(isinstance(report, Note) and report.text.startswith("data: 4 images") for report in work)
    work.close()
    assert (tmp_path / "home" / "x" / FACTS).is_file()
    assert not list((tmp_path / "here").iterdir())


def test_every_path_of_a_drawing_is_spelt_out_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ("prompts", "run", "out", "init", "mask", "again", "wildcards", "lora_folder")
    given = Sample(prompt=("~/a",), name="~/{seed}", **{name: Path("~", name) for name in names})
    found = paths_from_home(given)
    assert found == given.model_copy(update={name: tmp_path / name for name in names})
    typed = Sample(prompts=Path("-"), init=Path("a/~/b.png"))
    assert paths_from_home(typed).model_dump(exclude_unset=True) == typed.model_dump(exclude_unset=True)
