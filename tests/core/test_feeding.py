"""What a training learns from is the same however it was kept, and every image counts as it should."""

from __future__ import annotations

import resource
import shutil
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import settings as how_often
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from sdtune.config import TrainLora, resolve
from sdtune.core.data.batches import Batch, Batches
from sdtune.core.data.cache import Store
from sdtune.core.data.encode import encode_images_of
from sdtune.core.data.folder import read_folders
from sdtune.core.data.seen import Seen, see
from sdtune.core.data.views import View
from sdtune.core.diffusion import Process
from sdtune.core.draws import Draws
from sdtune.core.families import family_named
from sdtune.core.reports import Note, Progress, Report, Saved, Skipped, Step, Trained, Warned
from sdtune.core.step_losses import image_losses, mean_over
from sdtune.core.train_lora import train_lora
from sdtune.core.training import Training
from sdtune.errors import DataError, InputError
from tests import pictures, tiny

NO_ROOM = 1e-6  # GB
ROOM = 10**9


def result(work: Any) -> tuple[Any, list[Report]]:
    """What a generator returns, and what it told."""
    told: list[Report] = []
    while True:
        try:
            told.append(next(work))
        except StopIteration as end:
            return end.value, told


def settings(model: Path, data: Path, out: Path, *more: dict[str, Any]) -> TrainLora:
    told = {"model": str(model), "out": out, "steps": 6, "batch_size": 2, "samples": {"off": True}}
    tables = {"data": {"folder": data}, "network": {"rank": 2}, "save": {"dtype": "fp32"}, "optimizer": {"lr": 0.01}}
    return resolve(TrainLora, [told | tables, *more])


@dataclass(frozen=True)
class Run:
    """A training that came to its end."""

    reports: list[Report]
    losses: list[float]
    lora: bytes

    @property
    def learned(self) -> tuple[list[float], bytes]:
        return self.losses, self.lora

    def said(self, kind: type[Note | Warned]) -> list[str]:
        return [report.text for report in self.reports if isinstance(report, kind)]

    def encoded(self, what: str) -> int:
        """How many images or captions were not in the cache."""
        return len([one for one in self.reports if isinstance(one, Progress) and one.phase == f"encoding {what}"])


def run(config: TrainLora) -> Run:
    reports = list(train_lora(config))
    assert isinstance(reports[-1], Trained)
    losses = [report.loss for report in reports if isinstance(report, Step)]
    return Run(reports, losses, reports[-1].lora.read_bytes())


def with_mask(folder: Path, name: str, box: tuple[int, int, int, int]) -> None:
    """White in the box, black elsewhere."""
    with Image.open(folder / f"{name}.png") as image:
        mask = Image.new("L", image.size, 0)
    mask.paste(255, box)
    mask.save(folder / f"{name}-masklabel.png")


RICH = {
    "augment": {"crop": 0.2, "flip": True, "rotate": 4.0, "colour": 0.1, "versions": 3, "tag": True},
    "captions": {"dropout": 0.2, "shuffle": True, "tag_dropout": 0.3, "wordings": 3},
    "buckets": {"also": [96]},
}


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    """Images of two shapes; one has three captions, one a mask."""
    data = pictures.folder(tmp_path / "discs", 5, ((128, 128), (160, 96)))
    (data / "0.txt").write_text("a {red|scarlet} disc, on white, round\na disc of colour, plain\nno words")
    with_mask(data, "1", (0, 0, 80, 96))
    return data


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_where_what_is_encoded_was_kept_changes_no_digit(
    family: str, rich: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    names = iter(range(100))

    def told(**more: Any) -> Run:
        resolution = {"data": {"folder": rich, "resolution": 128}}
        out = tmp_path / f"run-{next(names)}"
        return run(settings(tiny_models[family], rich, out, resolution | RICH, {"cache": more}))

    uncached = told(place="memory")
    assert len(set(uncached.losses)) == 6
    assert uncached.encoded("images") == 30, "5 images, 2 sizes, 3 versions"
    first = told(folder=cache)
    again = told(folder=cache)
    assert again.encoded("images") == again.encoded("captions") == 0
    assert any(text.endswith("all in memory") for text in again.said(Note))
    read_ahead = told(folder=cache, memory=NO_ROOM)
    assert any(text.endswith(", 0 MB in memory, the rest read ahead") for text in read_ahead.said(Note))
    entries = sorted(cache.rglob("*.safetensors"))
    for entry in entries[::2]:
        entry.unlink()
    halved = told(folder=cache)
    assert 0 < halved.encoded("images") < 30
    assert 0 < halved.encoded("captions") < first.encoded("captions")
    assert sorted(cache.rglob("*.safetensors")) == entries
    for entry in entries:
        data = bytearray(entry.read_bytes())
        data[-3] ^= 4
        entry.write_bytes(data)
    damaged = told(folder=cache, memory=NO_ROOM)
    assert damaged.encoded("images") == 30
    assert len([text for text in damaged.said(Warned) if "damaged entries, which are encoded again" in text]) == 2
    for one in (first, again, read_ahead, halved, damaged):
        assert one.learned == uncached.learned


def test_other_settings_are_not_served_what_was_kept_of_these(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data, cache = pictures.folder(tmp_path / "discs", 3), {"cache": {"folder": tmp_path / "cache"}}

    def told(name: str, colour: float, kept: dict[str, Any]) -> Run:
        augment = {"augment": {"colour": colour, "versions": 4}, "steps": 3}
        return run(settings(tiny_models["sd1"], data, tmp_path / name, augment, kept))

    first = told("first", 0.1, cache)
    second = told("second", 0.5, cache)
    assert second.learned == told("uncached", 0.5, {"cache": {"place": "memory"}}).learned
    assert second.losses != first.losses


@pytest.mark.parametrize("what", ["latents", "captions"])
def test_one_damaged_entry_is_encoded_again_and_told(what: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data, cache = pictures.folder(tmp_path / "discs", 3), tmp_path / "cache"

    def told(name: str) -> Run:
        return run(settings(tiny_models["sd1"], data, tmp_path / name, {"cache": {"folder": cache}, "steps": 2}))

    whole = told("whole")
    of_latents = [path for path in cache.rglob("*.safetensors") if b'"mean"' in path.read_bytes()]
    others = sorted(set(cache.rglob("*.safetensors")) - set(of_latents))
    victim = {"latents": of_latents, "captions": others}[what][0]
    victim.write_bytes(victim.read_bytes()[:-1])
    again = told("again")
    assert again.learned == whole.learned
    assert again.said(Warned) == ["cache: 1 damaged entry, which is encoded again"]
    assert again.encoded("images") + again.encoded("captions") == 1


def encoded(
    data: Path, family: str, pipe: Any, resolution: int, views: Sequence[View] = (), **more: Any
) -> tuple[Batches, list[Seen]]:
    """Batches with one image a step, each shown in all of `views`, where such are given."""
    config = resolve(TrainLora, [{"data": {"folder": data}, "cache": {"place": "memory"}, **more}])
    examples, _ = result(read_folders(config))
    seen, _ = result(see(examples, resolution, 8, config.buckets, config.augment, "text-to-image", skip_bad=False))
    if views:
        seen = [replace(one, versions=(tuple(views),)) for one in seen]
    store = Store(None, 0)
    images, _ = result(encode_images_of(seen, family_named(family), pipe.vae, store, config.mask, None))
    told = conditioning(family)
    in_turn = InTurn([[[(number % len(images), 0)]] for number in range(len(images))])
    return Batches(images, in_turn, store, config.captions, seed=config.seed, told=told), seen


def conditioning(family: str) -> Any:
    """What captions tell the denoiser of a family, as random as its weights."""
    names = {"sd1": {"encoder_hidden_states": (77, tiny.WIDTH)}, "sdxl": {"text_embeds": (64,)}}[family]

    def told(caption: str) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(len(caption))
        return {name: torch.randn(shape, generator=random) for name, shape in names.items()}

    return told


@dataclass(frozen=True)
class InTurn:
    """Steps as they are listed, over and over."""

    steps: list[list[list[tuple[int, int]]]]

    @property
    def steps_an_epoch(self) -> int:
        return len(self.steps)

    def at(self, number: int) -> list[list[tuple[int, int]]]:
        return self.steps[number % len(self.steps)]


def time_ids(batches: Batches, steps: int) -> dict[str, set[tuple[int, ...]]]:
    """{name of the image: what the denoiser is told of its sizes in these steps}."""
    told: dict[str, set[tuple[int, ...]]] = {}
    for step in range(steps):
        for batch, _ in batches.at(step, Draws(0, step, range(1), 1)):
            ids = batch.conditioning["time_ids"]
            assert ids.shape == (1, 6)
            told.setdefault(Path(batch.names[0]).name, set()).add(tuple(int(one) for one in ids[0].tolist()))
    return told


@pytest.fixture(scope="module")
def sdxl() -> Any:
    return tiny.pipeline("sdxl")


@pytest.mark.parametrize("mirrored", [False, True])
def test_sdxls_ids_of_plain_images_equal_a_table_made_by_hand(mirrored: bool, sdxl: Any, tmp_path: Path) -> None:
    """Height and width of the original, top and left of the crop as scaled, height and width as shown.

    The nearest bucket of 192 x 128 is 160 x 96: scaled by 5/6 to 160 x 106.7, 5.3 are cut off above. 160 x 224 falls
    into 96 x 128: scaled by 3/5 to 96 x 134.4, 3.2 above; 256 x 256 is halved; 300 x 220 into 128 x 96: scaled by
    0.436 to 130.9 x 96, 1.5 at the left. A centred crop has as much at either side, so mirrored ones are alike.
    """
    sizes = ((128, 128), (192, 128), (160, 224), (256, 256), (300, 220))
    data = pictures.folder(tmp_path, 5, sizes)
    augment = {"flip": mirrored, "versions": 2} if mirrored else {}
    batches, seen = encoded(data, "sdxl", sdxl, 128, augment=augment)
    assert [len(one.versions[0]) for one in seen] == [1 + mirrored] * 5
    assert time_ids(batches, 20) == {
        "0.png": {(128, 128, 0, 0, 128, 128)},
        "1.png": {(128, 192, 5, 0, 96, 160)},
        "2.png": {(224, 160, 3, 0, 128, 96)},
        "3.png": {(256, 256, 0, 0, 128, 128)},
        "4.png": {(220, 300, 0, 1, 96, 128)},
    }


def test_sdxls_ids_of_cropped_and_mirrored_versions_equal_a_table_made_by_hand(sdxl: Any, tmp_path: Path) -> None:
    """Of 320 x 200, 200 x 120 pixels at (20, 30) are shown at 160 x 96, which is 0.8 of them.

    So 16 and 24 are cut off at the left and above; once mirrored, 100 * 0.8 that were at the right.
    """
    data = pictures.folder(tmp_path, 1, ((320, 200),))
    box = (20.0, 30.0, 220.0, 150.0)
    plain = View((160, 96), box, right=100.0)
    table = {
        (200, 320, 24, 16, 96, 160): plain,
        (200, 320, 24, 80, 96, 160): replace(plain, mirrored=True),
    }
    for ids, view in table.items():
        batches, _ = encoded(data, "sdxl", sdxl, 128, [view])
        assert time_ids(batches, 1) == {"0.png": {ids}}
    batches, _ = encoded(data, "sdxl", sdxl, 128, list(table.values()))
    assert time_ids(batches, 20) == {"0.png": set(table)}


ALPHAS = torch.linspace(0.999, 0.005, 1000, dtype=torch.float64)


class Half(nn.Module):
    """Answers with half of what it is shown, place by place."""

    def forward(self, x_t: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (x_t / 2,)


@dataclass(frozen=True)
class Known:
    """Noise that is told, so that a crop has the noise of its place."""

    noise: Tensor

    def sample(self, latents: Tensor, _draws: Draws) -> Tensor:
        assert latents.shape == self.noise.shape
        return self.noise


def losses_of(latents: Tensor, noise: Tensor, masks: Tensor | None, floor: float) -> Tensor:
    config = resolve(TrainLora, [{"data": {"folder": "x"}, "mask": {"floor": floor}}])
    config = config.model_copy(update={"noise": Known(noise)})
    count = len(latents)
    batch = Batch(latents, {"encoder_hidden_states": torch.zeros(count, 1, 1)}, torch.ones(count), masks)
    process = Process("epsilon", ALPHAS)
    return image_losses(config, family_named("sd1"), process, Half(), batch, Draws(5, 3, range(count), count))


def randomly(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@how_often(deadline=None, max_examples=30)
@given(st.integers(0, 6), st.integers(1, 8), st.integers(0, 4), st.integers(1, 6), st.floats(0, 1))
def test_masked_loss_equals_the_loss_on_the_crop(left: int, width: int, top: int, height: int, floor: float) -> None:
    latents, noise = randomly(2, 4, 8, 10), randomly(2, 4, 10, 8).transpose(2, 3)
    inside = (slice(None), slice(None), slice(top, top + height), slice(left, left + width))
    mask = torch.zeros(2, 1, 8, 10)
    mask[inside] = 1
    crop = losses_of(latents[inside], noise[inside], None, 0.0)
    whole = losses_of(latents, noise, None, 0.0)
    assert losses_of(latents, noise, mask, 0.0).tolist() == pytest.approx(crop.tolist(), rel=1e-5)
    assert losses_of(latents, noise, mask, 1.0).tolist() == pytest.approx(whole.tolist(), rel=1e-5)

    share = float(mask[0].mean())
    outside = (whole - share * crop) / (1 - share) if share < 1 else torch.zeros(2)
    between = (share * crop + floor * (1 - share) * outside) / (share + floor * (1 - share))
    assert losses_of(latents, noise, mask, floor).tolist() == pytest.approx(between.tolist(), rel=1e-4)


def test_images_with_and_without_a_mask_share_a_batch_each_with_its_own_mean() -> None:
    latents, noise = randomly(3, 4, 8, 8), randomly(3, 4, 8, 8).flip(0)
    masks = torch.ones(3, 1, 8, 8)
    masks[1] = 0
    masks[1, :, :4] = 1
    together = losses_of(latents, noise, masks, 0.0)
    plain = losses_of(latents, noise, None, 0.0)
    crop = losses_of(latents[:, :, :4], noise[:, :, :4], None, 0.0)
    assert together.tolist() == pytest.approx([float(plain[0]), float(crop[1]), float(plain[2])], rel=1e-5)


def test_a_crop_in_which_nothing_counts_is_nothing_to_learn() -> None:
    errors = randomly(2, 4, 8, 8).square().requires_grad_()
    masks = torch.zeros(2, 1, 8, 8)
    masks[1, 0, 0, 0] = 1 / 255 / 64  # one pixel of a latent one's 64 is nearly black
    none, least = mean_over(errors, masks, 0.0)
    assert none.item() == 0
    assert least.item() == pytest.approx(errors[1, :, 0, 0].mean().item(), rel=1e-4)
    none.backward()  # type: ignore[no-untyped-call]
    assert errors.grad is not None
    assert not errors.grad.any()
    assert mean_over(errors, masks, 0.1)[0].item() == pytest.approx(errors[0].mean().item(), rel=1e-5)


def test_a_mask_beside_an_image_changes_what_is_learned_and_off_is_as_if_there_were_none(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    data = pictures.folder(tmp_path / "discs", 3)

    def told(name: str, *more: dict[str, Any]) -> Run:
        return run(settings(tiny_models["sd1"], data, tmp_path / name, *more))

    plain = told("plain")
    with_mask(data, "1", (0, 0, 64, 24))
    masked, low = told("masked"), told("low", {"mask": {"floor": 0.0}})
    off, even = told("off", {"mask": {"use": "off"}}), told("even", {"mask": {"floor": 1.0}})
    assert off.learned == plain.learned
    assert even.losses == pytest.approx(plain.losses, rel=1e-5)
    # Each epoch has a step of two images and one of one; one of them holds the masked image.
    changed = [a != pytest.approx(b, rel=1e-4) for a, b in zip(masked.losses[:2], plain.losses[:2], strict=True)]
    assert sum(changed) >= 1
    assert masked.losses[:2] != pytest.approx(low.losses[:2], rel=1e-4)


@dataclass(frozen=True)
class Descent:
    """Plain gradient descent of rate 1, so that weights change by the gradient."""

    def rate(self, _images_a_step: int) -> float:
        return 1.0

    def build(self, groups: Iterable[Any], rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=rate)

    def in_use(self, _optimizer: torch.optim.Optimizer) -> dict[Any, Tensor]:
        return {}


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Batches]:
    """A tiny U-Net, and four images: two of one size, two of another; one counts thrice, and one has a mask."""
    data = pictures.folder(tmp_path_factory.mktemp("four"), 4, ((128, 128), (160, 96)))
    with_mask(data, "0", (0, 0, 64, 64))
    pipe = tiny.pipeline("sd1")
    batches, _ = encoded(data, "sd1", pipe, 128)
    batches.images = [replace(one, weight=3.0 if number == 3 else 1.0) for number, one in enumerate(batches.images)]
    return pipe, batches


def gradient(four: tuple[Any, Batches], steps: list[list[list[tuple[int, int]]]], size: int, more: int = 1) -> Tensor:
    """Of one step of training, over all weights of the U-Net's last convolution."""
    pipe, batches = four
    net = pipe.unet.requires_grad_(False)
    net.conv_out.weight.requires_grad_()
    before = net.conv_out.weight.detach().clone()
    config = resolve(
        TrainLora,
        [{"data": {"folder": "x"}, "batch_size": size, "accumulate": more, "clip": 0, "weighting": "constant"}],
    )
    config = config.model_copy(update={"optimizer": Descent()})
    config = config.model_copy(update={"schedule": lambda *_: 1.0})
    fed = Batches(batches.images, InTurn(steps), batches.store, batches.settings, seed=0, told=conditioning("sd1"))
    family = family_named("sd1")
    list(Training(config, Accelerator(cpu=True), family, family.process(pipe), net, fed).steps(1))
    found = before - net.conv_out.weight.detach()
    net.conv_out.weight.detach().copy_(before)
    return found


def alone(four: tuple[Any, Batches], image: int, slot: int, of: int) -> Tensor:
    """The gradient of one image's own loss, as drawn for its slot."""
    pipe, batches = four
    net, family = pipe.unet.requires_grad_(False), family_named("sd1")
    weight = net.conv_out.weight.requires_grad_()
    config = resolve(TrainLora, [{"data": {"folder": "x"}, "weighting": "constant"}])
    fed = Batches(
        batches.images, InTurn([[[(image, 0)]]]), batches.store, batches.settings, seed=0, told=conditioning("sd1")
    )
    ((batch, draws),) = fed.at(0, Draws(0, 0, range(slot, slot + 1), of))
    (loss,) = image_losses(config, family, family.process(pipe), net.train(), batch, draws)
    (found,) = torch.autograd.grad(loss, weight)
    return found


PASSES = {
    "one pass": [[0, 2], []],
    "two passes of two sizes": [[0, 2], [1, 3]],
    "a pass of two and one of one": [[0, 2], [1]],
    "a pass of one and one of two": [[0], [1, 3]],
}


@pytest.mark.parametrize("passes", PASSES.values(), ids=PASSES.keys())
def test_each_image_counts_alike_whatever_passes_its_step_has(
    passes: list[list[int]], four: tuple[Any, Batches]
) -> None:
    order = [image for images in passes for image in images]
    step = [[(image, 0) for image in images] for images in passes if images]
    found = gradient(four, [step], len(order))
    single = [alone(four, image, slot, len(order)) for slot, image in enumerate(order)]
    expected = torch.stack(single).mean(dim=0)
    assert float(expected.abs().max()) > 1e-4
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(single[0], single[-1], rtol=0.1)


def test_beside_an_image_with_a_mask_all_of_the_other_counts(four: tuple[Any, Batches]) -> None:
    _, batches = four
    stream = InTurn([[[(0, 0), (2, 0)]]])
    fed = Batches(batches.images, stream, batches.store, batches.settings, seed=0, told=conditioning("sd1"))
    ((batch, _),) = fed.at(0, Draws(0, 0, range(2), 2))
    assert batch.masks is not None
    assert batch.masks.mean(dim=(1, 2, 3)).tolist() == [0.25, 1.0]


def test_a_batch_of_four_is_four_batches_of_one(four: tuple[Any, Batches]) -> None:
    images = [0, 2, 0, 2]
    step = [[[(image, 0) for image in images]]]
    at_once = gradient(four, step, 4)
    for size, more in ((1, 4), (2, 2), (3, 2)):
        parts = gradient(four, step, size, more)
        assert torch.allclose(at_once * 4 / (size * more), parts, rtol=1e-4, atol=1e-7)


def test_an_image_of_a_short_last_step_weighs_as_any_other(four: tuple[Any, Batches]) -> None:
    short = gradient(four, [[[(0, 0)]]], 4)
    assert torch.allclose(short, alone(four, 0, 0, 4) / 4, rtol=1e-3, atol=1e-6)


def test_a_run_of_all_settings_of_its_data_is_repeated_by_its_run_toml_to_the_byte(
    rich: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    more = pictures.folder(tmp_path / "more", 2, ((96, 160),))
    for name in ("0", "1"):
        (more / f"{name}.txt").unlink()
    with Image.open(more / "0.png") as image:
        Image.eval(image, lambda value: 255 - value).save(more / "0.png")
    priors = pictures.folder(tmp_path / "priors", 3, ((96, 96),))
    folders = [
        {"path": more, "repeats": 2, "weight": 0.5, "trigger": "blik", "caption": "a disc"},
        {"path": priors, "prior": True},
    ]
    tables = {
        "data": {"folder": rich, "folders": folders, "resolution": 128, "trigger": "sks", "skip_bad": True},
        "buckets": {"step": 32, "also": [96], "upscale": 1.5},
        "augment": RICH["augment"],
        "captions": {"dropout": 0.1, "shuffle": True, "keep": 2, "tag_dropout": 0.2, "weights": True, "longest": 150},
        "mask": {"use": "alpha", "floor": 0.2},
        "prior": {"weight": 0.7},
        "cache": {"folder": tmp_path / "cache", "memory": 0.5},
    }
    first = run(settings(tiny_models["sdxl"], rich, tmp_path / "first", tables))
    told = tomllib.loads((tmp_path / "first/run.toml").read_text())
    second = run(resolve(TrainLora, [told, {"out": tmp_path / "second"}]))
    assert second.learned == first.learned
    assert (tmp_path / "second/run.toml").read_bytes() == (tmp_path / "first/run.toml").read_bytes()
    assert Saved("inputs", tmp_path / "first/inputs.png") in first.reports
    with Image.open(tmp_path / "first/inputs.png") as sheet:
        assert sheet.width > 4 * 96
    assert (tmp_path / "second/inputs.png").read_bytes() == (tmp_path / "first/inputs.png").read_bytes()


def encode_as(caption: str, coding: str) -> Callable[[Path], object]:
    return lambda data: (data / "0.txt").write_bytes(caption.encode(coding))


def mask_of(size: tuple[int, int], white: int) -> Callable[[Path], object]:
    """Of the first image: black, but for the left half of that grey."""

    def make(data: Path) -> None:
        mask = Image.new("L", size, 0)
        mask.paste(white, (0, 0, size[0] // 2, size[1]))
        mask.save(data / "0-masklabel.png")

    return make


def no_image(name: str) -> Callable[[Path], object]:
    return lambda data: (data / name).write_bytes(b"nothing of the kind")


def small(data: Path) -> None:
    Image.new("RGB", (20, 24), "red").save(data / "0.png")


def all_small(data: Path) -> None:
    for path in data.glob("*.png"):
        Image.new("RGB", (20, 20 + int(path.stem)), "red").save(path)


def copied(data: Path) -> None:
    shutil.copytree(data, data.parent / "priors")


def priors(data: Path) -> dict[str, Any]:
    return {"data": {"folders": [{"path": data.parent / "priors", "prior": True}]}}


def nothing(_: Path) -> dict[str, Any]:
    return {}


def long_ones(data: Path) -> dict[str, Any]:
    (data / "0.txt").write_text("apple " * 90)
    return {"captions": {"longest": 75}}


REFUSED: dict[str, tuple[Callable[[Path], object], Callable[[Path], dict[str, Any]], str]] = {
    "latin-1": (
        encode_as("a café", "latin-1"),
        nothing,
        r"0\.txt: not text in UTF-8.*; save it as UTF-8; .*--skip-bad",
    ),
    "utf-16": (
        encode_as("a disc", "utf-16-le"),
        nothing,
        r"0\.txt: not text in UTF-8.*; save it as UTF-8; .*--skip-bad",
    ),
    "0 bytes": (
        encode_as("", "ascii"),
        nothing,
        r"1 of 3 images have no caption, or an empty one \(0\.png\); write 0\.txt",
    ),
    "100 kB": (encode_as("a disc, " * 12_500, "ascii"), nothing, r"0\.txt: over 8 kB, which is no caption; shorten it"),
    "over 75": (
        nothing,
        long_ones,
        r'"apple apple .*\(90\); shorten it .*, or read more with --captions\.longest 150',
    ),
    "black mask": (
        mask_of((64, 64), 0),
        nothing,
        r"0\.png: its mask is wholly black.*; paint what counts white, or remove",
    ),
    "no mask": (
        no_image("0-masklabel.png"),
        nothing,
        r"0\.png: its mask: its content is not an image.*; put it right, or",
    ),
    "small": (
        small,
        nothing,
        r"0\.png \(20 x 24\): too small for any bucket at 64 px .*; leave it out with --skip-bad, or",
    ),
    "all small": (all_small, nothing, r"too small for any bucket.*; give larger images, or .*--buckets\.upscale$"),
    "colour": (
        nothing,
        lambda _: {"augment": {"colour": 0.1}, "task": "style"},
        r"augment\.colour: .*; leave it out with",
    ),
    "reg empty": (
        lambda data: (data / "reg").mkdir(),
        nothing,
        r"d/reg: holds no images; put images of the class there",
    ),
    "prior empty": (
        lambda data: (data.parent / "priors").mkdir(),
        priors,
        r"priors: no images in this folder; put images",
    ),
    "priors the same": (copied, priors, r"priors: holds only images that are to be learned, too; .*: put such there"),
    "prior the data": (
        nothing,
        lambda data: {"data": {"folders": [{"path": data, "prior": True}]}},
        r"d: is the data itself .*; leave prior out",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line_with_nothing_left(
    case: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    make, more, words = REFUSED[case]
    data, cache = pictures.folder(tmp_path / "d", 3), tmp_path / "cache"
    make(data)
    config = settings(tiny_models["sd1"], data, tmp_path / "run", more(data), {"cache": {"folder": cache}})
    with pytest.raises(InputError, match=words) as refused:
        list(train_lora(config))
    assert len(refused.value.problems) == 1
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
    assert not list(cache.rglob("*.part"))


@pytest.mark.parametrize("case", ["latin-1", "100 kB", "black mask", "no mask", "small"])
def test_what_cannot_be_used_can_be_left_out(case: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "d", 3)
    REFUSED[case][0](data)
    told = run(settings(tiny_models["sd1"], data, tmp_path / "run", {"data": {"folder": data, "skip_bad": True}}))
    skipped = [report.path.name for report in told.reports if isinstance(report, Skipped)]
    assert skipped in (["0.png"], ["0.txt"])
    del told
    for path in data.glob("0*"):
        path.unlink()
    without = run(settings(tiny_models["sd1"], data, tmp_path / "without"))
    assert without.lora == (tmp_path / "run/d.safetensors").read_bytes()


TOLD: dict[str, tuple[Callable[[Path], object], dict[str, Any], list[str]]] = {
    "utf-16 that says so": (encode_as("a café", "utf-16"), {}, []),
    "a mask of another size": (
        mask_of((32, 40), 255),
        {},
        ["0.png: its mask is 32 x 40: scaled to the image"],
    ),
    "writing": (
        encode_as('a sign that says "hi"', "ascii"),
        {"augment": {"flip": True}},
        ['augment.flip: 1 of 3 images are not mirrored, since captions speak of writing or of sides ("sign"): 0.png'],
    ),
    "a large batch": (nothing, {"batch_size": 9}, ["--batch-size 9: there are 3 images to learn, so a step holds 3"]),
}


@pytest.mark.parametrize("case", TOLD)
def test_what_is_odd_is_told_once_a_run_and_used(case: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    make, more, warnings = TOLD[case]
    data = pictures.folder(tmp_path / "d", 3)
    make(data)
    config = settings(tiny_models["sd1"], data, tmp_path / "run", more, {"cache": {"folder": tmp_path / "cache"}})
    first = run(config)
    again = run(config.model_copy(update={"out": tmp_path / "again"}))
    assert first.said(Warned) == again.said(Warned) == warnings
    assert first.learned == again.learned


def test_one_image_is_enough(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "d", 1)
    assert len(run(settings(tiny_models["sd1"], data, tmp_path / "run", {"batch_size": 1})).losses) == 6


def test_the_same_names_in_two_folders_are_different_images(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data, more = pictures.folder(tmp_path / "d", 3), pictures.folder(tmp_path / "e", 3, ((80, 64),))
    told = run(settings(tiny_models["sd1"], data, tmp_path / "run", {"data": {"folders": [{"path": more}]}}))
    assert "data: 6 images in all; a pass sees each once" in told.said(Note)
    alone = run(settings(tiny_models["sd1"], data, tmp_path / "alone"))
    assert told.losses != alone.losses


def test_a_long_caption_is_read_to_its_last_word(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "d", 1)
    runs = []
    for last in ("red", "le"):
        (data / "0.txt").write_text("apple " * 299 + last)
        longest = {"captions": {"longest": 300, "dropout": 0.0}, "batch_size": 1, "steps": 2}
        runs.append(run(settings(tiny_models["sd1"], data, tmp_path / last, longest)))
    assert runs[0].losses != runs[1].losses


def fails_after(config: TrainLora, when: Callable[[Report], bool], do: Callable[[], object]) -> list[str]:
    """The problems of a training in which something happens after a report."""
    work = train_lora(config)
    next(report for report in work if when(report))
    do()
    with pytest.raises(DataError) as refused:
        list(work)
    return list(refused.value.problems)


def looked_at(report: Report) -> bool:
    return isinstance(report, Note) and report.text.startswith("data: ")


def all_encoded(report: Report) -> bool:
    return isinstance(report, Note) and report.text.startswith("cache: ")


def goes(path: Path) -> None:
    path.unlink()


def changes(path: Path) -> None:
    Image.new("RGB", (32, 20)).save(path)


def becomes_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def is_emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (goes, "is gone"),
        (changes, "has changed"),
        (becomes_a_folder, "cannot be read any more"),
        (is_emptied, "cannot be read any more"),
    ],
)
def test_an_image_that_is_not_any_more_what_was_looked_at_is_named(
    change: Callable[[Path], None], what: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    data = pictures.folder(tmp_path / "d", 3)
    victim = data / "1.png"
    own = {"cache": {"folder": tmp_path / "cache"}}
    told = f"{victim}: {what} since it was looked at"
    config = settings(tiny_models["sd1"], data, tmp_path / "run", own)
    problems = fails_after(config, looked_at, lambda: change(victim))
    assert problems == [f"{told}; start again with the images as they are now"]
    assert not (tmp_path / "run").exists()

    # Once all is encoded, nothing of it is needed any more.
    calm = run(settings(tiny_models["sd1"], pictures.folder(tmp_path / "e/d", 3), tmp_path / "calm", own))
    if victim.is_dir():
        victim.rmdir()
    pictures.folder(data, 3)
    work = train_lora(config)
    next(report for report in work if all_encoded(report))
    change(victim)
    warned = [report.text for report in work if isinstance(report, Warned)]
    assert warned == [f"{told}; training goes on with it as it was, and inputs.png leaves it out"]
    assert (tmp_path / "run/d.safetensors").read_bytes() == calm.lora
    assert (tmp_path / "run/inputs.png").is_file()


def test_a_mask_that_changes_while_images_are_encoded_is_never_taken_for_what_it_was(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    data = pictures.folder(tmp_path / "d", 3)
    with_mask(data, "2", (0, 0, 32, 64))
    config = settings(tiny_models["sd1"], data, tmp_path / "run", {"cache": {"folder": tmp_path / "cache"}})
    problems = fails_after(
        config,
        lambda report: isinstance(report, Progress) and report.phase == "encoding images",
        lambda: with_mask(data, "2", (32, 0, 64, 64)),
    )
    told = "has changed since it was looked at; start again with the masks as they are now"
    assert problems == [f"{data / '2-masklabel.png'}: {told}"]
    again = run(config)
    with_mask(data, "2", (0, 0, 32, 64))
    assert run(config.model_copy(update={"out": tmp_path / "other"})).losses != again.losses


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_cache_that_cannot_be_written_is_told_and_training_goes_on(
    place: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    data = pictures.folder(tmp_path / "d", 3)
    (tmp_path / "file").touch()
    told = run(settings(tiny_models["sd1"], data, tmp_path / "run", {"cache": {"folder": tmp_path / place}}))
    why = f"cache: cannot be written ({tmp_path / place}: Not a directory), so all is kept in memory for this run alone"
    assert told.said(Warned) == [why]
    kept = run(settings(tiny_models["sd1"], data, tmp_path / "kept", {"cache": {"folder": tmp_path / "cache"}}))
    assert told.learned == kept.learned


def test_a_disk_that_fills_up_while_images_are_encoded_is_told_and_training_goes_on(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """Of files of 3 kB latents fit and captions do not, as on a disk that has no room left for them."""
    data = pictures.folder(tmp_path / "d", 3)
    config = settings(
        tiny_models["sd1"], data, tmp_path / "run", {"cache": {"folder": tmp_path / "cache", "memory": NO_ROOM}}
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    warned = []
    try:
        for report in train_lora(config):
            if isinstance(report, Progress) and report.phase == "encoding images":
                resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
            if isinstance(report, Warned):
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                warned.append(report.text)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    why = f"{tmp_path / 'cache'}: File too large"
    assert warned == [f"cache: cannot be written ({why}), so all is kept in memory for this run alone"]
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 3
    assert not list((tmp_path / "cache").rglob("*.part"))
    calm = run(settings(tiny_models["sd1"], data, tmp_path / "calm", {"cache": {"place": "memory"}}))
    assert (tmp_path / "run/d.safetensors").read_bytes() == calm.lora
