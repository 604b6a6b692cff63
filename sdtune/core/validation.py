"""Validation: the loss at fixed noise levels and noises, on images that are held out and on as many that are trained.

Levels are stratified, u = (k + jitter) / T for k in 0 .. T - 1, and jitter and noise depend on (image, k, number of the
noise) alone: neither on the run and its seed, nor on the step, the batch, the order or the device. So two measures
differ by what was learned alone, and their difference has far less noise than each. Nothing random is drawn in training
for it.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sdtune.config import TrainLora
from sdtune.core.data.cache import Store
from sdtune.core.data.conditioning import Conditioning, entry, moved, stack
from sdtune.core.data.plain import Plain, some
from sdtune.core.diffusion import Process
from sdtune.core.draws import generator
from sdtune.core.families import Family
from sdtune.core.lora import at_strength
from sdtune.core.reports import Measure, Progress, Telling
from sdtune.core.room import free, is_out_of_memory
from sdtune.core.step_losses import mean_over
from sdtune.tables import Validation

STEP_FORWARDS = 2.1
"""forwards that a step costs an image: the least of four families (2.10 for SDXL to 2.38 for SD 3.5), without
recomputation, so that the share of validation is rather overestimated"""
VALIDATIONS = 10  # over a run, if they cost little enough
LEAST = {"noises": 1, "validations": 6, "timesteps": 4, "images": 2}
"""what is made less, one after the other, down to this; at last validations again, down to two"""
MUCH = 0.5  # of a run, beside which the training itself is little
AT_ONCE = 8  # images in a pass; without gradients that needs less memory than one that is trained

Losses = NDArray[numpy.float64]


@dataclass(frozen=True)
class Protocol:
    """How a run is validated, from its first step to its last."""

    every: int
    """steps"""
    images: int
    """held-out ones, and as many of the trained ones"""
    timesteps: int
    """noise levels for each"""
    noises: int
    """for each level"""
    share: float
    """of the run's forwards, all validations and that of the base together"""

    @property
    def forwards(self) -> int:
        """Images through the denoiser in one validation."""
        return 2 * self.images * self.timesteps * self.noises

    def due(self, step: int, of: int) -> bool:
        """Whether there is a validation after this step."""
        return step % self.every == 0 or step == of

    def __str__(self) -> str:
        told = "1 held-out image" if self.images == 1 else f"{self.images} held-out images"
        noises = "" if self.noises == 1 else f" x {self.noises} noises"
        steps = "step" if self.every == 1 else f"{self.every} steps"
        share = f"{100 * self.share:.2g}" if self.share < 0.1 else f"{100 * self.share:.0f}"
        much = "; a larger --validate-every or fewer --validation.timesteps cost less" if self.share > MUCH else ""
        return f"{told}, every {steps}, {self.timesteps} noise levels{noises}, about {share} % of the run{much}"


def protocol_for(settings: Validation, steps: int, images_a_step: int, held_out: int, trained: int) -> Protocol:
    """As often and as fully as the share of the run's work allows; where `every` is given, in full.

    Out of settings and counts alone. The smallest is taken in any case, whatever its share.
    """
    assert min(held_out, trained) > 0, "there is something to validate on"
    images = min(settings.images, held_out, trained)
    work = steps * images_a_step * STEP_FORWARDS
    wish = {"noises": settings.noises, "timesteps": settings.timesteps, "images": images}
    if settings.every is not None:
        return as_shared(Protocol(settings.every, **wish, share=0.0), steps, images_a_step)
    wish["validations"] = min(VALIDATIONS, steps)

    def cost() -> int:
        return (wish["validations"] + 1) * 2 * wish["images"] * wish["timesteps"] * wish["noises"]

    for name, least in (*LEAST.items(), ("validations", 2)):
        while cost() > settings.share * work and wish[name] > least:
            wish[name] -= 1
    every = -(-steps // wish.pop("validations"))
    return as_shared(Protocol(every, **wish, share=0.0), steps, images_a_step)


def as_shared(protocol: Protocol, steps: int, images_a_step: int) -> Protocol:
    """The protocol with its share of a run of so many steps."""
    work = steps * images_a_step * STEP_FORWARDS
    return replace(protocol, share=(-(-steps // protocol.every) + 1) * protocol.forwards / work)


class Validator:
    """Measures what a training has come to; the first measure is that of the base, to which all others are told."""

    def __init__(
        self,
        config: TrainLora,
        family: Family,
        process: Process,
        protocol: Protocol,
        held_out: Sequence[Plain],
        trained: Sequence[Plain],
        told: Callable[[str], Conditioning],
        store: Store,
        device: torch.device,
    ) -> None:
        """Of both sides as many are looked at as the protocol says, chosen by content.

        `told` gives what the denoiser is told of a caption, now; `store` holds the images' latents.
        """
        self._config, self._family, self._process = config, family, process
        self.protocol = protocol
        """a run that is resumed goes on with its own"""
        self._sides = tuple({one.sha256: one for one in side} for side in (held_out, trained))
        self._told, self._store, self._device = told, store, device
        self._at_once = AT_ONCE
        self.base: dict[str, float] = {}
        """{SHA-256 of each image: the base model's loss}; to be kept with the run, as it cannot be measured later"""

    def measure(
        self, net: nn.Module, beside: Sequence[nn.Module] = (), *, learned: bool = False
    ) -> Telling[tuple[Measure, Measure]]:
        """(held out, trained), with the net and text encoders as they are: in eval mode, with the weights to judge.

        Where something has been learned, images whose base loss is not known are measured without it first: without the
        LoRA in the net and in the text encoders `beside` it.
        Arithmetic is that of the frozen weights: fp32 where they are, without autocast; bf16 and fp16 ones work under
        autocast, as they are trained and drawn with. Noise, targets, errors and means are fp32 and wider in any case.
        """
        sides = [some(side, self.protocol.images) for side in self._sides]
        everything = {one.sha256: one for side in sides for one in side}
        unknown = [one for digest, one in everything.items() if digest not in self.base]
        if learned and unknown:
            with contextlib.ExitStack() as without:
                for part in (net, *beside):
                    without.enter_context(at_strength(part, 0.0))
                found = yield from self.losses(net, unknown)
            self.base |= {one: float(rows.mean()) for one, rows in found.items()}
        losses = yield from self.losses(net, list(everything.values()))
        for one, rows in losses.items():
            self.base.setdefault(one, float(rows.mean()))
        held_out, trained = (self._measured([one.sha256 for one in side], losses) for side in sides)
        return held_out, trained

    def _measured(self, images: Sequence[str], losses: Mapping[str, Losses]) -> Measure:
        rows = numpy.stack([losses[one] for one in sorted(images)])
        return measured(rows, numpy.array([self.base[one] for one in sorted(images)]))

    def losses(self, net: nn.Module, images: Sequence[Plain]) -> Telling[dict[str, Losses]]:
        """{image: its loss at each level [T], the mean over noises}."""
        protocol = self.protocol
        sums = {one.sha256: numpy.zeros(protocol.timesteps) for one in images}
        captions = dict.fromkeys(one.caption for one in images)
        told = {caption: self._told(caption) for caption in captions}
        done, of = 0, len(images) * protocol.timesteps * protocol.noises
        for shots in self._passes(images):
            for shot, loss in zip(shots, self._pass(net, shots, told), strict=True):
                sums[shot.image.sha256][shot.level] += loss / protocol.noises
            done += len(shots)
            yield Progress("validating", done, of)
        return sums

    def _passes(self, images: Sequence[Plain]) -> Iterator[list[_Shot]]:
        """All that is to be measured, several images of one size at once."""
        ordered = sorted(images, key=lambda one: (one.size, one.sha256))
        levels, noises = range(self.protocol.timesteps), range(self.protocol.noises)
        for _, group in groupby(ordered, key=lambda one: one.size):
            shots = [_Shot(image, level, noise) for image in group for noise in noises for level in levels]
            while shots:
                here, shots = shots[: self._at_once], shots[self._at_once :]
                yield here

    def _pass(self, net: nn.Module, shots: Sequence[_Shot], told: Mapping[str, Conditioning]) -> list[float]:
        """The loss of each; where the device lacks memory in smaller parts, from then on."""
        losses: list[float] = []
        while len(losses) < len(shots):
            here = shots[len(losses) : len(losses) + self._at_once]
            try:
                losses += self._errors(net, here, told).double().tolist()
                continue
            except (RuntimeError, MemoryError) as error:
                if len(here) == 1 or not is_out_of_memory(error):
                    raise
            self._at_once = -(-len(here) // 2)
            free()
        return losses

    @torch.no_grad()
    def _errors(self, net: nn.Module, shots: Sequence[_Shot], told: Mapping[str, Conditioning]) -> Tensor:
        """[B]"""
        config, device = self._config, self._device
        dtype = next((one.dtype for one in net.parameters() if not one.requires_grad), torch.float32)
        x_0 = torch.stack([self._entry(shot.image.version.latents)["mean"] for shot in shots]).to(device)
        drawn = [shot.drawn(self.protocol.timesteps, tuple(x_0.shape[1:])) for shot in shots]
        u = torch.tensor([one for one, _ in drawn], dtype=torch.float64)
        noisy = self._process.add_noise(x_0, torch.stack([noise for _, noise in drawn]).to(x_0), u)
        rows = [{**told[shot.image.caption], **self._hole(shot), **shot.image.version.sizes} for shot in shots]
        conditioning = moved(stack(rows), device, dtype)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            prediction = self._family.denoise(net, noisy.latents, noisy.timesteps, conditioning)
        errors = config.loss(prediction.float(), noisy.target.float())
        weighting = config.weighting(noisy.snr, self._process.prediction)
        return mean_over(errors, self._masks(shots, x_0), config.mask.floor) * weighting

    def _hole(self, shot: _Shot) -> Conditioning:
        """What is masked for inpainting: another for each level."""
        holes = shot.image.version.holes
        return self._entry(holes[(shot.level + shot.noise) % len(holes)]) if holes else {}

    def _masks(self, shots: Sequence[_Shot], like: Tensor) -> Tensor | None:
        keys = [shot.image.version.mask for shot in shots]
        if not any(keys):
            return None
        whole = like.new_ones((1, *like.shape[2:]))
        return torch.stack([self._entry(key)["mask"].to(like) if key else whole for key in keys])

    def _entry(self, key: str) -> Conditioning:
        return {name: value.to(self._device) for name, value in entry(self._store, key).items()}


@dataclass(frozen=True)
class _Shot:
    """One image at one level with one noise."""

    image: Plain
    level: int
    noise: int

    def drawn(self, levels: int, shape: tuple[int, ...]) -> tuple[float, Tensor]:
        """u in [0, 1), and the noise in fp32 on the CPU."""
        random = generator("validation", self.image.sha256, self.level, self.noise)
        jitter = float(torch.rand((), generator=random, dtype=torch.float64))
        return (self.level + jitter) / levels, torch.randn(shape, generator=random)


def measured(losses: Losses, base: Losses) -> Measure:
    """Of losses [n, T] of n images and those of the base [n]; the errors are those of means over images.

    That of the relative loss r is paired, of what each image's loss differs from r times its own base's. Of a single
    image an error is not known, and told as large as the value itself.
    """
    of_image = losses.mean(axis=1)
    relative = float(of_image.mean() / base.mean())
    alone = len(losses) == 1
    error = float(of_image[0]) if alone else _error(of_image)
    paired = relative if alone else _error(of_image - relative * base) / float(base.mean())
    levels = tuple(float(one) for one in losses.mean(axis=0))
    return Measure(float(of_image.mean()), error, relative, paired, levels, len(losses))


def _error(values: Losses) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def to_json(protocol: Protocol, base: Mapping[str, float]) -> str:
    """What a run that is resumed must go on with, so that all its validations are alike."""
    return json.dumps({"protocol": asdict(protocol), "base": dict(base)}, indent=1)


def from_json(text: str) -> tuple[Protocol, dict[str, float]]:
    """The same, to the last bit; ValueError for what is none of it."""
    try:
        told = json.loads(text)
        return Protocol(**told["protocol"]), {str(one): float(loss) for one, loss in told["base"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not what a validation keeps: {error!r}") from None
