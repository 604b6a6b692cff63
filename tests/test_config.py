"""Settings come from presets and flags, come back from their own TOML, and are refused in words that help."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sdtune.choices.optimizers import AdamW, AdamW8bit
from sdtune.choices.schedules import Constant, Cosine
from sdtune.choices.spec import Spec, words_of
from sdtune.config import (
    CacheFolder,
    Caption,
    Evaluate,
    EvaluateCompare,
    LoraConvert,
    LoraDiff,
    LoraExtract,
    LoraInspect,
    LoraResize,
    Merge,
    Prepare,
    Sample,
    Tables,
    TrainLora,
    eval_settings,
    model_settings,
    preset_names,
    read_preset,
    refine,
    resolve,
    to_toml,
)
from sdtune.errors import ConfigError
from tests.choices.settings import everywhere, tables

DATA: Tables = {"data": {"folder": "pictures"}}
OF_LORAS = [Merge, LoraInspect, LoraConvert, LoraResize, LoraExtract, LoraDiff]


def problems(*layers: Tables, spec: type[Spec] = TrainLora) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(spec, layers)
    assert all("\n" not in line for line in caught.value.problems)
    return list(caught.value.problems)


def problem(*layers: Tables, spec: type[Spec] = TrainLora) -> str:
    (line,) = problems(*layers, spec=spec)
    return line


@pytest.fixture
def preset(tmp_path: Path) -> Any:
    def write(text: str | bytes, name: str = "mine.toml") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


# ---- layers


def test_later_layers_win_and_defaults_stand_below() -> None:
    config = resolve(TrainLora, [DATA, {"steps": 10, "network": {"rank": 4}}, {"network": {"rank": "8"}}])
    assert (config.steps, config.network.rank, config.batch_size) == (10, 8, 1)


def test_a_table_whose_kind_changes_starts_afresh() -> None:
    below = DATA | {"optimizer": {"kind": "adamw", "lr": 3.0, "beta1": 0.5}}
    assert resolve(TrainLora, [below, {"optimizer": "adamw8bit"}]).optimizer == AdamW8bit()
    assert resolve(TrainLora, [below, {"optimizer": {"kind": "adamw", "lr": 1.0}}]).optimizer == AdamW(
        lr=1.0, beta1=0.5
    )
    assert resolve(TrainLora, [below, {"optimizer": {"lr": 1.0}}]).optimizer == AdamW(lr=1.0, beta1=0.5)
    usual = DATA | {"schedule": {"floor": 0.5}}
    assert resolve(TrainLora, [usual, {"schedule": {"kind": "cosine"}}]).schedule == Cosine(floor=0.5)
    assert resolve(TrainLora, [usual, {"schedule": {"kind": "constant"}}]).schedule == Constant()


def test_refining_lays_a_layer_below_what_the_user_set() -> None:
    layer = {"schedule": {"kind": "constant"}, "network": {"layers": "attention", "rank": 2}}
    config = refine(resolve(TrainLora, [DATA, {"network": {"rank": 9}}]), layer)
    assert config.schedule == Constant()
    assert (config.network.rank, config.network.layers) == (9, "attention")
    named = resolve(TrainLora, [DATA, {"schedule": "cosine"}])
    assert refine(named, layer).schedule == Cosine()
    only_a_part = resolve(TrainLora, [DATA, {"schedule": {"warmup": 0.2}}])
    assert refine(only_a_part, layer).schedule == Constant(warmup=0.2)


def test_refining_keeps_kinds_that_code_chose() -> None:
    config = TrainLora(**DATA, optimizer=AdamW(lr=1.0), schedule=Cosine())
    assert refine(config, {"optimizer": "adamw8bit", "schedule": "constant"}) == config


@given(tables(TrainLora), tables(TrainLora))
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_layer_that_says_everything_has_the_last_word(first: Tables, second: Tables) -> None:
    config = resolve(TrainLora, [second])
    assert resolve(TrainLora, [first, config.model_dump()]) == config


# ---- TOML


@pytest.mark.parametrize("spec", [TrainLora, Sample, Evaluate, EvaluateCompare, Prepare, CacheFolder, *OF_LORAS])
@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_settings_come_back_from_their_own_toml(spec: type[Spec], data: st.DataObject) -> None:
    told = data.draw(tables(spec))
    if spec is Sample:  # settings that go together
        told = {
            name: value for name, value in told.items() if name not in ("compare", "grid", "animate", "width", "height")
        }
        told |= {"prompt": ["a"], "init": "a.png", "mask": "b.png"}
    if spec is Evaluate:
        told |= {"subjects": ["a", "b"], "strengths": [1, 0.5]}
    config = resolve(spec, [told])
    assert resolve(spec, [tomllib.loads(to_toml(config))]) == config


def test_what_is_named_is_left_out_of_the_toml() -> None:
    config = resolve(TrainLora, [DATA, {"out": "runs/x"}])
    assert "out" not in tomllib.loads(to_toml(config, without=("out",)))


def test_a_run_is_repeated_from_its_own_file(preset: Any) -> None:
    told = resolve(TrainLora, [DATA, {"steps": 7, "optimizer": {"kind": "adamw", "lr": 2e-4}}])
    config = refine(told, model_settings(told.model))
    again = resolve(TrainLora, [read_preset(preset(to_toml(config), "run.toml"))])
    assert again == refine(again, model_settings(again.model)) == config


def test_the_built_in_model_alone_has_settings_of_its_own() -> None:
    assert model_settings("mini") == read_preset("mini")
    assert model_settings("sd15") == eval_settings("sd15") == {}


def test_the_built_in_model_is_evaluated_in_fewer_steps_and_pictures() -> None:
    config = refine(resolve(Evaluate, [{"subjects": ["a"], "seeds": 3}]), eval_settings("mini"))
    assert (config.seeds, config.steps, config.guidance, config.memory.threads) == (3, 10, 2, 1)
    assert refine(resolve(EvaluateCompare, [{"first": "a", "second": "b"}]), eval_settings("mini")).seeds == 1


@pytest.mark.parametrize(
    ("given", "strengths"),
    [
        ("0.5,0.8", (0.5, 0.8)),
        (["0.8, 0.5", "1"], (0.5, 0.8, 1.0)),
        ([0.5, 0, 0.5], (0.5,)),
        (["0.8,"], (0.8,)),
        (["0"], "should hold another than 0, which is the base model and always drawn, as 0.8; it was ['0']"),
        (["0.5,x"], "should be a number; it was 'x'"),
        (["-1"], "should be greater than or equal to 0; it was '-1'"),
        ([""], "should be a number; it was ''"),
        (0.5, "should be a list; it was 0.5"),
        (list(range(1, 22)), "should be at most 20 strengths; it was [1, 2, 3"),
    ],
)
def test_strengths_are_given_with_commas_or_one_by_one(given: Any, strengths: Any) -> None:
    told = {"subjects": ["a"], "strengths": given}
    if isinstance(strengths, str):
        assert problem(told, spec=Evaluate).startswith(f"strengths (--strengths): {strengths}")
    else:
        assert resolve(Evaluate, [told]).strengths == strengths


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps = \n", "line 1"),
        ("steps = 3\nrank 3\n", "line 2"),
        ("a = " + "[" * 5000, "not valid TOML"),
        (f"steps = {'9' * 5000}", "not valid TOML"),
        (b"model = '\xff'", "not text in UTF-8"),
        ("#" * (2**20 + 1), "over 1 MB"),
    ],
)
def test_what_is_no_toml_is_refused(text: str | bytes, words: str, preset: Any) -> None:
    name = preset(text)
    with pytest.raises(ConfigError) as caught:
        read_preset(name)
    (line,) = caught.value.problems
    assert line.startswith(f"{name}: ")
    assert words in line


def test_a_preset_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for name, words in (
        ("mimi", "did you mean mini?"),
        ("mini.toml", "did you mean mini?"),
        (" ", "is empty"),
        ("nothing-like-it", "mini"),
        (f"{tmp_path}/x.toml", "no such"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_preset(name)
    with pytest.raises(ConfigError, match="is not a file"):
        read_preset(f"{tmp_path}/")


def test_a_byte_order_mark_does_no_harm(preset: Any) -> None:
    assert read_preset(preset(b"\xef\xbb\xbfsteps = 3")) == {"steps": 3}


def test_shipped_presets_have_names() -> None:
    assert "mini" in preset_names()


# ---- problems


def test_every_problem_is_told_at_once_with_its_path_flag_and_preset(preset: Any) -> None:
    mine = read_preset(preset('[data]\nresolutoin = 64\nfolder = "x"\n[network]\nrank = 0\n[samples]\nprompts = "a"\n'))
    lines = problems(mine, {"optimizer": "adamv", "seed": "x"})
    name = mine.name  # type: ignore[attr-defined]
    assert sorted(lines) == sorted(
        [
            f"{name}: data.resolutoin: no such setting; did you mean data.resolution?",
            f"{name}: network.rank (--rank): should be greater than or equal to 1; it was 0",
            f"{name}: samples.prompts: should be a list; it was 'a'",
            "optimizer: no such kind as 'adamv'; did you mean adamw?",
            "seed (--seed): should be a whole number; it was 'x'",
        ]
    )


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({"resolution": 64}, "resolution: no such setting; did you mean data.resolution?"),
        ({"network": {"lr": 1}}, "network.lr: no such setting; did you mean optimizer.lr?"),
        ({"loss": {"c": 0.2}}, "loss.c: a setting of huber, but the kind is mse; choose --loss huber"),
        ({"noise": {"kind": "offset", "strnegth": 1}}, "noise.strnegth: no such setting; did you mean noise.strength?"),
        ({"timesteps": "zzz"}, "timesteps: no such kind as 'zzz'; choose one of stratified, uniform, logit-normal"),
        ({"timesteps": {"kind": 3}}, "timesteps: no such kind as 3; choose one of stratified, uniform, logit-normal"),
        ({"network": "loar"}, "network: no such kind as 'loar'; did you mean lora?"),
        ({"network": [1]}, "network: should be a table, or one of lora; it was [1]"),
        ({"memory": "much"}, "memory: should be a table of settings; it was 'much'"),
        (
            {"memory": {"device": "cdua"}},
            "memory.device (--device): should be one of auto, cuda, mps, cpu; it was 'cdua'",
        ),
        ({"network": {"rank": "0"}}, "network.rank (--rank): should be greater than or equal to 1; it was '0'"),
        ({"network": {"rank": "8.5"}}, "network.rank (--rank): should be a whole number; it was '8.5'"),
        ({"network": {"rank": True}}, "network.rank (--rank): should be a whole number; it was True"),
        ({"network": {"alpha": "nan"}}, "network.alpha (--alpha): should be a finite number; it was 'nan'"),
        ({"optimizer": {"lr": "-1"}}, "optimizer.lr (--lr): should be greater than or equal to 1e-12; it was '-1'"),
        ({"optimizer": {"lr": ""}}, "optimizer.lr (--lr): should be a number; it was ''"),
        ({"data": {"skip_bad": "maybe"}}, "data.skip_bad (--skip-bad): should be true or false; it was 'maybe'"),
        ({"data": {"trigger": ""}}, "data.trigger (--trigger): should not be empty; it was ''"),
        ({"data": {"trigger": " "}}, "data.trigger (--trigger): should not be empty; it was ' '"),
        (
            {"data": {"trigger": "a\x1bb"}},
            "data.trigger (--trigger): should be on one line, without control characters; it was 'a\\x1bb'",
        ),
        ({"model": "  "}, "model (--model): should not be empty; it was '  '"),
        ({"samples": {"prompts": ["a", 1]}}, "samples.prompts: should be text; it was 1"),
        ({"data": {"trigger": 3}}, "data.trigger (--trigger): should be text; it was 3"),
        ({"data": {"folder": " "}}, "data.folder: should be a path, not empty; it was ' '"),
        ({"data": {"folder": 3}}, "data.folder: should be a path; it was 3"),
        ({"out": "a\0b"}, "out (--out): should be text in UTF-8, without zero bytes; it was 'a\\x00b'"),
        ({"model": "a\udcffb"}, "model (--model): should be text in UTF-8, without zero bytes; it was 'a\\udcffb'"),
        ({"data": 5}, "data: should be a table of settings; it was 5"),
        (
            {"model": "x" * 5 + "\n" * 200, "steps": "y" * 200},
            f"steps (--steps): should be a whole number; it was '{'y' * 59}...",
        ),
    ],
)
def test_problems_are_told_in_words_that_help(told: Tables, line: str) -> None:
    assert problem(DATA, told) == line


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("optimizer.lr", (1e300, 1e-300)),
        ("optimizer.eps", (2, 1e-300)),
        ("optimizer.weight_decay", (1e300,)),
        ("network.alpha", (1e300, 1e-300)),
        ("loss.huber.c", (1e300, 1e-300)),
        ("weighting.min-snr.gamma", (1e300, 1e-300)),
        ("noise.offset.strength", (2, 1e-300)),
        ("timesteps.logit-normal.mean", (1e300, -1e300)),
        ("timesteps.logit-normal.std", (1e300, 1e-300)),
        ("samples.guidance", (1e300,)),
    ],
)
def test_numbers_that_make_no_sense_are_refused(path: str, values: tuple[float, ...]) -> None:
    table, *kind, name = path.split(".")
    for value in values:
        told = {table: {name: value} | ({"kind": kind[0]} if kind else {})}
        assert problem(DATA, told).startswith(f"{table}.{name}")
    assert problem({"prompt": ["x"], "guidance": 1e300}, spec=Sample).startswith("guidance (--guidance): should be")


def test_a_trigger_stands_without_spaces_around_it() -> None:
    assert resolve(TrainLora, [{"data": {"folder": "x", "trigger": " ohwx "}}]).data.trigger == "ohwx"


def test_a_wrong_list_is_told_with_its_preset(preset: Any) -> None:
    assert problem({"sources": []}, spec=Prepare).startswith("sources: should not be empty; it was []")
    assert problem({"sources": ["a", " "]}, spec=Prepare) == "sources: should be a path, not empty; it was ['a', ' ']"
    assert problem({"sources": ""}, spec=Prepare).startswith("sources: should be a path, not empty")
    mine = read_preset(preset("prompt = [1]"))
    assert problem(mine, spec=Sample).endswith("mine.toml: prompt (--prompt): should be text; it was 1")


def test_unknown_tables_list_what_there_is() -> None:
    assert problem(DATA, {"zzzzzz": {}}).startswith("zzzzzz: no such setting; known here: model, out, steps")


def test_what_is_needed_is_told_with_an_example() -> None:
    assert problem({}).startswith("DATASET: not given; folder of images")
    assert problem({}).endswith("as in: sdtune train-lora pictures/cats")
    assert problem({}, spec=Sample).startswith("nothing to draw; say what with --prompt, as in ")


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("0.001", 1e-3), (" 3 ", 3.0), ("1_0", 10.0), (".5", 0.5), ("+2", 2.0)]
)
def test_numbers_may_be_written_as_people_write_them(text: str, value: float) -> None:
    assert resolve(TrainLora, [DATA, {"optimizer": {"lr": text}}]).optimizer.lr == value


@pytest.mark.parametrize("text", ["8", "08", "8.0", " 8"])
def test_whole_numbers_too(text: str) -> None:
    assert resolve(TrainLora, [DATA, {"network": {"rank": text}}]).network.rank == 8


toml = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(sorted({path[-1] for path, _ in everywhere(TrainLora)} | {"kind"}))
spoilt = st.recursive(
    toml, lambda inner: st.dictionaries(names | st.text(max_size=8), inner, max_size=4), max_leaves=12
).filter(lambda told: isinstance(told, dict))


@given(spoilt, spoilt)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
def test_any_tables_give_a_config_or_a_config_error(first: Tables, second: Tables) -> None:
    try:
        config = resolve(TrainLora, [first, second])
    except ConfigError as error:
        told = error.problems
    else:
        told = (type(config).__name__,)
    assert told
    assert all(line and len(line) < 1000 for line in told)


@given(tables(TrainLora), st.sampled_from(everywhere(TrainLora)), toml)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_one_spoilt_setting_gives_a_config_or_a_config_error_of_it(config: Tables, place: Any, value: Any) -> None:
    path, _ = place
    spoilt: Tables = {path[-1]: value}
    for step in reversed(path[:-1]):
        spoilt = {step: spoilt}
    told: tuple[str, ...] = ()
    try:
        resolve(TrainLora, [config, spoilt])
    except ConfigError as error:
        told = error.problems
    assert all(line.startswith((path[0], "DATASET")) for line in told)  # as the folder of the data is called


# ---- the classes


@pytest.mark.parametrize("spec", [TrainLora, Sample, Prepare, Caption, CacheFolder, *OF_LORAS])
def test_every_setting_has_its_help_and_a_flag_of_its_own(spec: type[Spec]) -> None:
    flags: list[str] = []
    for path, field in everywhere(spec):
        if path[-1] != "kind":
            words = words_of(field)
            flags += words.flags
            assert field.description or field.default is not None, f"{path}: no help"
            assert (words.place is not None) == bool(words.flags or words.metavar), f"{path}: where in --help?"
    short = set(flags)
    assert spec not in (TrainLora, Sample) or {"--model", "-m", "--out", "-o", "--steps", "--seed"} <= short


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        resolve(TrainLora, [DATA]).steps = 3  # type: ignore[misc]
