"""Training a LoRA, from a folder of pictures to a file, told step by step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from sdtune.config import OF_ONE_START, Tables, TrainLora, model_settings, refine, to_toml
from sdtune.core import memory, model
from sdtune.core.autoencoder import native_side, pixels_a_patch
from sdtune.core.course import Course
from sdtune.core.data.folder import read_folders
from sdtune.core.data.plain import see_plainly
from sdtune.core.data.plan import plan_for
from sdtune.core.data.seen import Seen, manifest_of, see
from sdtune.core.data_list import as_json, data_list
from sdtune.core.diffusion import Process
from sdtune.core.draws import generator
from sdtune.core.dry_run import dry_run
from sdtune.core.embedding import check_word
from sdtune.core.families import Family, family_named
from sdtune.core.feeding import Fed, feed, plain_wording
from sdtune.core.held_out import choose
from sdtune.core.home import from_home
from sdtune.core.inpainting import check_task
from sdtune.core.lock import lock
from sdtune.core.new_word import check_said, check_word_early
from sdtune.core.peers import Dismissed, Peers
from sdtune.core.priors import as_examples, check_priors, draw_priors
from sdtune.core.reports import Note, Resumed, Telling, Warned
from sdtune.core.results import Results, facts_of, show_inputs
from sdtune.core.resume import guarantee
from sdtune.core.resumption import resumption
from sdtune.core.run_folder import RunFolder
from sdtune.core.state import State
from sdtune.core.tracking import Trackers, check_trackers
from sdtune.core.training import Training, accelerator_for, images_a_step
from sdtune.core.unused import unused_settings
from sdtune.core.validation import Protocol, Validator, protocol_for
from sdtune.errors import ConfigError


def train_lora(config: TrainLora) -> Telling[None]:
    """Trains and tells of it; a run that is ended between steps leaves a checkpoint, and the LoRA as far as it came."""
    with contextlib.ExitStack() as held:
        yield from _train_lora(config, held)


def _train_lora(config: TrainLora, held: contextlib.ExitStack) -> Telling[None]:
    peers = Peers.here(memory.device_for(config.memory))
    resumed = yield from resumption(config, peers, held)
    if resumed and resumed.over:
        yield resumed.over
        return
    config = resumed.config if resumed else config
    identity = model.identify(config.model)
    family = family_named(identity.family)
    config = refine(from_home(config), family.defaults, own_settings(config), task_settings(config, identity))
    for told in unused_settings(config, family):
        yield Warned(told)
    _check(config, family)
    check_task(config.task.kind, identity, family.title)
    check_priors(config, identity)
    check_trackers(config.track)
    yield from check_word_early(config, identity, family)
    run = resumed.run if resumed else RunFolder.planned(config.data.all_folders[0].path, config.out)
    device = memory.device_for(config.memory)
    memory.make_deterministic(config.memory, device)
    dtype = memory.dtype_for(config.memory, device)
    yield Note(f"model: {_title(identity.name)} ({family.title})")
    if not model.is_here(identity):
        yield Note("the model will be fetched from the hub once the images are read: some GB, kept for later runs")
    if identity.inpainting:
        yield Note("task: inpainting, which the model is made for; samples are drawn anew as a whole")
    if not peers.leads:
        peers.wait()  # for what the leader finds and keeps in the cache
    examples, held_out = yield from choose((yield from read_folders(config)), config.validation)
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
    data = data_list(config, run.name, [one.example for one in seen], [one.example for one in judged])
    changed = resumed.agreed(config, data, images) if resumed else ()
    protocol = protocol_for(config.validation, steps, images, len(judged), len(seen)) if judged else None
    usual = _prompts(config, seen)
    prompts = [] if config.samples.off else usual
    fed = yield from feed(config, family, pipe, seen, stream, prompts, device, judged)

    net: Any = model.load_denoiser(identity, dtype).to(device)
    setattr(pipe, family.denoiser, net)
    yield Note(memory.use_attention(net, config.memory.attention, device, dtype))
    if config.memory.gradient_checkpointing:
        net.enable_gradient_checkpointing()
    add_lora(net, config, family)
    accelerator = accelerator_for(config, memory.MIXED[dtype])
    training = Training(config, accelerator, family, process, net, fed.batches, fed.lessons, peers)
    facts = facts_of(config, run.name, identity, process.prediction, len(seen), images)
    results = Results(config, family, pipe, net, fed, run, prompts, usual[0], facts)
    if peers.leads:
        peers.wait()  # what the others need is in the cache
    if config.dry_run:
        if peers.leads:
            yield from dry_run(training, results, seen, [one.example for one in judged], stream, protocol)
        elif config.probe:
            yield from _followed(training, steps, None)
        return
    yield Note(_plan(config, training, images, dtype, device))
    if protocol:
        yield Note(f"validation: {protocol}")
    yield Note(guarantee(config, device))
    if not peers.leads:
        yield from _followed(training, steps, resumed.state if resumed else None)
        return
    if resumed is None:
        run = run.create(to_toml(config, without=OF_ONE_START), as_json(data))
        held.enter_context(lock(run.path))
        results = replace(results, run=run)
    trackers = Trackers(config, run.path)
    held.callback(trackers.close)
    validator = _validator(config, family, process, protocol, fed, device)
    course = Course(config, run, training, results, validator, trackers, steps)
    try:
        if resumed:
            course.load(resumed.state)
            run.describe(to_toml(config, without=OF_ONE_START), as_json(data))
            yield Resumed(run.path, training.step, steps, changed)
        yield from trackers.start(training.step)
        if resumed is None:
            yield from show_inputs(run, seen, config.mask)
            yield from course.begin()
    except BaseException:
        run.discard()
        raise
    why = yield from course.go()
    yield from course.end(why)


def _followed(training: Training, steps: int, state: State | None) -> Telling[None]:
    """The steps in a process that does not lead, as far as the leader goes."""
    if state:
        training.load(state)
    with contextlib.suppress(Dismissed):
        yield from training.steps(steps)


def _validator(
    config: TrainLora, family: Family, process: Process, protocol: Protocol | None, fed: Fed, device: torch.device
) -> Validator | None:
    if protocol is None:
        return None
    store = fed.batches.store
    return Validator(config, family, process, protocol, fed.held_out, fed.watched, fed.told_of_images, store, device)


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


def _prompts(config: TrainLora, seen: Sequence[Seen]) -> list[str]:
    """What to draw: as told, else the captions a third and two thirds of the way through the data set.

    Without captions it is two pictures of no prompt, each from noise of its own.
    """
    if config.samples.prompts:
        return list(config.samples.prompts)
    own = [plain_wording(one.example.caption, config) for one in seen if not one.example.prior]
    third = len(own) // 3
    return list(dict.fromkeys(own[place] for place in (third, 2 * third))) if any(own) else ["", ""]


def _plan(config: TrainLora, training: Training, images: int, dtype: torch.dtype, device: torch.device) -> str:
    name = memory.MIXED[dtype] if dtype != torch.float32 else "fp32"
    count = sum(one.numel() for one in training.named.values())
    return (
        f"training: {_counted(config.steps or 0, 'step')} of {_counted(images, 'image')}, rank {config.network.rank}, "
        f"{count:,} numbers, {config.optimizer.kind} at {config.optimizer.lr:.1e}, {name} on {device.type}"
    )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
