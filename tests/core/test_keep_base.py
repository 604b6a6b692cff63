"""Keeping the base: the formula, by hand, on every family, and what it does to a training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdtune.config import TrainLora, resolve
from sdtune.core import making
from sdtune.core.data.batches import Batch
from sdtune.core.draws import Draws
from sdtune.core.everyday import PROMPTS
from sdtune.core.families import family_named
from sdtune.core.live_text import LiveText
from sdtune.core.lora import at_strength
from sdtune.core.making import add_lora
from sdtune.core.reports import Note
from sdtune.core.step_losses import Lessons, image_losses
from sdtune.errors import ConfigError
from tests import pictures, tiny
from tests.core.test_train_lora import run, settings, steps_of

WEIGHT = 0.7
KINDS = ["sd1", "sd2", "sdxl", "sd3", "sd1 inpainting", "sdxl inpainting"]


class Case:
    """A tiny model with a LoRA that has gone somewhere, and a batch of two."""

    def __init__(self, kind: str, **tables: Any) -> None:
        name = kind.split()[0]
        self.family = family_named(name)
        self.pipe = tiny.inpainting_pipeline(name) if kind.endswith("inpainting") else tiny.pipeline(name)
        plain = {"weighting": "constant", "network": {"rank": 2, "alpha": 2}, "data": {"folder": "x"}}
        self.config = resolve(TrainLora, [plain, {"keep_base": {"weight": WEIGHT}}, tables])
        self.net: Any = getattr(self.pipe, self.family.denoiser).requires_grad_(False)
        add_lora(self.net, self.config, self.family)
        random = torch.Generator().manual_seed(3)
        for key, parameter in self.net.named_parameters():
            if "lora_B" in key:
                parameter.data = torch.randn(parameter.shape, generator=random) / 3
        self.process = self.family.process(self.pipe)
        self.draws = Draws(5, 2, range(2), 2)
        self.generic = [self.read(text) for text in ("a cup", "a tree in winter", "a dog")]
        told = [self.read(text) | self.more(kind, random) for text in ("a red apple", "le")]
        channels = self.pipe.vae.config.latent_channels
        latents = torch.randn(2, channels, 8, 8, generator=random)
        self.batch = Batch(latents, {key: torch.stack([one[key] for one in told]) for key in told[0]}, torch.ones(2))

    def read(self, text: str) -> dict[str, Tensor]:
        with torch.no_grad():
            return {key: value[0] for key, value in self.family.encode_captions(self.pipe, [text]).items()}

    def more(self, kind: str, random: torch.Generator) -> dict[str, Tensor]:
        holes = {"inpainting": torch.randn(5, 8, 8, generator=random)} if kind.endswith("inpainting") else {}
        return self.family.condition_on_size((64, 64), (0, 0), (64, 64)) | holes

    def losses(self, lessons: Lessons | None = None, seed: int = 0) -> Tensor:
        torch.manual_seed(seed)  # for LoRA dropout, as the training seeds it for each pass
        return image_losses(self.config, self.family, self.process, self.net, self.batch, self.draws, lessons)

    def gradients(self, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, [one for one in self.net.parameters() if one.requires_grad]))

    def distance(self, now: dict[str, Tensor] | None = None) -> Tensor:
        """By hand: how far the denoiser is from itself without the LoRA, under the prompts that are drawn."""
        noise = self.config.noise.sample(self.batch.latents, self.draws)
        noisy = self.process.add_noise(self.batch.latents, noise, self.config.timesteps.sample(self.draws))
        which = [int(3 * u) for u in self.draws.uniform("generic prompt").tolist()]
        told = dict(self.batch.conditioning)
        for key in self.generic[0]:
            told[key] = torch.stack([self.generic[number][key] for number in which])
        bare = self.family.denoise(without_lora(self.net), noisy.latents, noisy.timesteps, told)
        said = self.family.denoise(self.net, noisy.latents, noisy.timesteps, told | (now or {}))
        return (said - bare.detach()).square().mean(dim=(1, 2, 3))


def without_lora(net: nn.Module) -> nn.Module:
    """Another model, of the base's own weights."""
    state = {key.replace("base_layer.", ""): value for key, value in net.state_dict().items() if "lora_" not in key}
    bare = type(net).from_config(net.config)  # type: ignore[attr-defined]
    bare.load_state_dict(state)
    fresh: nn.Module = bare.eval()
    return fresh


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_the_formula(kind: str) -> None:
    case = Case(kind)
    plain, kept = case.losses(), case.losses(Lessons(case.generic))
    distance = case.distance()
    assert float(distance.detach().min()) > 1e-4
    torch.testing.assert_close(kept, plain + WEIGHT * distance)
    for ours, own, far in zip(*(case.gradients(one.sum()) for one in (kept, plain, distance)), strict=True):
        torch.testing.assert_close(ours, own + WEIGHT * far, rtol=1e-3, atol=1e-6)


def test_a_weighting_of_levels_acts_on_it_too() -> None:
    case, plain = Case("sd1", weighting={"kind": "min-snr", "gamma": 0.1}), Case("sd1")
    share = case.losses() / plain.losses()
    assert not torch.allclose(share, torch.ones(2))
    torch.testing.assert_close(case.losses(Lessons(case.generic)), share * plain.losses(Lessons(plain.generic)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_of_the_lora_is_drawn_as_without_it(checkpointing: bool) -> None:
    case = Case("sd1", network={"rank": 2, "dropout": 0.5})
    case.net.train()
    if checkpointing:
        case.net.enable_gradient_checkpointing()
    plain, other = case.losses(), case.losses(seed=1)
    assert not torch.equal(plain, other)
    case.config = case.config.model_copy(update={"keep_base": case.config.keep_base.model_copy(update={"weight": 0.0})})
    kept = case.losses(Lessons(case.generic))
    assert torch.equal(kept, plain)
    for ours, own in zip(case.gradients(kept.sum()), case.gradients(plain.sum()), strict=True):
        torch.testing.assert_close(ours, own)


def test_the_base_keeps_still_and_the_lora_comes_back() -> None:
    case = Case("sd1")
    before = case.losses()
    case.losses(Lessons(case.generic))
    assert torch.equal(case.losses(), before), "the LoRA acts again"
    with at_strength(case.net, 0.0):
        assert not torch.equal(case.losses(), before)


def test_trained_text_encoders_are_held_too() -> None:
    case = Case("sd1", text={"train": True})
    everyday = ("a cup", "a tree in winter", "a dog")
    live = LiveText(case.pipe, case.family, case.config, torch.device("cpu"), 1)
    (encoder,) = live.parts.values()
    for key, parameter in encoder.named_parameters():
        if "lora_B" in key:
            parameter.data.fill_(0.3)
    which = [int(3 * u) for u in case.draws.uniform("generic prompt").tolist()]
    kept = case.losses(Lessons(case.generic, everyday, live.read, parts=(encoder,)))
    distance = case.distance(live.read([everyday[number] for number in which]))
    torch.testing.assert_close(kept, case.losses() + WEIGHT * distance)
    assert not torch.allclose(distance, case.distance())
    trained = [one for one in encoder.parameters() if one.requires_grad]
    found = torch.autograd.grad(kept.sum(), trained)
    for ours, far in zip(found, torch.autograd.grad(WEIGHT * distance.sum(), trained), strict=True):
        torch.testing.assert_close(ours, far, rtol=1e-3, atol=1e-6)
    assert max(float(one.abs().max()) for one in found) > 1e-6


@pytest.mark.parametrize(("weight", "calls"), [(0.0, 1), (0.5, 3)])
def test_it_costs_two_more_passes_and_nothing_where_it_is_off(
    weight: float, calls: int, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = making.add_lora

    def add(net: Any, *given: Any) -> int:
        net.register_forward_hook(lambda *_: asked.append(1))
        return real(net, *given)

    monkeypatch.setattr(making, "add_lora", add)
    data = pictures.folder(tmp_path / "discs", 2)
    told = {"keep_base": {"weight": weight}, "samples": {"off": True}}
    reports, _ = run(settings(tiny_models["sd1"], data, tmp_path / "run", **told))
    assert len(asked) == 3 * calls
    said = [report.text for report in reports if isinstance(report, Note)]
    line = f"keep-base: 0.5 x the distance to the base's own answer to {len(PROMPTS)} prompts"
    assert (line in said) == bool(weight)


def test_the_loss_that_is_told_includes_it(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs", 2)
    told = {"samples": {"off": True}, "optimizer": {"lr": 0.1}}
    runs = [
        [
            step.loss
            for step in steps_of(
                run(settings(tiny_models["sd1"], data, tmp_path / f"{weight}", keep_base={"weight": weight}, **told))[0]
            )
        ]
        for weight in (0.0, 0.5)
    ]
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-5), "a fresh LoRA changes nothing, and so is no distance off"
    assert runs[1][1] > runs[0][1] + 1e-4, "after one step that is the same in both, it is"


CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulate": {"accumulate": 2, "batch_size": 1},
    "checkpointing": {"memory": {"gradient_checkpointing": True}},
    "text": {"text": {"train": True, "lr": 0.01}},
    "dropout": {"network": {"dropout": 0.3}},
    "own prompts": {"keep_base": {"prompts": ["a tree", "a house"]}},
    "bf16": {"memory": {"precision": "bf16"}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_training_goes_less_far_from_the_base(
    name: str, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The distance under prompts and noise that are the same for both, at the end."""
    nets: list[Any] = []
    real = making.add_lora

    def remember(net: Any, *given: Any) -> int:
        nets.append(net)
        return real(net, *given)

    monkeypatch.setattr(making, "add_lora", remember)
    data = pictures.folder(tmp_path / "discs", 2)
    distances = []
    for weight in (0.0, 5.0):
        told = {"samples": {"off": True}, "optimizer": {"lr": 0.02}, "steps": 12} | CHANGES[name]
        told["keep_base"] = told.get("keep_base", {}) | {"weight": weight}
        reports, _ = run(settings(tiny_models["sd1"], data, tmp_path / f"{weight}", **told))
        assert all(math.isfinite(step.loss) for step in steps_of(reports))
        case = Case("sd1")
        case.net = nets[-1].float().eval()
        case.draws = replace(case.draws, slots=range(2))
        with torch.no_grad():
            distances.append(float(case.distance().mean()))
    assert distances[1] < 0.8 * distances[0], distances


@pytest.mark.parametrize(
    ("tables", "reads"), [({"text": {"train": True}}, True), ({"token": {"word": "sks-cat"}}, False)]
)
def test_text_encoders_read_everyday_prompts_where_they_are_trained(
    tables: dict[str, Any], reads: bool, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = LiveText.read

    def read(self: LiveText, captions: Any, *given: Any) -> Any:
        seen.extend(captions)
        return real(self, captions, *given)

    monkeypatch.setattr(LiveText, "read", read)
    data = pictures.folder(tmp_path / "discs", 2)
    told = tables | {"keep_base": {"weight": 0.5}, "samples": {"off": True}, "captions": {"dropout": 0}}
    run(settings(tiny_models["sd1"], data, tmp_path / "run", **told))
    assert len([caption for caption in seen if caption in PROMPTS]) == (6 if reads else 0), "one for each image"
    assert len(seen) == (12 if reads else 6)


def test_everyday_prompts_do_not_say_a_new_word(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs", 2)
    told = {"token": {"word": "bicycle"}, "keep_base": {"weight": 0.3}, "samples": {"off": True}}
    reports, _ = run(settings(tiny_models["sd1"], data, tmp_path / "run", **told))
    assert any(
        "keep-base: 0.3 x" in report.text and " 39 prompts" in report.text
        for report in reports
        if isinstance(report, Note)
    )
    told["keep_base"] = {"weight": 0.3, "prompts": ["a bicycle on a wall"]}
    with pytest.raises(ConfigError, match=r"keep_base\.prompts: one says the new word bicycle"):
        run(settings(tiny_models["sd1"], data, tmp_path / "other", **told))
    assert not (tmp_path / "other").exists()
