"""Validation measures what was learned and nothing else: the same bits each time, whatever the run, batch or order."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdtune.config import TrainLora, resolve
from sdtune.core import folds, model, validation
from sdtune.core.data.folder import read_folders
from sdtune.core.data.plain import see_plainly
from sdtune.core.data.plan import plan_for
from sdtune.core.data.seen import manifest_of, see
from sdtune.core.diffusion import Process
from sdtune.core.families import Family, family_named
from sdtune.core.feeding import Fed, feed
from sdtune.core.held_out import choose
from sdtune.core.lora import at_strength
from sdtune.core.making import add_lora
from sdtune.core.reports import Measure, Progress, Report, Validated, Warned
from sdtune.core.validation import Protocol, Validator, from_json, measured, protocol_for, to_json
from sdtune.tables import Validation
from tests import pictures
from tests.core.test_held_out import put, result

COUNTS = st.integers(1, 40)
FULL = Protocol(10, 3, 4, 2, 0.05)


@given(st.integers(1, 100_000), st.integers(1, 64), COUNTS, COUNTS, st.floats(1e-3, 1))
def test_validation_costs_its_share_or_is_the_least_there_is(
    steps: int, images_a_step: int, held_out: int, trained: int, share: float
) -> None:
    settings = Validation(share=share)
    protocol = protocol_for(settings, steps, images_a_step, held_out, trained)
    assert protocol == protocol_for(settings, steps, images_a_step, held_out, trained)
    validations = sum(protocol.due(step, steps) for step in range(max(0, steps - 10**5), steps + 1) if step)
    forwards = (validations + 1) * 2 * protocol.images * protocol.timesteps * protocol.noises
    assert protocol.share == pytest.approx(forwards / (steps * images_a_step * 2.1))
    assert validations <= 10
    assert protocol.images <= min(8, held_out, trained)
    least = (protocol.noises, protocol.timesteps, protocol.images) == (1, 4, min(2, held_out, trained))
    assert protocol.share <= share * (1 + 1e-9) or (least and validations <= 2)


@pytest.mark.parametrize(
    ("told", "images_a_step", "protocol"),
    [
        ({}, 10_000, (100, 5, 20, 4)),
        ({}, 70, (100, 5, 20, 3)),
        ({}, 20, (112, 5, 20, 1)),
        ({}, 10, (167, 5, 15, 1)),
        ({}, 4, (167, 5, 6, 1)),
        ({}, 2, (167, 3, 4, 1)),
        ({}, 1, (200, 2, 4, 1)),
        ({"share": 1e-9}, 1, (500, 2, 4, 1)),
        ({"every": 7}, 1, (7, 5, 20, 4)),
        ({"every": 7, "timesteps": 3, "noises": 2, "images": 4}, 1, (7, 4, 3, 2)),
    ],
)
def test_noises_go_first_and_images_nearly_last(
    told: dict[str, Any], images_a_step: int, protocol: tuple[int, ...]
) -> None:
    found = protocol_for(Validation(**told), 1000, images_a_step, 5, 40)
    assert (found.every, found.images, found.timesteps, found.noises) == protocol


def test_the_cost_is_told() -> None:
    told = str(protocol_for(Validation(), 800, 8, 5, 40))
    assert told == "5 held-out images, every 134 steps, 9 noise levels, about 4.7 % of the run"
    assert " x 4 noises, about 84 %" in str(protocol_for(Validation(every=100), 1000, 4, 4, 4))


def test_the_last_step_is_validated_too() -> None:
    assert [step for step in range(1, 26) if FULL.due(step, 25)] == [10, 20, 25]


@given(st.dictionaries(st.text("0123456789abcdef", min_size=3), st.floats(1e-9, 10)), st.floats(0.001, 9))
def test_what_is_kept_for_resuming_is_exact(base: dict[str, float], share: float) -> None:
    protocol = replace(FULL, share=share)
    assert from_json(to_json(protocol, base)) == (protocol, base)


@pytest.mark.parametrize("text", ["", "3", "{}", '{"protocol": {"every": 3}, "base": {}}'])
def test_broken_memory_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        from_json(text)


def test_errors_are_those_of_means_over_images_and_paired_against_the_base() -> None:
    random = numpy.random.default_rng(3)
    base = random.uniform(0.1, 2, size=2000)
    losses = (base * 0.8)[:, None] * random.normal(1, 0.01, size=(2000, 1)) * numpy.array([[0.5, 1.5]])
    one = measured(losses, base)
    assert one.relative == pytest.approx(0.8, rel=0.01)
    assert one.error == pytest.approx(losses.mean(axis=1).std() / 2000**0.5, rel=0.01)
    assert one.relative_error < 0.02 * one.error / one.loss, "that images differ is no error of the change"
    assert one.levels == pytest.approx((0.5 * one.loss, 1.5 * one.loss))
    assert measured(base[:, None], base).relative_error == 0
    alone = measured(losses[:1], base[:1])
    assert (alone.error, alone.relative_error) == (alone.loss, alone.relative), "not known"


@dataclass(frozen=True)
class Trial:
    """A model with a LoRA that has learned something at random, and what it is judged on."""

    config: TrainLora
    family: Family
    process: Process
    net: Any
    fed: Fed
    reports: list[Report]

    def validator(self, protocol: Protocol = FULL, **more: Any) -> Validator:
        fed, trial = replace(self.fed, **more.pop("fed", {})), replace(self, **more)
        return Validator(
            trial.config,
            trial.family,
            trial.process,
            protocol,
            fed.held_out,
            fed.watched,
            fed.told_of_images,
            fed.batches.store,
            torch.device("cpu"),
        )

    def measure(self, validator: Validator) -> tuple[Measure, Measure]:
        measures: tuple[Measure, Measure]
        measures, _ = result(validator.measure(self.net.eval()))
        return measures


def trial(family_name: str, folder: Path, models: dict[str, Path], *more: dict[str, Any]) -> Trial:
    told = {
        "model": str(models[family_name]),
        "data": {"folder": folder, "resolution": 96},
        "network": {"rank": 2, "alpha": 2.0},
    }
    config = resolve(TrainLora, [told | {"cache": {"place": "memory"}}, *more])
    identity = model.identify(config.model)
    family = family_named(identity.family)
    examples, reports = result(read_folders(config))
    (trained, held_out), told_of_choice = result(choose(examples, config.validation))
    pipe = model.load(identity, torch.float32)
    seen, _ = result(see(trained, 96, 8, config.buckets, config.augment, config.task.kind, skip_bad=False))
    plainly, told_of_small = result(see_plainly(held_out, 96, config.buckets))
    sizes, repeats, priors = zip(*((one.sizes, 1, one.example.prior) for one in seen), strict=True)
    stream = plan_for(sizes, repeats, priors, batch_size=1, seed=0, manifest=manifest_of(seen))
    net = getattr(pipe, family.denoiser)
    fed, told_of_feeding = result(feed(config, family, pipe, seen, stream, [], torch.device("cpu"), plainly))
    net.requires_grad_(False)
    add_lora(net, config, family)
    for number, (name, parameter) in enumerate(net.named_parameters()):
        if "lora_B" in name:
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.data += 0.3 * drawn
    process = family.process(pipe)
    return Trial(config, family, process, net, fed, reports + told_of_choice + told_of_small + told_of_feeding)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two shapes, three of them held out, and masks of one trained and one held-out."""
    folder = tmp_path_factory.mktemp("validated")
    for number in range(5):
        put(folder, f"{number}", number, "a red apple, {on white|on black}")
    for number in range(3):
        put(folder / "held-out", f"h{number}", 10 + number, "a red apple\nanother")
    for path in (folder / "4.png", folder / "held-out" / "h2.png"):
        with Image.open(path) as picture:
            picture.resize((160, 80)).save(path)
    for stem in (folder / "held-out" / "h1", folder / "3"):
        mask = Image.new("L", (64, 64))
        mask.paste(255, (0, 0, 64, 24))
        mask.save(f"{stem}-masklabel.png")
    put(folder / "reg", "r", 30)
    return folder


@pytest.fixture(scope="module")
def sd1(data: Path, tiny_models: dict[str, Path]) -> Trial:
    return trial("sd1", data, tiny_models)


def test_twice_is_the_same_bits_and_nothing_random_is_drawn_for_it(sd1: Trial) -> None:
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    validator = sd1.validator()
    first = sd1.measure(validator)
    assert sd1.measure(validator) == sd1.measure(sd1.validator()) == first
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before[1:]
    assert not any(parameter.grad is not None for parameter in sd1.net.parameters())
    assert first[0].images == first[1].images == 3
    assert len(first[0].levels) == 4


def test_no_more_images_are_looked_at_than_the_protocol_says(sd1: Trial) -> None:
    (held_out, trained), reports = result(sd1.validator(Protocol(10, 2, 4, 2, 0.05)).measure(sd1.net.eval()))
    assert held_out.images == trained.images == 2
    assert reports[-1] == Progress("validating", 2 * 2 * 4 * 2, 32)


def test_neither_batch_nor_order_nor_seed_nor_augmentation_changes_it(
    sd1: Trial, data: Path, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = sd1.measure(sd1.validator())
    fed = {"held_out": sd1.fed.held_out[::-1], "watched": sd1.fed.watched[::-1]}
    assert sd1.measure(sd1.validator(fed=fed)) == both
    told = {
        "seed": 7,
        "batch_size": 3,
        "noise": "offset",
        "captions": {"dropout": 1.0},
        "augment": {"crop": 0.2, "flip": True},
        "timesteps": "uniform",
    }
    other = trial("sd1", data, tiny_models, told)
    assert sd1.measure(other.validator()) == both
    monkeypatch.setattr(validation, "AT_ONCE", 1)
    alone = sd1.measure(sd1.validator())
    for one, other_one in zip(both, alone, strict=True):
        assert other_one.loss == pytest.approx(one.loss, rel=1e-6)
        assert other_one.levels == pytest.approx(one.levels, rel=1e-6)


def test_what_the_device_has_no_room_for_is_measured_in_smaller_passes(sd1: Trial) -> None:
    whole, sizes = sd1.measure(sd1.validator()), []

    def small(net: Any, x_t: Any, timesteps: Any, conditioning: Any) -> Any:
        sizes.append(len(x_t))
        if len(x_t) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sd1.family.denoise(net, x_t, timesteps, conditioning)

    narrow = type("Narrow", (), {"denoise": staticmethod(small)})()
    found = sd1.measure(sd1.validator(family=narrow))
    assert found[0].loss == pytest.approx(whole[0].loss, rel=1e-6)
    assert sizes[:3] == [8, 4, 2]
    assert max(sizes[3:]) == 2, "remembered"


def test_it_is_the_formula_level_by_level(sd1: Trial) -> None:
    """By hand: one held-out image, noise and jitter of its hash, the mean latents, min-SNR."""
    image = sorted(sd1.fed.held_out, key=lambda one: one.caption)[0]
    found = sd1.measure(sd1.validator(Protocol(1, 1, 4, 2, 0.1), fed={"held_out": [image], "watched": [image]}))[0]
    store = sd1.fed.batches.store
    x_0 = store.get(image.version.latents)["mean"]
    told = sd1.fed.told_of_images(image.caption)["encoder_hidden_states"]
    for level in range(4):
        losses = []
        for noise in range(2):
            drawn = validation.generator("validation", image.sha256, level, noise)
            u = (level + float(torch.rand((), generator=drawn, dtype=torch.float64))) / 4
            eps = torch.randn(x_0.shape, generator=drawn)
            assert sd1.process.alphas_cumprod is not None
            square = float(sd1.process.alphas_cumprod[int(1000 * u)])
            x_t = square**0.5 * x_0 + (1 - square) ** 0.5 * eps
            with torch.no_grad():
                said = sd1.net(x_t[None], torch.tensor([int(1000 * u)]), told[None]).sample[0]
            snr = square / (1 - square)
            errors = ((said - eps) ** 2).mean(dim=0)
            mask = store.get(image.version.mask)["mask"][0] if image.version.mask else torch.ones_like(errors)
            counts = 0.1 + 0.9 * mask
            losses.append(float((errors * counts).sum() / counts.sum()) * min(snr, 5) / snr)
        assert found.levels[level] == pytest.approx(sum(losses) / 2, rel=1e-4)


def test_the_first_measure_is_the_bases_and_later_ones_are_told_to_it(sd1: Trial) -> None:
    validator = sd1.validator()
    with at_strength(sd1.net, 0.0):
        base = sd1.measure(validator)
    assert [(one.relative, one.relative_error) for one in base] == [(1, 0)] * 2
    now = sd1.measure(validator)
    assert now[0].relative == pytest.approx(now[0].loss / base[0].loss, rel=1e-9)
    assert abs(now[0].relative - 1) > 1e-3
    assert now[0].relative_error > 0
    resumed = sd1.validator()
    resumed.base = json.loads(json.dumps(validator.base))
    assert sd1.measure(resumed) == now


def test_every_family_is_validated_with_masks_and_two_sizes(
    family_name: str, data: Path, tiny_models: dict[str, Path]
) -> None:
    told = {"weighting": "constant"} if family_name == "sd3" else {}
    one = trial(family_name, data, tiny_models, told)
    (held_out, trained), reports = result(one.validator().measure(one.net.eval()))
    assert 0 < held_out.loss < 100
    assert held_out.loss != trained.loss
    assert {shown.size for shown in one.fed.held_out} == {(96, 96), (128, 64)}
    progress = [report for report in reports if isinstance(report, Progress)]
    assert {report.phase for report in progress} == {"validating"}
    assert progress[-1].number == progress[-1].of == 6 * 8


def test_a_mask_counts_as_in_training(sd1: Trial, data: Path, tiny_models: dict[str, Path]) -> None:
    unmasked = trial("sd1", data, tiny_models, {"mask": {"use": "off"}})
    assert sd1.measure(unmasked.validator())[0].loss != sd1.measure(sd1.validator())[0].loss


def test_trained_text_encoders_are_read_anew_each_time(data: Path, tiny_models: dict[str, Path]) -> None:
    one = trial("sd1", data, tiny_models, {"text": {"train": True}})
    validator = one.validator()
    before = one.measure(validator)
    assert one.fed.live is not None
    for part in one.fed.live.parts.values():
        for name, parameter in part.named_parameters():
            if "lora_B" in name:
                parameter.data += 0.5
    assert one.measure(validator)[0].loss != before[0].loss


def test_feeding_is_the_same_with_held_out_images_and_without(
    sd1: Trial, data: Path, tiny_models: dict[str, Path]
) -> None:
    without = trial("sd1", data, tiny_models, {"validation": {"off": True}})
    assert (without.fed.held_out, without.fed.watched) == ([], [])
    assert [one.name for one in without.fed.batches.images] == [one.name for one in sd1.fed.batches.images]
    for step in range(6):
        draws = validation_draws(step)
        for (ours, _), (theirs, _) in zip(
            sd1.fed.batches.at(step, draws), without.fed.batches.at(step, draws), strict=True
        ):
            assert torch.equal(ours.latents, theirs.latents)
            assert ours.captions == theirs.captions
            for name, value in ours.conditioning.items():
                assert torch.equal(value, theirs.conditioning[name])
    assert {one.sha256 for one in sd1.fed.watched}.isdisjoint({one.sha256 for one in sd1.fed.held_out})


def validation_draws(step: int) -> Any:
    from sdtune.core.draws import Draws

    return Draws(0, step, range(1), 1)


def test_a_long_held_out_caption_changes_nothing_for_the_others(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = pictures.folder(tmp_path, 2, ((96, 96),))
    put(folder / "held-out", "h", 50, "apple " * 100)
    one = trial("sd1", folder, tiny_models)
    (shown,) = one.fed.held_out
    assert len(one.fed.told_of_images(shown.caption)["encoder_hidden_states"]) == 2 * 77
    batch, _ = one.fed.batches.at(0, validation_draws(0))[0]
    assert batch.conditioning["encoder_hidden_states"].shape[1] == 77
    assert one.measure(one.validator())[0].images == 1


def test_a_held_out_image_too_small_for_any_bucket_is_told(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = pictures.folder(tmp_path, 2, ((96, 96),))
    put(folder / "held-out", "h", 50)
    Image.new("RGB", (16, 16), "red").save(folder / "held-out" / "small.png")
    (folder / "held-out" / "small.txt").write_text("red")
    one = trial("sd1", folder, tiny_models)
    assert len(one.fed.held_out) == 1
    assert any(
        isinstance(told, Warned) and "small.png (16 x 16): held out, but too small" in told.text for told in one.reports
    )


def test_finished_folds_are_not_trained_again(tmp_path: Path) -> None:
    from tests.core.test_held_out import made

    examples, file, trained_on = [made(number) for number in range(9)], tmp_path / "folds.json", []

    def train_fold(name: str, trained: list[Any], held_out: list[Any]) -> Any:
        trained_on.append({one.path.name for one in held_out})
        assert not {one.sha256 for one in trained} & {one.sha256 for one in held_out}
        assert name in {f"fold {number} of 3" for number in (1, 2, 3)}
        if len(trained_on) == 3:
            raise KeyboardInterrupt
        yield Progress("validating", 1, 1)
        number = len(trained_on)
        measures = [
            (step, Measure(1.0, 0.1, relative + 0.01 * number, 0.1, (1.0,), len(held_out)))
            for step, relative in ((100, 0.9), (200, 0.8), (300, 0.85))
        ]
        return [Validated(step, 300, one, one, 200, 1.0) for step, one in measures]

    with pytest.raises(KeyboardInterrupt):
        result(folds.rotate(examples, 3, train_fold, file, "key"))
    found, _ = result(folds.rotate(examples, 3, train_fold, file, "key"))
    assert len(trained_on) == 4, "the third again"
    assert trained_on[2] == trained_on[3]
    assert (found.folds, found.best.step) == (3, 200)
    assert found.best.relative == pytest.approx(0.8 + 0.01 * (1 + 2 + 4) / 3)
    assert str(found).startswith(
        "3 folds: best at step 200 (-17.7 % against the base, standard error 0.9 % over folds)"
    )
    again, _ = result(folds.rotate(examples, 3, train_fold, file, "key"))
    assert (again, len(trained_on)) == (found, 4)
    file.write_text("{")
    result(folds.rotate(examples, 3, train_fold, file, "key"))
    assert len(trained_on) == 7
    result(folds.rotate(examples, 3, train_fold, file, "other settings"))
    assert len(trained_on) == 10
