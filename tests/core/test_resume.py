"""A run goes on as it began: what differs is told and refused, and what cannot be gone on with is said in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdtune.config import OF_ONE_START, Tables, TrainLora, read_preset, resolve, to_toml
from sdtune.core import resume
from sdtune.core.data.folder import Example
from sdtune.core.data_list import Listed, as_json, data_changes, data_list, listed_in
from sdtune.core.lock import lock
from sdtune.core.memory import make_deterministic
from sdtune.core.reports import Note
from sdtune.core.run_folder import RunFolder
from sdtune.errors import ConfigError, OutputError, SdtuneError


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings(**more: Any) -> TrainLora:
    return resolve(TrainLora, [{"data": {"folder": "cats"}, "steps": 100}, more])


def begun(path: str = "runs/cats-1", *, checkpoint: bool = True, **more: Any) -> RunFolder:
    """A run as a process that was stopped leaves it."""
    run = RunFolder(Path(path), "cats").create(
        to_toml(settings(**more), without=OF_ONE_START), as_json(data_list(settings(), "cats", [], []))
    )
    if checkpoint:
        (run.checkpoints / "step-000010").mkdir(parents=True)
    return run


def find(**more: Any) -> tuple[RunFolder | None, list[str]]:
    """The run to go on with, and the notes."""
    notes: list[str] = []

    def keeping() -> RunFolder | None:
        work = resume.find(settings(**more))
        while True:
            try:
                report = next(work)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            assert isinstance(report, Note)
            notes.append(report.text)

    return keeping(), notes


# ---- which run


def test_nothing_is_resumed_unasked() -> None:
    begun()
    assert find() == (None, [])


def test_the_newest_run_of_the_data_set_goes_on() -> None:
    for number in (1, 9, 10):
        begun(f"runs/cats-{number}")
    begun("runs/dogs-11")
    (Path("runs/cats-12")).mkdir()  # its process was killed as it began
    found, notes = find(resume="newest")
    assert found is not None
    assert (found.path, found.name, notes) == (Path("runs/cats-10"), "cats", [])


def test_where_there_is_nothing_to_go_on_with_a_new_run_begins() -> None:
    assert find(resume="newest") == (None, ["resume: no run of cats yet, so a new one begins"])
    begun(checkpoint=False)
    assert find(resume="newest") == (None, ["resume: nothing was learned in runs/cats-1 yet, so a new one begins"])
    assert Path("runs/cats-1/run.toml").is_file()


def test_a_named_folder_in_which_nothing_was_learned_takes_the_new_run() -> None:
    run = begun("out", checkpoint=False)
    run.data.write_text("{}")
    Path("out/.run-abcd1234.toml").touch()  # half written by the one that was killed
    with lock(run.path), pytest.raises(OutputError, match="at work"):
        find(resume="newest", out="out")
    assert find(resume="newest", out="out")[0] is None
    assert RunFolder.planned(Path("cats"), Path("out")).create("again").settings.read_text() == "again"


def test_files_of_others_are_never_cleared_away() -> None:
    begun("out", checkpoint=False)
    Path("out/notes.txt").write_text("mine")
    Path("out/.gitignore").write_text("mine")
    find(resume="newest", out="out")
    assert sorted(path.name for path in Path("out").iterdir()) == [".gitignore", "notes.txt"]


def a_broken_one() -> None:
    begun().settings.write_text("steps = = 3")


@pytest.mark.parametrize(
    ("make", "named", "words"),
    [
        (lambda: None, "runs/cats-1", "no such folder; sdtune runs"),
        (lambda: Path("file").touch(), "file", "is no folder; give the folder of a run"),
        (lambda: Path("a/b").mkdir(parents=True), "a", "was left before anything was learned in it; remove it"),
        (lambda: (Path("a").mkdir(), Path("a/x.png").touch()), "a", "is no run, since it has no run.toml"),
        (begun, "runs/cats-1/checkpoints/step-000010", "give the run, --resume runs/cats-1"),
        (begun, "runs/cats-1/checkpoints", "give the run, --resume runs/cats-1"),
        (lambda: begun(checkpoint=False), "runs/cats-1", "has learned nothing yet; begin a new run"),
        (lambda: begun(checkpoint=False).lora.touch(), "runs/cats-1", "holds no checkpoint; begin a new run"),
        (a_broken_one, "runs/cats-1", "runs/cats-1/run.toml: not valid TOML"),
        (lambda: None, "x" * 300, "cannot be read"),
        (lambda: None, "a\0b", "no such folder"),
    ],
)
def test_what_cannot_be_resumed_is_told_in_one_line(make: Any, named: str, words: str) -> None:
    make()
    with pytest.raises(SdtuneError) as caught:
        find(resume=named)
    assert len(caught.value.problems) == 1
    assert words in str(caught.value)


def test_a_finished_run_is_found_though_its_checkpoints_are_gone() -> None:
    run = begun(checkpoint=False)
    run.ended.write_text("{}")
    assert find(resume="runs/cats-1")[0] == run


def settings_in_toml(run: RunFolder) -> TrainLora:
    return resolve(TrainLora, [read_preset(str(run.settings))])


def agreed(run: RunFolder, now: TrainLora, data: Tables) -> tuple[str, ...]:
    """A checkpoint holds the settings that stand in run.toml, unless somebody has edited these."""
    return resume.agreed(run, settings_in_toml(run), now, data)


# ---- with which settings


def test_the_settings_of_the_run_lie_under_those_that_are_given() -> None:
    begun(model="sd15", network={"rank": 4}, optimizer={"kind": "adafactor", "lr": 3e-4}, seed=7)
    config = resolve(TrainLora, [{"resume": "runs/cats-1"}])
    assert (config.data.folder, config.model, config.network.rank, config.seed) == (Path("cats"), "sd15", 4, 7)
    assert resume.changes(settings_in_toml(RunFolder.at(Path("runs/cats-1"))), config) == []
    config = resolve(TrainLora, [{"seed": 8}, {"resume": "runs/cats-1", "optimizer": {"lr": 1e-4}}])
    assert (config.seed, config.optimizer.kind, config.optimizer.lr) == (8, "adafactor", 1e-4)
    assert resolve(TrainLora, [{"resume": "runs/cats-1"}, {"passes": 3}]).steps is None
    assert resolve(TrainLora, [{"resume": "runs/cats-1"}, {"passes": 3, "steps": 5}]).steps == 5


def test_the_newest_run_brings_its_settings_too() -> None:
    run = begun(network={"rank": 4}, seed=7)
    given = resolve(TrainLora, [{"data": {"folder": "cats"}, "resume": "newest", "seed": 8, "allow_changes": True}])
    config = resume.continued(given, run)
    assert (config.network.rank, config.seed, config.steps) == (4, 8, 100)
    assert (config.resume, config.allow_changes, config.out) == ("newest", True, None)


def test_run_toml_does_not_say_how_a_run_is_begun() -> None:
    Path("runs/cats-1").mkdir(parents=True)
    Path("runs/cats-1/run.toml").write_text(
        'allow_changes = true\ndry_run = true\nout = "x"\n[data]\nfolder = "cats"\n'
    )
    config = resolve(TrainLora, [{"resume": "runs/cats-1"}])
    assert (config.allow_changes, config.dry_run, config.out) == (False, False, None)


tables = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["mini", "sd15"]),
        "steps": st.integers(1, 3),
        "seed": st.integers(0, 2),
        "resume": st.just("newest"),
        "allow_changes": st.booleans(),
        "network": st.fixed_dictionaries(
            {}, optional={"rank": st.integers(1, 2), "alpha": st.sampled_from([1.0, 2.0])}
        ),
        "optimizer": st.sampled_from(["adamw", "adafactor", {"kind": "adamw", "lr": 1e-3}]),
        "captions": st.fixed_dictionaries({"shuffle": st.booleans()}),
        "samples": st.fixed_dictionaries({"prompts": st.sampled_from([(), ("a",), ("a", "b")])}),
        "track": st.fixed_dictionaries({"to": st.sampled_from([(), ("tensorboard",)])}),
    },
)


@given(tables, tables)
def test_two_runs_have_no_changes_exactly_where_their_settings_are_equal(one: Any, other: Any) -> None:
    before, now = settings(**one), settings(**other)
    without = set(OF_ONE_START)
    equal = before.model_dump(exclude=without) == now.model_dump(exclude=without)
    found = resume.changes(before, now)
    assert (not found) == equal
    assert {change.path for change in found} == {change.path for change in resume.changes(now, before)}
    assert all(str(change).startswith(f"{change.path}: ") for change in found)


def test_changes_are_refused_with_all_that_differs() -> None:
    run = begun(optimizer={"kind": "adamw", "lr": 1e-4}, seed=1)
    data = data_list(settings(), "cats", [], [])
    now = settings(optimizer={"kind": "adamw", "lr": 3e-4}, seed=1, captions={"shuffle": True}, steps=500)
    with pytest.raises(ConfigError) as caught:
        agreed(run, now, data)
    *told, remedy = caught.value.problems
    assert sorted(told) == [
        "captions.shuffle: off in the run, now on",
        "optimizer.lr: 0.0001 in the run, now 0.0003",
    ]
    assert "--allow-changes" in remedy
    allowed = agreed(run, now.model_copy(update={"allow_changes": True}), data)
    assert sorted(allowed) == sorted([*told, "steps: 100 in the run, now 500"])


def test_what_may_change_without_a_word() -> None:
    run = begun()
    now = settings(
        steps=200,
        save={"keep": 5},
        samples={"off": True},
        track={"to": "tensorboard"},
        stop={"early": False, "minutes": 3},
        limits={"workers": 1},
        cache={"place": "memory"},
        memory={"threads": 2},
        data={"folder": "elsewhere/cats"},
        out="runs/other",
    )
    told = agreed(run, now, data_list(now, "cats", [], []))
    assert len(told) == 10
    assert all(" in the run, now " in line for line in told)


@pytest.mark.parametrize(
    "more",
    [
        {"network": {"rank": 3}},
        {"network": {"layers": "attention"}},
        {"optimizer": "adafactor"},
        {"text": {"train": True}},
        {"token": {"word": "xyz"}},
    ],
)
def test_what_does_not_fit_is_refused_even_so(more: dict[str, Any]) -> None:
    run = begun()
    with pytest.raises(ConfigError, match="do not fit"):
        agreed(run, settings(**more, allow_changes=True), data_list(settings(), "cats", [], []))


# ---- on which data

listed = st.builds(
    Listed,
    st.sampled_from(["a.png", "b.png", "c/d.png"]),
    st.sampled_from(["0" * 64, "1" * 64]),
    st.sampled_from([("a cat",), ("a dog",), ("a cat", "a dog")]),
    st.integers(1, 2),
    st.sampled_from([1.0, 0.5]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, "2" * 64]),
)


def content(images: list[Listed]) -> list[Listed]:
    return [replace(one, file="") for one in images]


@given(st.lists(listed, max_size=4), st.lists(listed, max_size=4))
def test_data_has_changed_exactly_where_a_step_would_see_something_else(
    before: list[Listed], now: list[Listed]
) -> None:
    assert (not data_changes(before, now)) == (content(before) == content(now))


def test_changes_of_the_data_are_told_by_name() -> None:
    def image(name: str, sha256: str = "0", caption: str = "a cat") -> Listed:
        return Listed(name, sha256, (caption,), 1, 1.0, False, False)

    before = [image("a.png"), image("b.png"), image("c.png")]
    now = [
        image("a.png", caption="a dog"),
        image("c.png", sha256="1"),
        *(image(f"n{number}.png") for number in range(7)),
    ]
    assert data_changes(before, now) == [
        "data: 7 images added: n0.png, n1.png, n2.png, n3.png, n4.png ...",
        "data: 1 image removed: b.png",
        "data: pixels of 1 image changed: c.png",
        "data: captions of 1 image changed: a.png",
    ]
    assert data_changes([image("a.png"), image("b.png", "1")], [image("b.png", "1"), image("a.png")]) == [
        "data: the order of the images has changed"
    ]
    assert data_changes([image("a.png")], [image("b.png")]) == []


def test_the_list_of_the_data_comes_back_whatever_files_are_called() -> None:
    folder = Path("cats\n\x1b[31m")
    folder.mkdir()
    mask = folder / "mask.png"
    mask.write_bytes(b"mask")
    config = settings(data={"folder": str(folder)})
    trained = [Example(folder / "x/a\u202e.png", ("a\ncat",), 8, 8, sha256="0", mask=mask)]
    data = data_list(config, "cats", trained, [Example(Path("/elsewhere/b\ud800.png"), ("",), 8, 8, sha256="1")])
    path = Path("data.json")
    path.write_text(as_json(data), encoding="utf-8")
    assert json.loads(path.read_text()) == json.loads(json.dumps(data))
    assert listed_in(path) == Listed.of(data)
    assert [(one.file, one.held_out) for one in listed_in(path)] == [("x/a\u202e.png", False), ("b\ud800.png", True)]
    mask.write_bytes(b"other")
    again = data_list(config, "cats", trained, [])
    assert data_changes(Listed.of(data)[:1], Listed.of(again)) == ["data: the mask of 1 image changed: x/a\u202e.png"]


@pytest.mark.parametrize("text", ["", "[]", '{"images": 3}', '{"images": [{"file": 1}]}', "[" * 100000])
def test_a_broken_list_is_told(text: str) -> None:
    Path("data.json").write_text(text)
    with pytest.raises(ConfigError, match="cannot be read"):
        listed_in(Path("data.json"))


def test_changed_data_is_refused_and_may_be_allowed() -> None:
    run = begun()
    trained = [Example(Path("cats/a.png"), ("a cat",), 8, 8, sha256="0")]
    run.data.write_text(as_json(data_list(settings(), "cats", trained, [])))
    now = data_list(settings(), "cats", [replace(trained[0], captions=("a dog",))], [])
    assert agreed(run, settings(), data_list(settings(), "cats", trained, [])) == ()
    with pytest.raises(ConfigError, match="captions of 1 image changed"):
        agreed(run, settings(), now)
    assert agreed(run, settings(allow_changes=True), now) == ("data: captions of 1 image changed: a.png",)


# ---- how equal


def test_what_is_promised_depends_on_the_device() -> None:
    exactly = "resume: bit-identical ("
    assert resume.guarantee(settings(), torch.device("cpu")).startswith(exactly)
    assert resume.guarantee(settings(memory={"deterministic": True}), torch.device("cuda")).startswith(exactly)
    assert resume.guarantee(settings(), torch.device("cuda")).startswith("resume: order-identical (")


def test_a_card_is_made_deterministic_and_a_processor_left_alone() -> None:
    asked = settings(memory={"deterministic": True}).memory
    make_deterministic(asked, torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ConfigError, match="xformers"):
        make_deterministic(asked.model_copy(update={"attention": "xformers"}), torch.device("cuda"))
    script = (
        "import os, torch; from sdtune.core.memory import make_deterministic; from sdtune.tables import Memory;"
        "make_deterministic(Memory(deterministic=True), torch.device('cuda'));"
        "assert torch.are_deterministic_algorithms_enabled() and os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8';"
        "assert not torch.backends.cuda.flash_sdp_enabled() and not torch.backends.cuda.mem_efficient_sdp_enabled()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("path", ["runs/cats-1", "a b/c'd", "-x", "newest"])
def test_the_command_that_goes_on_is_one_that_a_shell_and_sdtune_understand(path: str) -> None:
    run = begun(path)
    shown = ["sh", "-c", f'set -- {resume.command(run)}; printf "%s\\n" "$@"']
    *words, folder = subprocess.run(shown, capture_output=True, text=True, check=True).stdout.splitlines()
    assert words == ["sdtune", "train-lora", "--resume"]
    assert not folder.startswith("-")
    found, _ = find(resume=folder)
    assert found is not None
    assert found.path.resolve() == run.path.resolve()
