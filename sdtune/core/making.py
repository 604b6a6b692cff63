"""Making: all that a training works with, made out of its examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sdtune.config import TrainLora
from sdtune.core import memory, model
from sdtune.core.autoencoder import native_side, pixels_a_patch
from sdtune.core.data.folder import Example
from sdtune.core.data.plain import see_plainly
from sdtune.core.data.plan import Stream, plan_for
from sdtune.core.data.seen import Seen, manifest_of, see
from sdtune.core.diffusion import Process
from sdtune.core.draws import generator
from sdtune.core.embedding import check_word
from sdtune.core.families import Family
from sdtune.core.feeding import Fed, feed, plain_wording
from sdtune.core.lora import fingerprint
from sdtune.core.peers import Peers
from sdtune.core.reports import Note, Telling, Warned
from sdtune.core.results import Results, facts_of
from sdtune.core.run_folder import RunFolder
from sdtune.core.training import Training, accelerator_for, images_a_step
from sdtune.core.validation import Protocol, Validator, protocol_for
from sdtune.errors import ConfigError


@dataclass(frozen=True)
class Base:
    """The model that is trained on, and where."""

    identity: model.Identity
    family: Family
    device: torch.device
    dtype: torch.dtype
    """of its weights"""


@dataclass(frozen=True)
class Outline:
    """A training as it is known before anything is encoded."""

    base: Base
    config: TrainLora
    """settled"""
    pipe: Any
    """the base model without its denoiser"""
    process: Process
    seen: Sequence[Seen]
    """what is trained"""
    judged: Sequence[Seen]
    """what is held out"""
    stream: Stream
    """the order of what is trained"""
    images: int
    """that a step learns from"""
    steps: int

    @property
    def trained(self) -> list[Example]:
        """The examples that are trained, priors among them."""
        return [one.example for one in self.seen]

    @property
    def held_out(self) -> list[Example]:
        """The examples that are held out."""
        return [one.example for one in self.judged]


@dataclass(frozen=True)
class Made:
    """A training before its first step, and what goes with it."""

    outline: Outline
    fed: Fed
    net: Any
    """the denoiser"""
    training: Training
    results: Results
    protocol: Protocol | None
    """None: nothing to validate on"""

    def validator(self) -> Validator | None:
        """What measures its held-out loss."""
        if self.protocol is None:
            return None
        of, base, fed = self.outline, self.outline.base, self.fed
        told, store = fed.told_of_images, fed.batches.store
        return Validator(
            of.config, base.family, of.process, self.protocol, fed.held_out, fed.watched, told, store, base.device
        )

    def __str__(self) -> str:
        config, base = self.outline.config, self.outline.base
        name = "fp32" if base.dtype == torch.float32 else memory.MIXED[base.dtype]
        count = sum(one.numel() for one in self.training.named.values())
        return (
            f"{_counted(self.outline.steps, 'step')} of {_counted(self.outline.images, 'image')}, rank "
            f"{config.network.rank}, {count:,} numbers, {config.optimizer.kind} at {config.optimizer.lr:.1e}, {name} "
            f"on {base.device.type}"
        )


def outline(
    config: TrainLora, base: Base, examples: Sequence[Example], held_out: Sequence[Example], peers: Peers
) -> Telling[Outline]:
    """Looks at the examples, and settles what depends on them and on the model."""
    family = base.family
    pipe = model.load(base.identity, base.dtype, without=(family.denoiser,))
    family.check_clip_skip(pipe, config.text.clip_skip)
    if config.token.word:
        check_word(pipe, family, config.token.word, config.token.init)
    shape = model.denoiser_config(base.identity)
    resolution = config.data.resolution or native_side(shape, pipe.vae, family.resolution)
    unit = pixels_a_patch(shape, pipe.vae)
    skip_bad = config.data.skip_bad
    seen = yield from see(
        examples, resolution, unit, config.buckets, config.augment, config.task.kind, skip_bad=skip_bad
    )
    judged = yield from see_plainly(held_out, resolution, config.buckets)
    config = yield from _with_batches_that_fill(config, seen, peers.of)
    images = images_a_step(config, peers.of)
    stream = plan_for(
        [one.sizes for one in seen],
        [one.example.repeats for one in seen],
        [one.example.prior for one in seen],
        batch_size=images,
        seed=config.seed,
        manifest=manifest_of(seen),
    )
    steps = config.steps or usual_steps(stream.steps_an_epoch, config.passes)
    config = settled(config, family, resolution, steps, images)
    return Outline(base, config, pipe, family.process(pipe), seen, judged, stream, images, steps)


def make(of: Outline, run: RunFolder, peers: Peers) -> Telling[Made]:
    """Encodes what it learns from, then loads the denoiser and gives it a LoRA: the encoders are gone by then."""
    config, pipe, base, family = of.config, of.pipe, of.base, of.base.family
    usual = _prompts(config, of.seen, of.judged)
    prompts = [] if config.samples.off else usual
    fed = yield from feed(config, family, pipe, of.seen, of.stream, prompts, base.device, of.judged)
    net: Any = model.load_denoiser(base.identity, base.dtype).to(base.device)
    setattr(pipe, family.denoiser, net)
    yield Note(memory.use_attention(net, config.memory.attention, base.device, base.dtype))
    if config.memory.gradient_checkpointing:
        net.enable_gradient_checkpointing()
    add_lora(net, config, family)
    accelerator = accelerator_for(config, memory.MIXED[base.dtype])
    training = Training(config, accelerator, family, of.process, net, fed.batches, fed.lessons, peers)
    facts = facts_of(config, run.name, base.identity, of.process.prediction, of.seen, of.images)
    results = Results(config, family, pipe, net, fed, run, prompts, usual[0], facts, fingerprint(net))
    count = len(fed.held_out), len(fed.watched)
    protocol = protocol_for(config.validation, of.steps, of.images, *count) if fed.held_out else None
    return Made(of, fed, net, training, results, protocol)


def usual_steps(steps_a_pass: float, passes: int | None = None) -> int:
    """As many as `passes` over the images take; without it 100 passes, but at least 600 steps and at most 2000."""
    if passes is not None:
        return max(1, math.ceil(passes * steps_a_pass))
    return min(max(math.ceil(100 * steps_a_pass), 600), 2000)


def settled(config: TrainLora, family: Family, resolution: int, steps: int, images: int) -> TrainLora:
    """The config with every value filled in that depends on the model or the data."""
    network, optimizer = config.network, config.optimizer
    alpha = network.alpha if network.alpha is not None else network.rank * family.alpha_share
    changes = {
        "steps": steps,
        "data": config.data.model_copy(update={"resolution": resolution}),
        "network": network.model_copy(update={"alpha": alpha}),
        "optimizer": optimizer.model_copy(update={"lr": optimizer.rate(images)}),
    }
    return config.model_copy(update=changes)


def add_lora(net: Any, config: TrainLora, family: Family) -> int:
    """Puts a fresh LoRA into the denoiser, in fp32 and the same for the same seed; returns how many numbers it has."""
    with torch.random.fork_rng():
        torch.manual_seed(generator(config.seed, "network").initial_seed())
        net.add_adapter(config.network.peft_config(family.lora_targets(config.network.layers)))
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.data = parameter.data.float()
    return sum(parameter.numel() for parameter in trainable)


def _with_batches_that_fill(config: TrainLora, seen: Sequence[Seen], processes: int) -> Telling[TrainLora]:
    """A step holds no more images than a pass over all of them; half of it are priors, where there are any."""
    images = sum(one.example.repeats for one in seen if not one.example.prior)
    most = 2 * images if any(one.example.prior for one in seen) else images
    if images_a_step(config, processes) <= most:
        return config
    if most < processes:
        raise ConfigError(f"{processes} processes: there are {_counted(images, 'image')} to learn; start fewer")
    batch = min(config.batch_size, most // processes)
    accumulate = max(1, most // (batch * processes))
    told = "is 1 image" if images == 1 else f"are {images} images"
    halves = f" ({images} and as many priors)" if most > images else ""
    given = f"--batch-size {config.batch_size}" + (f" x {config.accumulate}" if config.accumulate > 1 else "")
    holds = f"a step holds {batch * accumulate * processes}"
    yield Warned(f"{given}: there {told} to learn, so {holds}{halves}")
    return config.model_copy(update={"batch_size": batch, "accumulate": accumulate})


def _prompts(config: TrainLora, seen: Sequence[Seen], held_out: Sequence[Seen]) -> list[str]:
    """What to draw: as told, else the captions of a trained image and of one that is held out, or of two trained ones.

    Without captions it is two pictures of no prompt, each from noise of its own.
    """
    if config.samples.prompts:
        return list(config.samples.prompts)
    own = [plain_wording(one.example.caption, config) for one in seen if not one.example.prior]
    third = len(own) // 3
    other = plain_wording(held_out[0].example.caption, config) if held_out else own[2 * third]
    return list(dict.fromkeys((own[third], other))) if any(own) else ["", ""]


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
