"""Trainings of tiny models on a few images, without a folder or a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sdtune.config import TrainLora, resolve
from sdtune.core.data.batches import Batches
from sdtune.core.data.cache import Store
from sdtune.core.data.encode import Encoded, Version
from sdtune.core.data.plan import plan_for
from sdtune.core.families import family_named
from sdtune.core.live_text import LiveText
from sdtune.core.peers import Peers
from sdtune.core.reports import Step
from sdtune.core.state import State
from sdtune.core.step_losses import Lessons
from sdtune.core.training import Training, accelerator_for, images_a_step
from tests import tiny

SIZES = ((64, 64), (96, 64), (64, 96))
CAPTIONS = ("red", "a red apple", "apple", "an apple, red, red", "re")
EVERYDAY = ("a red", "app", "red apple apple")


@dataclass
class Bench:
    """Images with their captions, and the settings of trainings on them; each training has a network of its own."""

    family: str = "sd1"
    images: int = 7
    tables: dict[str, Any] = field(default_factory=dict)
    masks: bool = False
    priors: int = 0
    seed: int = 0

    def config(self, *more: dict[str, Any]) -> TrainLora:
        told = {"data": {"folder": "x"}, "network": {"rank": 2}, "optimizer": {"lr": 0.01}, "seed": self.seed}
        known = resolve(TrainLora, [told, self.tables, *more])
        network = known.network.model_copy(update={"alpha": float(known.network.rank)})
        return known.model_copy(update={"network": network})

    def training(self, *more: dict[str, Any], processes: int = 1, process: int = 0) -> Training:
        """A training anew, from the same weights each time."""
        config, family, pipe = self.config(*more), family_named(self.family), tiny.pipeline(self.family)
        net: Any = getattr(pipe, family.denoiser).requires_grad_(False)
        if config.memory.gradient_checkpointing:
            net.enable_gradient_checkpointing()
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            net.add_adapter(config.network.peft_config(family.lora_targets(config.network.layers)))
        _begin_moved(net)
        live = (
            LiveText(pipe, family, config, torch.device("cpu"), 1) if config.text.train or config.token.word else None
        )
        store, encoded = Store(None, 0), []
        random = torch.Generator().manual_seed(11)
        channels = net.config.in_channels
        captions = [CAPTIONS[number % len(CAPTIONS)] for number in range(self.images)]
        with torch.no_grad():
            texts = {text: family.encode_captions(pipe, [text]) for text in {"", *captions, *EVERYDAY}}
        told = {text: {name: value[0] for name, value in one.items()} for text, one in texts.items()}
        for number, caption in enumerate(captions):
            width, height = SIZES[number % len(SIZES)] if number < 6 else SIZES[0]
            mean, std = torch.randn(2, channels, height // 8, width // 8, generator=random)
            store.put(f"latents {number}", {"mean": mean, "std": std.abs() / 10})
            mask = f"mask {number}" if self.masks and number % 2 else None
            if mask:
                store.put(mask, {"mask": torch.rand(1, height // 8, width // 8, generator=random)})
            sizes = family.condition_on_size((height, width), (0, 0), (height, width))
            version = Version(f"latents {number}", mask, (), sizes, "")
            prior = number >= self.images - self.priors
            encoded.append(
                Encoded(
                    f"{number}.png", ((version,),), ((width, height),), (caption,), weight=1 + number % 2, prior=prior
                )
            )
        stream = plan_for(
            [one.sizes for one in encoded],
            [one.repeats for one in encoded],
            [one.prior for one in encoded],
            batch_size=images_a_step(config, processes),
            seed=self.seed,
            manifest="bench",
        )
        batches = Batches(
            encoded, stream, store, config.captions, seed=self.seed, told=None if live else lambda text: told[text]
        )
        generic = [told[text] for text in EVERYDAY] if config.keep_base.weight else []
        lessons = Lessons(
            generic,
            EVERYDAY if live and live.parts else (),
            live.read if live else None,
            tuple(live.groups()) if live else (),
            tuple(live.parts.values()) if live else (),
        )
        return Training(
            config,
            accelerator_for(config, "no"),
            family,
            family.process(pipe),
            net,
            batches,
            lessons,
            Peers(process, processes),
        )


def _begin_moved(net: nn.Module) -> None:
    """B of a LoRA begins at zero, which would hide what A does."""
    random = torch.Generator().manual_seed(5)
    for name, one in net.named_parameters():
        if "lora_B" in name:
            one.data.copy_(torch.randn(one.shape, generator=random) / 50)


def losses(reports: Iterable[object]) -> list[float | None]:
    return [report.loss for report in reports if isinstance(report, Step)]


def must_be_equal(one: State, other: State) -> None:
    """To the last bit."""
    assert one.step == other.step
    assert one.told == other.told
    assert one.tensors.keys() == other.tensors.keys()
    for file, tensors in one.tensors.items():
        assert tensors.keys() == other.tensors[file].keys()
        for name, value in tensors.items():
            assert value.dtype == other.tensors[file][name].dtype, name
            assert torch.equal(value, other.tensors[file][name]), name
