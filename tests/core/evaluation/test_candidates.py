"""Which LoRAs are looked at, of whatever is named, and what they are called."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sdtune.core.evaluation.candidates import Lineup, folder_notes, lineup, opened
from sdtune.errors import ConfigError, InputError, LoraError
from tests.core.evaluation.runs import heard, lora, run

CAPTIONS = ["a cat", "a dog"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def line_of(*names: str, every: bool = True) -> Lineup:
    found: Lineup = heard(lineup([opened(name, None, every=every) for name in names]))[0]
    return found


def called(line: Lineup) -> list[tuple[str, int | None]]:
    return [(one.name, one.step) for one in line.candidates]


def test_of_a_run_every_lora_it_kept_is_looked_at_in_its_order() -> None:
    run(Path("runs/cats-1"), Path("cats"), CAPTIONS, steps=(10, 70), best=40, end=100)
    line = line_of("runs/cats-1")
    assert called(line) == [("step 10", 10), ("step 40 (best)", 40), ("step 70", 70), ("step 100 (end)", 100)]
    assert line.at == (0, 1, 2, 3)
    assert {one.subject for one in line.candidates} == {0}
    assert line.origins[0].use.model == "mini"


def test_of_a_run_one_is_used_where_one_is_wanted() -> None:
    run(Path("runs/cats-1"), Path("cats"), CAPTIONS, steps=(10,), best=40, end=100)
    assert called(line_of("runs/cats-1", every=False)) == [("step 40 (best)", 40)]


def test_a_run_in_runs_is_known_by_its_name_alone() -> None:
    run(Path("runs/cats-1"), Path("cats"), CAPTIONS)
    assert called(line_of("cats-1")) == [("step 100 (end)", 100)]


def test_what_is_the_same_by_content_is_looked_at_once() -> None:
    made = run(Path("runs/cats-1"), Path("cats"), CAPTIONS, best=100, end=100)
    assert called(line_of("runs/cats-1")) == [("step 100 (best, end)", 100)]
    lora(Path("copied.safetensors"), 5, 100.0, ss_comment="the same weights with other words beside them")
    line = line_of("runs/cats-1", "copied.safetensors")
    assert called(line) == [("step 100 (best, end)", 100)]
    assert line.at == (0, 0, 0)
    assert line.told == (f"copied.safetensors: holds the same as {made.best}, so it is looked at once",)


def test_what_a_run_holds_too_belongs_to_the_run_and_nothing_is_left_without_a_lora() -> None:
    run(Path("runs/cats-1"), Path("cats"), CAPTIONS)
    lora(Path("copied.safetensors"), 5, 100.0)
    lora(Path("other.safetensors"), 5, 7.0)
    line = line_of("copied.safetensors", "runs/cats-1", "other.safetensors")
    assert called(line) == [("cats-1 step 100 (end)", 100), ("other", 5)]
    assert [one.name for one in line.origins] == ["cats-1", "other"]
    assert [one.subject for one in line.candidates] == [0, 1]
    assert line.at == (0, 0, 1)
    shutil.copytree("runs/cats-1", "runs/cats-2")
    twice = line_of("runs/cats-1", "runs/cats-2")
    assert (called(twice), len(twice.origins)) == ([("step 100 (end)", 100)], 1)
    assert "runs/cats-2/cats.safetensors: holds the same as runs/cats-1/cats.safetensors" in twice.told[0]


def test_a_file_of_a_run_belongs_to_it_and_a_file_alone_has_its_own_name() -> None:
    made = run(Path("runs/cats-1"), Path("cats"), CAPTIONS, steps=(10,), end=100)
    line = line_of(str(made.partial(10)), "runs/cats-1/../cats-1/cats.safetensors")
    assert called(line) == [("step 10", 10), ("step 100 (end)", 100)]
    assert len(line.origins) == 1
    assert called(line_of(str(lora(Path("dogs.safetensors"), 7, 2.0)))) == [("dogs", 7)]


def test_several_are_told_apart_by_the_folders_around_them() -> None:
    for parent in ("a", "b"):
        run(Path(parent) / "cats-1", Path(parent) / "set", CAPTIONS, value=ord(parent))
    line = line_of("a/cats-1", "b/cats-1")
    assert [name for name, _ in called(line)] == ["a/cats-1 step 100 (end)", "b/cats-1 step 100 (end)"]
    assert [one.name for one in line.origins] == ["a/cats-1", "b/cats-1"]


def test_a_folder_of_loras_is_one_training_and_what_is_none_is_told() -> None:
    for step in (5, 10):
        lora(Path(f"out/cat-{step:06}.safetensors"), step, step)
    (Path("out") / "vectors.safetensors").write_bytes(b"no safetensors")
    Path("out/copy.safetensors").write_bytes(Path("out/cat-000005.safetensors").read_bytes())
    given = opened("out", None, every=True)
    line = heard(lineup([given]))[0]
    assert called(line) == [("cat-000005", 5), ("cat-000010", 10)]
    assert line.told == ("out/copy.safetensors: holds the same as out/cat-000005.safetensors, so it is looked at once",)
    assert heard(folder_notes([given]))[1] == ["out/vectors.safetensors: is no LoRA"]
    with pytest.raises(LoraError, match="holds several LoRAs; give one of"):
        opened("out", None, every=False)


def test_what_is_wrong_is_told_of_each_in_a_line() -> None:
    lora(Path("cats.safetensors"))
    Path("empty").mkdir()
    for number in range(7):
        (Path("runs") / f"cats-{number}").mkdir(parents=True)
        (Path("runs") / f"cats-{number}" / "run.toml").touch()
    Path("words.safetensors").write_text("words")
    for name, told in {
        "": "an empty name",
        "cuts.safetensors": r"did you mean cats\.safetensors\?",
        "cats.safetensors:much": "should be a number from",
        "cats.safetensors:mid_block=1": "gives blocks strengths of their own",
        "empty": "in this folder",
        "cats.safetensors:0": "its strength should be above 0, which is the base model itself",
        "cats.safetensors:-1": "its strength should be above 0",
        "a" * 5000: "^a{200}...: no name that a file can have",
        "runs": r"^runs: a folder of 7 runs; give what is meant of runs/cats-0, .*runs/cats-5 \.\.\.$",
    }.items():
        with pytest.raises(InputError, match=told):
            opened(name, None, every=True)
        with pytest.raises(InputError, match=told) as caught:
            opened(name, None, every=False)
        assert len(str(caught.value)) < 400
    assert opened("cats.safetensors:0.5", None, every=True).strength == 0.5
    Path("more.safetensors").write_text("more words")
    with pytest.raises(LoraError) as caught:
        line_of("words.safetensors", "cats.safetensors", "more.safetensors")
    assert [line.split(":")[0] for line in caught.value.problems] == ["words.safetensors", "more.safetensors"]


def test_a_run_without_a_lora_or_with_broken_settings_is_told_without_another_commands_flag() -> None:
    made = run(Path("runs/cats-1"), Path("cats"), CAPTIONS, end=None)
    with pytest.raises(ConfigError, match="holds no LoRA yet") as caught:
        opened("runs/cats-1", None, every=True)
    assert not str(caught.value).startswith("--run")
    lora(made.lora)
    made.settings.write_text("a" * 2_000_000)
    with pytest.raises(ConfigError, match="say with --model"):
        opened("runs/cats-1", None, every=True)
    assert opened("runs/cats-1", "mini", every=True).origin.told == {}


def test_names_of_files_are_shown_in_letters_that_can_be() -> None:
    name = "ca\x1b[31mt\n"
    assert called(line_of(str(lora(Path(f"{name}.safetensors"))))) == [("ca?[31mt?", None)]
