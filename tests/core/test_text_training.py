"""Whole trainings of text encoders and of new words: what they leave draws what they drew."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sdtune.choices.samplers import DPMpp2M
from sdtune.config import Sample, TrainLora, resolve
from sdtune.core import live_text, train_lora
from sdtune.core.embedding import Vocabulary
from sdtune.core.model import identify, load
from sdtune.core.reports import Note, Report, Saved, Warned
from sdtune.core.sample import sample
from sdtune.errors import ConfigError
from tests import pictures, tiny
from tests.core.test_train_lora import run, settings, steps_of

PROMPT = "a red apple"
PREFIXES = {
    "sd1": ("lora_te_",),
    "sd2": ("lora_te_",),
    "sdxl": ("lora_te1_", "lora_te2_"),
    "sd3": ("text_encoder.", "text_encoder_2."),
}
LEARNED = {"text": {"train": True, "lr": 0.2}, "optimizer": {"lr": 0.1}}


def drawn(lora: str, out: Path, **more: Any) -> Any:
    """Pixels that `sdtune sample` draws with it."""
    list(sample(resolve(Sample, [{"prompt": [PROMPT], "lora": [lora], "out": out, "steps": 2}, more])))
    return pictures.pixels(out)


def after(out: Path, step: int = 3, number: int = 1) -> Any:
    return pictures.pixels(out / f"samples/step-{step:06d}-{number}.png")


def told(reports: list[Report], kind: type[Note] | type[Warned] = Note) -> str:
    return "\n".join(report.text for report in reports if isinstance(report, kind))


def of_text(lora: Path, family: str) -> dict[str, Tensor]:
    return {key: value for key, value in load_file(lora).items() if key.startswith(PREFIXES[family])}


def ups(tensors: dict[str, Tensor], prefix: str = "") -> float:
    """How far a part has gone: up matrices begin at 0."""
    ends = ("lora_up.weight", "lora_B.weight")
    found = [value for key, value in tensors.items() if key.startswith(prefix) and key.endswith(ends)]
    assert found
    return sum(float(value.square().sum()) for value in found) ** 0.5


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return pictures.folder(tmp_path / "discs", 2)


def test_text_encoders_of_every_family_are_trained_saved_and_drawn_with(
    family_name: str, tiny_models: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[live_text.LiveText] = []
    real = live_text.LiveText.__init__

    def remember(self: live_text.LiveText, *given: Any) -> None:
        real(self, *given)
        made.append(self)

    monkeypatch.setattr(live_text.LiveText, "__init__", remember)
    out = tmp_path / "run"
    samples = {"prompts": [PROMPT], "strength": 0.5}
    reports, trained = run(settings(tiny_models[family_name], data, out, samples=samples, **LEARNED))
    assert "text encoders: trained too, at 2.0e-01; they stay in memory" in told(reports)
    assert all(math.isfinite(step.loss) for step in steps_of(reports))
    tensors = load_file(trained.lora)
    for prefix in PREFIXES[family_name]:
        assert ups(tensors, prefix) > 0.01
        alphas = [float(value) for key, value in tensors.items() if key.startswith(prefix) and key.endswith(".alpha")]
        assert set(alphas) == (set() if family_name == "sd3" else {1.0}), "the usual, half of the rank"
    assert not any("te3" in key or "text_encoder_3" in key for key in tensors)
    numbers = sum(value.numel() for key, value in tensors.items() if not key.endswith(".alpha"))
    assert f"{numbers:,} numbers" in told(reports)

    (live,) = made
    fresh = load(identify(str(tiny_models[family_name])), torch.float32)
    for part, encoder in live.parts.items():
        own = {
            key.replace("base_layer.", ""): value for key, value in encoder.state_dict().items() if "lora_" not in key
        }
        assert own.keys() == getattr(fresh, part).state_dict().keys()
        assert all(torch.equal(own[key], value) for key, value in getattr(fresh, part).state_dict().items())

    again = drawn(f"{out}:0.5", tmp_path / "a.png")
    assert numpy.abs(again - after(out)).max() <= 1, "the file draws what the training drew"
    assert numpy.abs(again - drawn(str(out), tmp_path / "b.png")).max() > 1, "the strength acts"
    tables = {key: value for key, value in tensors.items() if not key.startswith(PREFIXES[family_name])}
    assert len(tables) < len(tensors)


@pytest.mark.parametrize("family_name", ["sd1", "sdxl"])
def test_diffusers_draws_the_same(family_name: str, tiny_models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    _, trained = run(settings(tiny_models[family_name], data, out, samples={"prompts": [PROMPT]}, **LEARNED))
    pipe = tiny.pipeline(family_name)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DPMpp2M().build(pipe.scheduler)

    def image() -> Any:
        options = {"num_inference_steps": 2, "guidance_scale": 5.0, "width": 64, "height": 64, "negative_prompt": ""}
        return numpy.asarray(pipe(PROMPT, generator=torch.Generator().manual_seed(0), **options).images[0], dtype=int)

    without = image()
    pipe.load_lora_weights(str(trained.lora.parent), weight_name=trained.lora.name)
    assert numpy.abs(image() - after(out)).max() <= 1
    assert numpy.abs(image() - without).max() > 5


def test_each_encoder_learns_at_its_own_rate(tiny_models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    gone = {}
    for number, (lr, lr_2) in enumerate(((1e-3, None), (1e-3, 1e-12), (1e-12, 1e-3))):
        text = {"train": True, "lr": lr} | ({"lr_2": lr_2} if lr_2 else {})
        _, trained = run(settings(tiny_models["sdxl"], data, tmp_path / str(number), text=text, samples={"off": True}))
        tensors = load_file(trained.lora)
        gone[number] = [ups(tensors, prefix) for prefix in ("lora_te1_", "lora_te2_", "lora_unet_")]
    both, first, second = gone[0], gone[1], gone[2]
    assert min(both) > 1e-3
    assert (first[0] > 1e-3, first[1] < 1e-8) == (True, True)
    assert (second[0] < 1e-8, second[1] > 1e-3) == (True, True)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_schedule_acts_on_every_group(
    schedule: str, tiny_models: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[list[float]] = []
    real = torch.optim.AdamW.step

    def step(self: Any, *given: Any, **more: Any) -> Any:
        rates.append([group["lr"] for group in self.param_groups])
        return real(self, *given, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    more = {"token": {"word": "sks-cat", "lr": 0.5}, "text": {"train": True, "lr": 0.3, "lr_2": 0.2}}
    tables = {"optimizer": {"kind": "adamw", "lr": 0.1}, "schedule": schedule, "samples": {"off": True}, "steps": 4}
    run(settings(tiny_models["sdxl"], data, tmp_path / "run", **(more | tables)))
    assert len(rates) == 4
    base = numpy.array([0.1, 0.3, 0.2, 0.5])
    shares = numpy.array(rates) / base
    assert shares == pytest.approx(numpy.repeat(shares[:, :1], 4, axis=1))
    assert (shares[-1][0] < 0.9 * shares[0][0]) == (schedule == "cosine")


CHANGES: dict[str, dict[str, Any]] = {
    "dropout": {"captions": {"dropout": 0.5}, "network": {"dropout": 0.3}},
    "tags": {"captions": {"shuffle": True, "keep": 0, "tag_dropout": 0.3}},
    "accumulate": {"accumulate": 2, "batch_size": 1},
    "keep-base": {"keep_base": {"weight": 0.5}},
    "bf16": {"memory": {"precision": "bf16"}},
    "checkpointing": {"memory": {"gradient_checkpointing": True}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_with_other_settings_it_is_the_same_again_whatever_is_drawn(
    name: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    data = pictures.folder(tmp_path / "discs", 4)
    for number, caption in enumerate(sorted(data.glob("*.txt"))):
        caption.write_text(f"disc, red, {{big|small}}, {number}")
    tables = LEARNED | CHANGES[name] | {"token": {"word": "sks-cat"}, "save": {"thumbnail": False}}
    reports, first = run(settings(tiny_models["sd1"], data, tmp_path / "a", **tables))
    _, second = run(settings(tiny_models["sd1"], data, tmp_path / "b", **tables, samples={"off": True}))
    assert all(math.isfinite(step.loss) for step in steps_of(reports))
    assert ups(load_file(first.lora), "lora_te_") > 0.01
    files = [
        [(out / place).read_bytes() for place in ("discs.safetensors", "embeddings/sks-cat.safetensors")]
        for out in (tmp_path / "a", tmp_path / "b")
    ]
    assert files[0] == files[1], "samples change nothing"
    plain = LEARNED | {"token": {"word": "sks-cat"}, "samples": {"off": True}}
    _, other = run(settings(tiny_models["sd1"], data, tmp_path / "c", **plain))
    same = other.lora.read_bytes() == second.lora.read_bytes()
    assert same == (name == "checkpointing"), "the setting acts, but for one that only saves memory"


def test_captions_are_worded_afresh_at_each_step(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = live_text.LiveText.read

    def read(self: live_text.LiveText, captions: Any, *given: Any) -> Any:
        seen.extend(captions)
        return real(self, captions, *given)

    monkeypatch.setattr(live_text.LiveText, "read", read)
    data = pictures.folder(tmp_path / "discs", 2)
    for caption in data.glob("*.txt"):
        caption.write_text("a, b, c, d, e, f, g")
    captions = {"shuffle": True, "dropout": 0.2, "wordings": 2}
    told = {"captions": captions, "text": {"train": True}, "samples": {"off": True}, "steps": 40}
    run(settings(tiny_models["sd1"], data, tmp_path / "run", **told))
    assert len(seen) == 80
    assert 6 <= seen.count("") <= 28, "a fifth of 80, within three and a half standard deviations"
    others = [caption for caption in seen if caption]
    assert all(caption.startswith("a, ") for caption in others), "the first tag is kept"
    assert len(set(others)) > 0.8 * len(others), "not one of few that were encoded"


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    "tables",
    [
        {"text": {"clip_skip": 2}},
        {"captions": {"weights": True}, "samples": {"prompts": ["a (red:1.9) apple"]}},
        {"long": True},
    ],
    ids=["clip skip", "weights", "captions of two chunks"],
)
def test_prompts_are_read_as_in_the_run(
    tables: dict[str, Any], text: bool, tiny_models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    if "long" in tables:
        (data / "0.txt").write_text("disc, " * 25)
    tables = {"samples": {"prompts": [PROMPT]}, "text": {}} | tables
    tables["text"] = tables["text"] | {"train": text, "lr": 0.1}
    prompts = tables["samples"]["prompts"]
    run(settings(tiny_models["sd1"], data, tmp_path / "run", **{k: v for k, v in tables.items() if k != "long"}))
    again = drawn(str(tmp_path / "run"), tmp_path / "a.png", prompt=prompts)
    assert numpy.abs(again - after(tmp_path / "run")).max() <= 1
    if "long" not in tables:
        (tmp_path / "run/run.toml").write_text(f'model = "{tiny_models["sd1"]}"')
        syntax = "plain" if "captions" in tables else "a1111"  # which weighs words whatever the run did
        other = drawn(str(tmp_path / "run"), tmp_path / "b.png", prompt=prompts, syntax=syntax)
        assert numpy.abs(again - other).max() > 1, "how they are read can be seen"


# ---- new words


@pytest.mark.parametrize("text", [False, True])
def test_a_new_word_of_every_family_is_trained_saved_and_drawn_with(
    text: bool, family_name: str, tiny_models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    token = {"word": "sks-cat", "init": "apple", "lr": 0.5}
    tables = {"token": token, "samples": {"prompts": ["a sks-cat"]}, "text": {"train": text, "lr": 0.1}}
    reports, trained = run(settings(tiny_models[family_name], data, out, **tables))
    said = told(reports)
    assert 'new word: "sks-cat", 2 vectors learned at 5.0e-01 from "apple", put before captions that lack it' in said
    saved = [(report.what, report.path) for report in reports if isinstance(report, Saved)]
    assert ("embedding", out / "embeddings/sks-cat.safetensors") in saved
    assert bool(text) == any(key.startswith(PREFIXES[family_name]) for key in load_file(trained.lora))
    again = drawn(str(out), tmp_path / "a.png", prompt=["a sks-cat"])
    assert numpy.abs(again - after(out)).max() <= 1
    assert numpy.abs(again - after(out, 0)).max() > 1, "the word has learned"
    other = drawn(str(out), tmp_path / "b.png", prompt=["a sks-dog"])
    assert numpy.abs(again - other).max() > 1


def test_only_the_words_own_vectors_are_trained(
    tiny_models: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[Vocabulary, Tensor, Tensor]] = []
    real = live_text.put

    def put(*given: Any) -> dict[str, Vocabulary]:
        words = real(*given)
        found.extend((one, one.base.weight.clone(), one.rows.detach().clone()) for one in words.values())
        return words

    monkeypatch.setattr(live_text, "put", put)
    tables = {"token": {"word": "sks-cat", "vectors": 3}, "samples": {"off": True}}
    run(settings(tiny_models["sdxl"], data, tmp_path / "run", **tables))
    assert len(found) == 2
    saved = load_file(tmp_path / "run/embeddings/sks-cat.safetensors")
    for (word, known, start), name in zip(found, ("clip_l", "clip_g"), strict=True):
        assert torch.equal(word.base.weight, known)
        assert (word.rows - start).abs().amax(dim=1).min() > 1e-4
        assert torch.equal(saved[name], word.rows.detach())


@pytest.mark.parametrize("family_name", ["sd1", "sdxl"])
def test_diffusers_draws_the_new_word_alike(
    family_name: str, tiny_models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    tables = LEARNED | {"token": {"word": "sks-cat", "lr": 0.5}, "samples": {"prompts": ["a sks-cat"]}}
    _, trained = run(settings(tiny_models[family_name], data, out, **tables))
    pipe = tiny.pipeline(family_name)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DPMpp2M().build(pipe.scheduler)
    vectors = load_file(out / "embeddings/sks-cat.safetensors")
    for name, value in vectors.items():
        end = "_2" if name == "clip_g" else ""
        parts = {"tokenizer": getattr(pipe, f"tokenizer{end}"), "text_encoder": getattr(pipe, f"text_encoder{end}")}
        pipe.load_textual_inversion(value, token="sks-cat", **parts)
    pipe.load_lora_weights(str(trained.lora.parent), weight_name=trained.lora.name)
    options = {"num_inference_steps": 2, "guidance_scale": 5.0, "width": 64, "height": 64, "negative_prompt": ""}
    image = pipe("a sks-cat", generator=torch.Generator().manual_seed(0), **options).images[0]
    assert numpy.abs(numpy.asarray(image, dtype=int) - after(out)).max() <= 1


@pytest.mark.parametrize(
    ("token", "more", "words"),
    [
        ({"word": "apple"}, {}, r'token.word \(--new-token\): the model knows "apple" already'),
        ({"word": "sks-cat"}, {"data": {"trigger": "zwx"}}, "no caption has sks-cat.*give no other trigger"),
        ({"word": "sks-cat"}, {"task": "unconditional"}, "no caption has sks-cat.*the task unconditional has no"),
    ],
)
def test_words_that_cannot_be_learned_are_refused_before_any_work(
    token: dict[str, Any],
    more: dict[str, Any],
    words: str,
    tiny_models: dict[str, Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for late in ("draw_priors", "outline"):
        monkeypatch.setattr(train_lora, late, None)
    tables = resolve(
        TrainLora, [settings(tiny_models["sd1"], data, tmp_path / "run").model_dump(exclude_unset=True), more]
    )
    config = resolve(TrainLora, [tables.model_dump(exclude_unset=True), {"token": token}])
    with pytest.raises(ConfigError, match=words) as caught:
        list(train_lora.train_lora(config))
    assert len(caught.value.problems) == 1
    assert not (tmp_path / "run").exists()


def test_the_word_is_put_before_captions_that_lack_it(
    tiny_models: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = live_text.LiveText.read

    def read(self: live_text.LiveText, captions: Any, *given: Any) -> Any:
        seen.extend(captions)
        return real(self, captions, *given)

    monkeypatch.setattr(live_text.LiveText, "read", read)
    (data / "0.txt").write_text("one <sks> disc")
    tables = {"token": {"word": "<sks>"}, "samples": {"off": True}, "captions": {"dropout": 0}}
    reports, _ = run(settings(tiny_models["sd1"], data, tmp_path / "run", **tables))
    assert set(seen) == {"one <sks> disc", "<sks>, a green disc"}
    assert '--new-token <sks>: UIs will know it as "sks", since its file is sks.safetensors' in told(reports, Warned)
    assert (tmp_path / "run/embeddings/sks.safetensors").is_file()
    assert [
        report.text
        for report in sample(
            resolve(
                Sample, [{"prompt": ["<sks>"], "lora": [str(tmp_path / "run")], "out": tmp_path / "a.png", "steps": 1}]
            )
        )
        if isinstance(report, Note) and "new word" in report.text
    ] == ['new word: "<sks>" (sks.safetensors)']


def test_on_the_built_in_model_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures.folder(tmp_path / "discs", 2)
    words = ["train-lora", "discs", "--steps", "2", "--out", "run", "--text.train", "--json"]
    words += ["--new-token", "sks-cat", "--token.init", "cat", "--samples.prompts", "a sks-cat", "--samples.steps", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "sdtune", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"report": "saved", "what": "embedding", "path": "run/embeddings/sks-cat.safetensors"} in lines
    shown = drawn("run:0.75", tmp_path / "a.png", prompt=["a sks-cat"], guidance=2, width=128, height=128)
    assert numpy.abs(shown - after(tmp_path / "run", 2)).max() <= 1
    with pytest.raises(ConfigError, match="the model knows"):
        list(train_lora.train_lora(resolve(TrainLora, [{"data": {"folder": "discs"}, "token": {"word": "cat"}}])))
