"""All that an evaluation is about is found and checked before any weights of a base model are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sdtune.config import resolve
from sdtune.core import model
from sdtune.core.evaluation.case import case_of, case_of_pair
from sdtune.core.evaluation.subject import Case
from sdtune.errors import ConfigError, DataError, InputError, LoraError, ModelError
from sdtune.evaluate_config import Evaluate, EvaluateCompare
from tests.core.evaluation.runs import heard, lora, picture, pictures, run

CAPTIONS = [
    f"a {thing}, soft style" for thing in ("cat", "dog", "cup", "tree", "car", "key", "hat", "egg", "jar", "axe")
]
HELD_OUT = (0, 1, 2, 3, 4)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("weights of a base model were loaded")

    for name in ("load", "load_denoiser"):
        monkeypatch.setattr(model, name, loaded)


def case(*subjects: str, **told: Any) -> Case:
    return heard(case_of(resolve(Evaluate, [{"subjects": subjects, **told}])))[0]  # type: ignore[no-any-return]


def pair(first: str, second: str, **told: Any) -> tuple[Case, tuple[tuple[int, float], ...]]:
    config = resolve(EvaluateCompare, [{"first": first, "second": second, **told}])
    return heard(case_of_pair(config))[0]  # type: ignore[no-any-return]


def cats(place: str = "runs/cats-1", **told: Any) -> None:
    run(Path(place), Path("cats"), CAPTIONS, held_out=HELD_OUT, **told)


def test_a_run_is_all_that_has_to_be_said() -> None:
    cats(steps=(40,), best=70, data={"trigger": "soft"}, text={"clip_skip": 2})
    found, told = heard(case_of(resolve(Evaluate, [{"subjects": ["runs/cats-1"]}])))
    assert (found.model, found.clip_skip, found.trigger) == ("mini", 2, "soft style")
    assert [one.name for one in found.candidates] == ["step 40", "step 70 (best)", "step 100 (end)"]
    assert [one.name for one in found.references] == [f"{number:02}.png" for number in HELD_OUT]
    assert not found.references_are_trained
    assert [
        sum(one.kind == kind for one in found.prompts) for kind in ("in-distribution", "new context", "generic")
    ] == [
        10,
        10,
        10,
    ]
    assert found.told == tuple(told) == ()


def test_a_trigger_that_captions_tell_is_said_and_another_can_be_given() -> None:
    cats()
    found = case("runs/cats-1")
    assert found.trigger == "soft style"
    assert found.told == ('trigger: "soft style", which nearly all captions share; --trigger gives another',)
    assert case("runs/cats-1", trigger=" soft ").trigger == "soft style"
    other = case("runs/cats-1", trigger="ink")
    assert other.trigger == "ink"
    assert other.told[0].startswith('no caption holds the trigger "ink"')


def test_no_trigger_is_told() -> None:
    run(Path("runs/cats-1"), Path("cats"), [f"{one}" for one in "abcdefghij"], held_out=HELD_OUT)
    found = case("runs/cats-1")
    assert found.trigger is None
    assert found.told[0].startswith("no trigger is known, so that there are neither concept F1 nor prompts in new")
    lora(Path("alone.safetensors"), ss_tag_frequency='{"x": {"big cat": 9, "dog": 2}}')
    pictures(Path("new"), ["one", "two", "three", "four", "five"], first=20)
    assert (
        case("alone.safetensors", reference="new")
        .told[-1]
        .endswith("give --trigger; the most of its captions had big cat")
    )


def test_a_lora_alone_needs_references_and_says_its_trigger_itself() -> None:
    lora(Path("alone.safetensors"), trigger_phrase="sks cat")
    with pytest.raises(DataError, match="--reference FOLDER"):
        case("alone.safetensors")
    pictures(Path("new"), [None] * 6, first=20)
    found = case("alone.safetensors", reference="new")
    assert (found.trigger, found.model, len(found.references)) == ("sks cat", "mini", 6)
    assert found.told[0] == (
        "the trained pictures are not known, so copies cannot be found; --trained FOLDER tells them"
    )
    assert found.told[1].startswith("no prompt describes a reference")
    pictures(Path("old"), [None] * 3, first=40)
    assert len(case("alone.safetensors", reference="new", trained="old").subjects[0].trained) == 3
    pictures(Path("told"), CAPTIONS[:6], first=50)
    assert case("alone.safetensors", reference="told", trained="old").told == ()


def test_captions_of_pictures_that_are_gone_still_say_what_to_draw() -> None:
    cats()
    Path("cats").rename("hidden")
    pictures(Path("new"), [None] * 6, first=20)
    found = case("runs/cats-1", reference="new")
    assert found.trigger == "soft style"
    own = [one for one in found.prompts if one.kind == "in-distribution"]
    assert {one.text for one in own} == set(CAPTIONS)
    assert not any(one.trained or one.held_out for one in own)
    assert sum("are not where they were" in line for line in found.told) == 2


def test_strengths_behind_subjects_are_refused_with_what_to_do() -> None:
    cats()
    for name in ("runs/cats-1:0.8", "runs/cats-1:mid_block=0.5"):
        with pytest.raises(ConfigError, match=r"has a strength behind it.*give these with --strengths"):
            case(name)


def test_all_that_is_wrong_is_told_in_a_line_each() -> None:
    cats()
    with pytest.raises(InputError) as caught:
        case("runs/cats-1:0.8", "nowhere", "nothing.safetensors")
    assert [line.split(":")[0] for line in caught.value.problems] == ["runs/cats-1", "nowhere", "nothing.safetensors"]
    assert all("\n" not in line for line in caught.value.problems)
    Path("cats").rename("moved")
    with pytest.raises(DataError) as both:
        case("runs/cats-1", reference="none", trained="neither")
    assert [line.split(":")[0] for line in both.value.problems] == ["--trained neither", "--reference none"]


def test_why_no_pictures_are_known_is_told_with_it() -> None:
    cats()
    Path("cats").rename("moved")
    with pytest.raises(DataError) as caught:
        case("runs/cats-1")
    assert [line.split(" (")[0] for line in caught.value.problems[:3]] == [
        "cats-1: its data folder cats is not there",
        "cats-1: 5 of 5 trained pictures are not where they were, or were changed",
        "cats-1: 5 of 5 held-out pictures are not where they were, or were changed",
    ]
    assert caught.value.problems[3].startswith("no pictures to lay drawings beside are known")
    Path("runs/cats-1/data.json").write_text("{")
    with pytest.raises(DataError, match=r"data\.json: cannot be read") as caught:
        case("runs/cats-1")
    assert len(caught.value.problems) == 2


def test_trainings_of_one_name_are_told_apart_everywhere() -> None:
    for number, parent in enumerate(("a", "b"), 1):
        cats(f"{parent}/cats-1", value=float(number))
    Path("cats/07.png").unlink()
    found = case("a/cats-1", "b/cats-1")
    assert [one.name for one in found.subjects] == ["a/cats-1", "b/cats-1"]
    assert [line.split(":")[0] for line in found.told if "not where they were" in line] == ["a/cats-1", "b/cats-1"]


def test_two_files_that_are_the_same_are_one_training() -> None:
    cats()
    Path("runs/cats-1").rename("cats-run")
    for name in ("one.safetensors", "two.safetensors"):
        Path(name).write_bytes(Path("cats-run/cats.safetensors").read_bytes())
    pictures(Path("new"), CAPTIONS[:6], first=50)
    found = case("one.safetensors", "two.safetensors", reference="new")
    assert [one.name for one in found.subjects] == ["one"]
    assert {one.subject for one in found.candidates} == {0}


def test_runs_on_different_models_are_not_compared_but_by_one_that_is_given(tiny_models: Mapping[str, Path]) -> None:
    cats()
    cats("runs/cats-2", value=2.0, model=str(tiny_models["sd1"]))
    with pytest.raises(
        ConfigError, match=r"different models \(cats-1 mini, cats-2 .*give one model for all with --model"
    ):
        case("runs/cats-1", "runs/cats-2")
    found = case("runs/cats-1", "runs/cats-2", model=str(tiny_models["sd1"]))
    assert found.model == str(tiny_models["sd1"])
    assert [one.name for one in found.candidates] == ["cats-1 step 100 (end)", "cats-2 step 100 (end)"]


def test_a_lora_of_another_family_and_a_model_that_is_not_there_are_told(tiny_models: Mapping[str, Path]) -> None:
    cats()
    with pytest.raises(LoraError, match=r"a LoRA for Stable Diffusion 1.*give its base with --model"):
        case("runs/cats-1", model=str(tiny_models["sdxl"]))
    cats("runs/cats-2", model="./gone")
    with pytest.raises(ModelError, match=r"runs/cats-2/run.toml: its model: .*--model gives another"):
        case("runs/cats-2")


def test_a_run_of_classes_names_them_in_prompts_and_pictures() -> None:
    texts = ["a pear", "an apple"] * 6
    run(Path("runs/fruit-1"), Path("fruit"), texts, held_out=(0, 1, 2, 3, 4), task={"kind": "class"})
    found = case("runs/fruit-1")
    assert found.classes == ("a pear", "an apple")
    assert [one.of_class for one in found.references] == [0, 1, 0, 1, 0]
    assert [one.of_class for one in found.subjects[0].trained][:2] == [1, 0]
    assert [one.text for one in found.prompts if one.kind == "in-distribution"] == ["a pear", "an apple"]
    assert found.trigger is None


def test_a_run_without_captions_has_one_empty_prompt_and_inpainting_is_refused() -> None:
    run(Path("runs/any-1"), Path("any"), [""] * 8, held_out=HELD_OUT, task={"kind": "unconditional"})
    found = case("runs/any-1")
    assert [one.text for one in found.prompts] == [""]
    assert "--seeds 20" in found.told[-1]
    run(Path("runs/hole-1"), Path("any"), [""] * 8, task={"kind": "inpainting"})
    with pytest.raises(ConfigError, match=r"hole-1: was trained to paint into masks, and eval draws whole pictures"):
        case("runs/hole-1")


def test_a_clip_skip_that_is_none_or_differs_is_told() -> None:
    cats(text={"clip_skip": 2})
    cats("runs/cats-2", value=2.0)
    found = case("runs/cats-1", "runs/cats-2")
    assert found.clip_skip == 2
    assert any("different clip_skip (cats-1 2, cats-2 none)" in line for line in found.told)
    settings = Path("runs/cats-1/run.toml")
    settings.write_text(settings.read_text().replace("clip_skip = 2", "clip_skip = 99"))
    with pytest.raises(ConfigError, match="clip_skip is 99, which is none of 1 to 12"):
        case("runs/cats-1")


def test_own_prompts_are_drawn() -> None:
    cats()
    Path("mine.txt").write_text("a boat, soft style\na boat\n")
    assert [(one.text, one.kind) for one in case("runs/cats-1", prompts="mine.txt").prompts] == [
        ("a boat, soft style", "in-distribution"),
        ("a boat", "generic"),
    ]


def test_two_are_compared_each_at_its_strength_and_twins_as_strongly_as_the_first() -> None:
    for number in (1, 2, 3):
        cats(f"runs/cats-{number}", best=50, value=float(number))
    found, drawn = pair("runs/cats-1:0.8", "cats-2", twins=["runs/cats-3", "runs/cats-3/cats.safetensors:0.5"])
    assert drawn == ((0, 0.8), (1, 1.0), (2, 0.8), (3, 0.5))
    assert [one.name for one in found.candidates] == [
        "cats-1 step 50 (best)",
        "cats-2 step 50 (best)",
        "cats-3 step 50 (best)",
        "cats-3 step 100 (end)",
    ]
    found, drawn = pair("runs/cats-1:0.5", "runs/cats-1")
    assert (len(found.candidates), drawn) == (1, ((0, 0.5), (0, 1.0)))


def test_what_is_the_same_is_not_compared() -> None:
    cats(best=50)
    cats("runs/cats-2", value=2.0)
    with pytest.raises(ConfigError, match="are the same LoRA at the same strength"):
        pair("runs/cats-1", "runs/cats-1/cats-best.safetensors:1")
    with pytest.raises(ConfigError, match=r"--twin runs/cats-1: is A itself"):
        pair("runs/cats-1", "runs/cats-2", twins=["runs/cats-1"])
    with pytest.raises(ConfigError, match=r"--twin runs/cats-2:0.5: is B itself"):
        pair("runs/cats-1", "runs/cats-2", twins=["runs/cats-2:0.5"])
    cats("runs/cats-3", value=3.0)
    assert pair("runs/cats-1", "runs/cats-2", twins=["runs/cats-3", "cats-3", "runs/cats-3:0.5"])[1] == (
        (0, 1.0),
        (1, 1.0),
        (2, 1.0),
        (2, 0.5),
    )
    with pytest.raises(InputError) as caught:
        pair("runs/cuts-1:0.5", "runs/cats-2:mid_block=1")
    assert len(caught.value.problems) == 2


def test_hostile_words_stay_words_and_short_in_what_is_told() -> None:
    nasty = "<script>$(rm -rf ~)`x`" + "w" * 3000
    texts = [f"{thing} {nasty}" for thing in "abcdefghij"]
    run(Path("runs/cats-1"), Path("cats"), texts, held_out=HELD_OUT, data={"trigger": nasty})
    found = case("runs/cats-1")
    assert any(nasty in one.text for one in found.prompts)
    assert all(len(line) < 500 for line in found.told)
    picture(Path("new") / ("n" * 200 + "<b>.png"), 3)  # as one of the trained looks
    for number in range(20, 26):
        picture(Path("new") / f"{number}.png", number)
    Path("runs/cats-1/run.toml").write_text('model = "mini"\n[data]\nfolder = "/dev/null"\n[task]\nkind = 7\n')
    told = case("runs/cats-1", reference="new", trained="cats").told
    assert all(len(line) < 500 for line in told)
