"""A run folder tells how to draw with it: its best LoRA, and what it was trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sdtune.config import Sample, TrainLora, resolve
from sdtune.core import lora_file
from sdtune.core.applied import read
from sdtune.core.data.weights import without_weights
from sdtune.core.lora import Lora, LoraModule
from sdtune.core.run_folder import RunFolder
from sdtune.core.sampling.dynamic import chosen
from sdtune.core.sampling.grammar import without_loras
from sdtune.core.sampling.run_of import RunUse, run_use, with_trigger
from sdtune.core.sampling.wildcards import Wildcards
from sdtune.errors import ConfigError, LoraError
from sdtune.layers import to_toml

QUERY = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def saved(path: Path, step: int = 0, **facts: str) -> Path:
    modules = {QUERY: LoraModule(torch.ones(1, 8), torch.ones(8, 1), 1.0)}
    lora_file.write(path, Lora(modules, "sd1", {"ss_steps": str(step)} | facts))
    return path


def image(caption: str, **told: Any) -> dict[str, Any]:
    plain = {"file": "a.png", "sha256": "", "repeats": 1, "weight": 1.0, "prior": False, "held_out": False}
    return {**plain, "captions": [caption], **told}


def begun(images: list[dict[str, Any]] | None = None, **tables: Any) -> RunFolder:
    """A run folder as a training makes it."""
    config = resolve(TrainLora, [{"model": "mini", "data": {"folder": "sets/cats"}}, tables])
    data = json.dumps({"name": "cats", "images": images if images is not None else [image("a cat")]})
    return RunFolder(Path("runs/cats-1"), "cats").create(to_toml(config), data)


def ended(run: RunFolder, steps: int, best: int | None) -> RunFolder:
    saved(run.lora, steps)
    run.finish({"steps": steps, "why": "steps", "best": best})
    return run


def test_a_run_tells_all_of_itself() -> None:
    run = begun(
        [image("one"), image("a cat"), image("three"), image("x", prior=True), image("out", held_out=True)],
        data={"trigger": "sks"},
        samples={"strength": 0.75},
        text={"clip_skip": 2},
    )
    for step in (100, 900):
        saved(run.partial(step))
    saved(run.best, 400)
    saved(run.lora_of_peft)
    ended(run, 1000, 400)
    assert run_use(run.path, (), None) == RunUse(
        model="mini",
        clip_skip=2,
        lora=f"{run.best}:0.75",
        trigger="sks",
        prompts=("a cat", "out"),
        checkpoints=(
            ("step 100", run.partial(100)),
            ("best", run.best),
            ("step 900", run.partial(900)),
            ("end", run.lora),
        ),
        told="cats-1: its best LoRA, after step 400",
    )
    assert run_use(Path("cats-1"), (), None) == run_use(run.path, (), "another")  # by its name, and whatever is asked
    assert read(run_use(run.path, (), None).lora or "").strength.usual == 0.75


def test_a_strength_stands_behind_a_run_as_behind_a_lora() -> None:
    run = ended(begun(samples={"strength": 0.75}), 1000, None)
    for name in (str(run.path), "cats-1"):
        one, other = (read(run_use(Path(name + told), (), None).lora or "") for told in (":0.5", ":0.5:mid_block=0.25"))
        assert one.path == other.path == run.lora
        assert (one.strength.usual, other.strength.usual) == (0.5, 0.5)
        assert dict(other.strength.blocks) == {"mid_block": 0.25}
    blocks = read(run_use(Path(f"{run.path}:mid_block=0.25"), (), None).lora or "").strength
    assert (blocks.usual, dict(blocks.blocks)) == (0.75, {"mid_block": 0.25}), "beside that of its samples"
    run.path.rename("runs/cats:0.5")
    assert run_use(Path("runs/cats:0.5"), (), None).lora == "runs/cats:0.5/cats.safetensors:0.75", "what lies there"


def test_strengths_that_are_none_are_told() -> None:
    run = ended(begun(), 1000, None)
    for wrong in ("abc", "", "nan", "1000"):
        with pytest.raises(LoraError, match="its strength should be a number from -100 to 100"):
            read(run_use(Path(f"{run.path}:{wrong}"), (), None).lora or "", "--run")
    with pytest.raises(
        ConfigError, match=r"no such folder; .*; a strength stands behind one colon, as in runs/cats-1:0.8"
    ):
        run_use(Path("cats-1:0.5:0.6"), (), None)
    with pytest.raises(ConfigError, match=r"--strength needs --init.*; that of a LoRA .* --run runs/cats-1:0\.8"):
        resolve(Sample, [{"run": "cats-1", "strength": 0.5}])


@pytest.mark.parametrize("best", [None, 0, 1000])
def test_the_last_step_is_the_best_where_no_other_is(best: int | None) -> None:
    use = run_use(ended(begun(), 1000, best).path, (), None)
    assert use.lora == "runs/cats-1/cats.safetensors"
    assert use.checkpoints == (("end", Path("runs/cats-1/cats.safetensors")),)
    assert use.told == "cats-1: its LoRA, after step 1000"


def test_a_run_that_has_not_finished_has_its_latest() -> None:
    run = begun()
    with pytest.raises(
        ConfigError, match="--run runs/cats-1: holds no LoRA yet; go on with sdtune train-lora --resume"
    ):
        run_use(run.path, (), None)
    for step in (20, 100):
        saved(run.partial(step))
    saved(run.best, 20)
    use = run_use(run.path, (), None)
    assert use.lora == str(run.partial(100))
    assert use.told == "cats-1: has not finished, so its latest LoRA, after step 100"
    assert use.checkpoints == (("best", run.best), ("step 100", run.partial(100)))


@pytest.mark.parametrize(
    ("tables", "prompts"),
    [
        ({"samples": {"prompts": ("x", "y", "z")}, "task": {"kind": "class"}}, ("x", "y", "z")),
        ({"task": {"kind": "class"}}, ("a photo of a cat", "a photo of a dog")),
        ({"task": {"kind": "unconditional"}, "data": {"trigger": "sks"}}, ("",)),
        ({}, ("a photo of a dog", "out")),
    ],
)
def test_prompts_are_those_that_the_run_drew(tables: dict[str, Any], prompts: tuple[str, ...]) -> None:
    images = [image("a photo of a dog"), image("a photo of a dog"), image("a photo of a cat")]
    images += [image("a horse", prior=True), image("out", held_out=True)]
    use = run_use(ended(begun(images, **tables), 10, None).path, (), None)
    assert use.prompts == prompts
    assert use.trigger is None


def test_prompts_are_those_that_training_itself_would_choose() -> None:
    from types import SimpleNamespace as Simple

    from sdtune.core.making import _prompts

    config = resolve(
        TrainLora,
        [
            {
                "data": {"folder": "a", "trigger": "b"},
                "captions": {"wildcards": True, "shuffle": True, "tag_dropout": 0.3},
            }
        ],
    )
    captions = [f"{{a|b|c}}{number}, d, e, f" for number in range(7)]
    seen = [Simple(example=Simple(caption=text, prior=False)) for text in captions]
    for count, held_out in ((1, 0), (5, 0), (6, 1)):
        run = RunFolder(Path(f"runs/{count}{held_out}"), "cats")
        images = [*map(image, captions[:count]), *(image(text, held_out=True) for text in captions[6 : 6 + held_out])]
        run = run.create(to_toml(config), json.dumps({"name": "cats", "images": images}))
        drawn = _prompts(config, seen[:count], seen[6 : 6 + held_out])  # type: ignore[arg-type]
        assert run_use(ended(run, 10, None).path, (), None).prompts == tuple(drawn)


def test_what_the_lora_says_of_itself_is_the_trigger() -> None:
    run = ended(begun(), 10, None)
    saved(run.lora, 10, **{"modelspec.trigger_phrase": "zwx"})
    assert run_use(run.path, (), None).trigger == "zwx"
    run.data.unlink()
    assert run_use(run.path, (), None).prompts == ("zwx",)


def test_captions_mean_as_prompts_what_they_meant_in_training() -> None:
    text = r"cat (animal), [x] {a|b} __c__ \(d\) <lora:x:1>"
    plain = RunUse(prompts=(text,))
    (told,) = plain.prompts_as("a1111")
    told, loras = without_loras(chosen(told, 0, Wildcards(None), "here"), "here")
    assert (without_weights(told), loras) == (text, ())
    assert plain.prompts_as("plain") == (text,)
    (weighted,) = RunUse(prompts=("(a:1.2) {b}",), weighted=True).prompts_as("a1111")
    assert chosen(weighted, 0, Wildcards(None), "here") == "(a:1.2) {b}"


@pytest.mark.parametrize(
    ("text", "trigger", "told"),
    [
        ("a cat", "sks", "sks, a cat"),
        ("a SKS cat", "sks", "a SKS cat"),
        ("risks", "sks", "sks, risks"),
        ("", "sks", ""),
        ("a cat", "x (y)", r"x \(y\), a cat"),
        ("a (sks:1.2) cat", "sks", "a (sks:1.2) cat"),
    ],
)
def test_the_trigger_stands_in_front_where_it_lacks(text: str, trigger: str, told: str) -> None:
    assert with_trigger(text, trigger) == told
    assert with_trigger(with_trigger(text, trigger), trigger) == told
    assert with_trigger("a", "x (y)", "plain") == "x (y), a"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere", "no such folder; sdtune runs lists the runs that there are"),
        ("file", "is a file; give the folder of a run, or a LoRA with --lora"),
        ("folder", r"is no run, since it has no run\.toml"),
        ("x" * 5000, "cannot be read"),
        ("a\0b", "no such folder|cannot be read"),
    ],
)
def test_what_is_no_run_is_told(name: str, told: str) -> None:
    Path("file").touch()
    Path("folder").mkdir()
    with pytest.raises(ConfigError, match=told) as caught:
        run_use(Path(name), (), None)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("settings", ["model = ", "", "model = 3", b"\xff", 'model = ""'])
def test_broken_settings_need_a_model(settings: str | bytes) -> None:
    run = ended(begun(), 10, None)
    run.settings.write_bytes(settings if isinstance(settings, bytes) else settings.encode())
    with pytest.raises(ConfigError, match=r"its run\.toml cannot be read; say with --model"):
        run_use(run.path, (), None)
    assert run_use(run.path, (), "mini").lora == str(run.lora)
    loras = [read(str(run.lora))]
    with pytest.raises(LoraError, match=r"run\.toml: cannot be read; say with --model what the LoRA was trained on"):
        run_use(None, loras, None)
    assert run_use(None, loras, "mini") == RunUse()


def test_without_a_run_the_first_lora_of_one_tells_its_base() -> None:
    run = ended(begun(text={"clip_skip": 2}, captions={"weights": True}, data={"trigger": "sks"}), 10, None)
    loose = saved(Path("loose.safetensors"))
    loras = [read(str(loose)), read(str(run.path))]
    assert run_use(None, loras, None) == RunUse("mini", 2, weighted=True)
    assert run_use(None, loras[:1], None) == run_use(None, (), None) == RunUse()


@pytest.mark.parametrize("settings", ["a" + ".a" * 3000 + " = 1", "# " + "x" * 2**20, "x = " + "[" * 100_000])
def test_hostile_settings_are_as_broken_ones(settings: str) -> None:
    run = ended(begun(), 10, None)
    run.settings.write_text(f'model = "mini"\n{settings}')
    with pytest.raises(ConfigError, match=r"its run\.toml cannot be read; say with --model"):
        run_use(run.path, (), None)
    run.data.unlink()  # the name of the LoRA then follows from the settings
    assert run_use(run.path, (), "mini").lora == str(run.lora)


@pytest.mark.parametrize("data", ["{", "", "[]", '{"name": "cats"}', '{"images": [{"file": 3}]}'])
def test_a_run_whose_data_cannot_be_read_has_no_prompts(data: str) -> None:
    run = ended(begun(), 10, None)
    run.data.write_text(data)
    use = run_use(run.path, (), None)
    assert (use.prompts, use.unread) == ((), "--run runs/cats-1: its data.json cannot be read; give --prompt")
    assert use.told == "cats-1: its LoRA, after step 10"
    run.settings.write_text(to_toml(resolve(TrainLora, [{"data": {"folder": "x"}, "samples": {"prompts": ["a"]}}])))
    assert run_use(run.path, (), None).prompts == ("a",)


def test_a_lora_of_another_name_is_not_one_that_has_not_finished() -> None:
    run = begun()
    saved(run.path / "renamed.safetensors", 10)
    assert run_use(run.path, (), None).told == "cats-1: its LoRA renamed.safetensors, after step 10"


@pytest.mark.parametrize("layer", [0, -5, 13, 999])
def test_a_layer_that_is_none_is_told_of_the_run(layer: int) -> None:
    run = ended(begun(), 10, None)
    run.settings.write_text(f'model = "mini"\n[text]\nclip_skip = {layer}\n')
    for use in (run_use(run.path, (), None), run_use(None, [read(str(run.lora))], None)):
        with pytest.raises(ConfigError, match=rf"runs/cats-1/run\.toml: text\.clip_skip is {layer}, .* --clip-skip"):
            use.layer(None)
        assert use.layer(2) == 2
    assert (RunUse(clip_skip=3).layer(None), RunUse().layer(None)) == (3, None)
