"""Training a LoRA, from a folder of pictures to a file, told step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from sdtune.config import Tables, TrainLora, model_settings, refine, to_toml
from sdtune.core import memory, model
from sdtune.core.autoencoder import native_side, pixels_a_patch
from sdtune.core.data.folder import read_folders
from sdtune.core.data.plan import plan_for
from sdtune.core.data.seen import Seen, manifest_of, see
from sdtune.core.draws import generator
from sdtune.core.embedding import check_word, embedding_path
from sdtune.core.families import Family, family_named
from sdtune.core.feeding import feed, plain_wording
from sdtune.core.home import from_home
from sdtune.core.inpainting import check_task
from sdtune.core.new_word import check_said, check_word_early
from sdtune.core.priors import as_examples, check_priors, draw_priors
from sdtune.core.reports import Note, Saved, Telling, Trained, Warned
from sdtune.core.results import Results, facts_of, show_inputs, try_next
from sdtune.core.run_folder import RunFolder
from sdtune.core.training import Training, accelerator_for, images_a_step
from sdtune.core.unused import unused_settings
from sdtune.errors import ConfigError


def train_lora(config: TrainLora) -> Telling[None]:
    """Trains and tells of it; closing the iterator between steps leaves the LoRA as far as it came."""
    identity = model.identify(config.model)
    family = family_named(identity.family)
    config = refine(from_home(config), family.defaults, own_settings(config), task_settings(config, identity))
    for told in unused_settings(config, family):
        yield Warned(told)
    _check(config, family)
    check_task(config.task.kind, identity, family.title)
    check_priors(config, identity)
    yield from check_word_early(config, identity, family)
    run = RunFolder.planned(config.data.all_folders[0].path, config.out)
    device = memory.device_for(config.memory)
    dtype = memory.dtype_for(config.memory, device)
    yield Note(f"model: {_title(identity.name)} ({family.title})")
    if not model.is_here(identity):
        yield Note("the model will be fetched from the hub once the images are read: some GB, kept for later runs")
    if identity.inpainting:
        yield Note("task: inpainting, which the model is made for; samples are drawn anew as a whole")
    examples = yield from read_folders(config)
    check_said(config, examples)
    examples += as_examples((yield from draw_priors(config, identity, family)), config)

    # The encoders first, the denoiser once they are gone.
    pipe = model.load(identity, dtype, without=(family.denoiser,))
    family.check_clip_skip(pipe, config.text.clip_skip)
    if config.token.word:
        check_word(pipe, family, config.token.word, config.token.init)
    process = family.process(pipe)
    shape = model.denoiser_config(identity)
    resolution = config.data.resolution or native_side(shape, pipe.vae, family.resolution)
    unit = pixels_a_patch(shape, pipe.vae)
    skip_bad = config.data.skip_bad
    seen = yield from see(
        examples, resolution, unit, config.buckets, config.augment, config.task.kind, skip_bad=skip_bad
    )
    config = yield from _with_batches_that_fill(config, seen)
    stream = plan_for(
        [one.sizes for one in seen],
        [one.example.repeats for one in seen],
        [one.example.prior for one in seen],
        batch_size=images_a_step(config),
        seed=config.seed,
        manifest=manifest_of(seen),
    )
    steps = config.steps or usual_steps(stream.steps_an_epoch, config.passes)
    config = settled(config, family, resolution, steps)
    usual = _prompts(config, seen)
    prompts = [] if config.samples.off else usual
    fed = yield from feed(config, family, pipe, seen, stream, prompts, device)

    net: Any = model.load_denoiser(identity, dtype).to(device)
    setattr(pipe, family.denoiser, net)
    yield Note(memory.use_attention(net, config.memory.attention, device, dtype))
    if config.memory.gradient_checkpointing:
        net.enable_gradient_checkpointing()
    count = add_lora(net, config, family)
    count += sum(one.numel() for group in fed.lessons.groups for one in group["params"])
    yield Note(_plan(config, count, dtype, device))
    run = run.create(to_toml(config, without=("out",)))
    facts = facts_of(config, run.name, identity, process.prediction, len(seen))
    results = Results(config, family, pipe, net, fed, run, prompts, facts)
    try:
        yield from show_inputs(run, seen, config.mask)
        before = yield from results.draw(0)
    except BaseException:
        run.discard()
        raise

    accelerator = accelerator_for(config, memory.MIXED[dtype])
    training = Training(config, accelerator, family, process, net, fed.batches, fed.lessons)
    seconds = yield from results.learn(training.steps(steps))
    yield Saved("saved", run.lora)
    if config.token.word:
        yield Saved("embedding", embedding_path(run.embeddings, config.token.word))
    after = yield from results.draw(steps)
    compared = results.compare(before, after)
    yield Trained(run.lora, compared, seconds, try_next(config, run, usual[0]))


def usual_steps(steps_a_pass: float, passes: int | None = None) -> int:
    """As many as `passes` over the images take; without it 100 passes, but at least 600 steps and at most 2000."""
    if passes is not None:
        return max(1, math.ceil(passes * steps_a_pass))
    return min(max(math.ceil(100 * steps_a_pass), 600), 2000)


def add_lora(net: Any, config: TrainLora, family: Family) -> int:
    """Puts a fresh LoRA into the denoiser, in fp32 and the same for the same seed; returns how many numbers it has."""
    with torch.random.fork_rng():
        torch.manual_seed(generator(config.seed, "network").initial_seed())
        net.add_adapter(config.network.peft_config(family.lora_targets(config.network.layers)))
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.data = parameter.data.float()
    return sum(parameter.numel() for parameter in trainable)


def own_settings(config: TrainLora) -> Tables:
    """What the model's own preset says; its steps are not wanted where the passes are given."""
    return {name: told for name, told in model_settings(config.model).items() if name != "steps" or not config.passes}


def task_settings(config: TrainLora, identity: model.Identity) -> Tables:
    """What a task needs otherwise than the classes' defaults, to lie under what the user set."""
    layer: Tables = {"task": {"kind": "inpainting"}} if identity.inpainting else {}
    layer |= {"captions": {"dropout": 1.0}} if config.task.kind == "unconditional" else {}
    return layer | ({"data": {"trigger": config.token.word}} if config.token.word else {})


def _title(name: str) -> str:
    """Mini is the default, so it is said what it is and how to choose another."""
    if name != "mini":
        return name
    return "mini, built in, 128 px, to try things out; --model sd15, sdxl ... for a real one"


def _check(config: TrainLora, family: Family) -> None:
    """Settings that contradict the model's family."""
    if config.weighting.predictions.isdisjoint(family.predictions):
        told = (
            f"{config.weighting.kind} has no meaning for {family.title}, which predicts {', '.join(family.predictions)}"
        )
        raise ConfigError(f"weighting: {told}; use --weighting constant")


def settled(config: TrainLora, family: Family, resolution: int, steps: int) -> TrainLora:
    """The config with every value filled in that depends on the model or the data."""
    network, optimizer = config.network, config.optimizer
    alpha = network.alpha if network.alpha is not None else network.rank * family.alpha_share
    changes = {
        "steps": steps,
        "data": config.data.model_copy(update={"resolution": resolution}),
        "network": network.model_copy(update={"alpha": alpha}),
        "optimizer": optimizer.model_copy(update={"lr": optimizer.rate(images_a_step(config))}),
    }
    return config.model_copy(update=changes)


def _with_batches_that_fill(config: TrainLora, seen: Sequence[Seen]) -> Telling[TrainLora]:
    """A step holds no more images than a pass over all of them; half of it are priors, where there are any."""
    images = sum(one.example.repeats for one in seen if not one.example.prior)
    most = 2 * images if any(one.example.prior for one in seen) else images
    if config.batch_size <= most:
        return config
    told = "is 1 image" if images == 1 else f"are {images} images"
    halves = " and as many priors" if most > images else ""
    yield Warned(f"--batch-size {config.batch_size}: there {told} to learn, so a batch holds {images}{halves}")
    return config.model_copy(update={"batch_size": most})


def _prompts(config: TrainLora, seen: Sequence[Seen]) -> list[str]:
    """What to draw: as told, else the captions a third and two thirds of the way through the data set.

    Without captions it is two pictures of no prompt, each from noise of its own.
    """
    if config.samples.prompts:
        return list(config.samples.prompts)
    own = [plain_wording(one.example.caption, config) for one in seen if not one.example.prior]
    third = len(own) // 3
    return list(dict.fromkeys(own[place] for place in (third, 2 * third))) if any(own) else ["", ""]


def _plan(config: TrainLora, count: int, dtype: torch.dtype, device: torch.device) -> str:
    name = memory.MIXED[dtype] if dtype != torch.float32 else "fp32"
    steps, images = _counted(config.steps or 0, "step"), _counted(images_a_step(config), "image")
    return (
        f"training: {steps} of {images}, rank {config.network.rank}, {count:,} numbers, "
        f"{config.optimizer.kind} at {config.optimizer.lr:.1e}, {name} on {device.type}"
    )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
