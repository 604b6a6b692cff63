"""Training a LoRA, from a folder of pictures to a file, told step by step."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from sdtune.choices.samplers import DPMpp2M
from sdtune.config import TrainLora, model_settings, refine, to_toml
from sdtune.core import lora_file, memory, model
from sdtune.core.autoencoder import native_side, pixels_a_patch
from sdtune.core.data.batches import Batches
from sdtune.core.data.encode import Conditioning, Encoded, encode_captions, encode_examples
from sdtune.core.data.folder import Example, read_folders
from sdtune.core.drawing import Wish, draw
from sdtune.core.draws import generator
from sdtune.core.families import Family, family_named
from sdtune.core.lora import at_strength, from_peft
from sdtune.core.reports import Note, Saved, Step, Telling, Trained, Warned
from sdtune.core.run_folder import RunFolder, write_atomically
from sdtune.core.sheet import sheet
from sdtune.core.training import accelerator_for, images_a_step, train
from sdtune.errors import ConfigError


def train_lora(config: TrainLora) -> Telling[None]:
    """Trains and tells of it; closing the iterator between steps leaves the LoRA as far as it came."""
    identity = model.identify(config.model)
    family = family_named(identity.family)
    config = refine(config, family.defaults, model_settings(config.model))
    _check(config, family)
    run = RunFolder.planned(config.data.all_folders[0].path, config.out)
    device = memory.device_for(config.memory)
    dtype = memory.dtype_for(config.memory, device)
    yield Note(f"model: {_title(identity.name)} ({family.title})")
    if not model.is_here(identity):
        yield Note("the model will be fetched from the hub once the images are read: some GB, kept for later runs")
    examples = yield from read_folders(config)

    config = yield from _with_batches_that_fill(config, len(examples))
    pipe = model.load(identity, dtype)
    process = family.process(pipe)
    net = getattr(pipe, family.denoiser)
    resolution = config.data.resolution or native_side(net, pipe.vae, family.resolution)
    unit = pixels_a_patch(net, pipe.vae)
    if resolution % unit:
        raise ConfigError(
            f"data.resolution (--resolution): {resolution} is no multiple of {unit} pixels; choose another"
        )
    steps = config.steps or usual_steps(len(examples), images_a_step(config), config.passes)
    config = _settled(config, family, resolution, steps)
    yield from _warn_of_size(examples, resolution)

    prompts = _prompts(config, examples)
    images, blank, wishes = yield from _encode(config, family, pipe, examples, prompts, device)

    net.to(device)
    yield Note(memory.use_attention(net, config.memory.attention, device, dtype))
    if config.memory.gradient_checkpointing:
        net.enable_gradient_checkpointing()
    count = add_lora(net, config, family)
    yield Note(_plan(config, count, dtype, device))
    run = run.create(to_toml(config, without=("out",)))
    try:
        before = yield from _draw(config, family, pipe, net, wishes, run, 0)
    except BaseException:
        run.discard()
        raise

    batches = Batches(
        images, blank, batch_size=config.batch_size, seed=config.seed, caption_dropout=config.captions.dropout
    )
    loop = train(config, accelerator_for(config, memory.MIXED[dtype]), family, process, net, batches, steps)
    facts = _facts(config, run.name, identity, process.prediction, len(examples))
    seconds = yield from _learn(loop, run, net, config, family, facts)
    yield Saved("saved", run.lora)
    after = yield from _draw(config, family, pipe, net, wishes, run, steps)
    if prompts:
        picture = sheet([before, after], prompts, ["before", _after(config)])
        write_atomically(run.sheet, lambda path: picture.save(path))
    yield Trained(run.lora, run.sheet if prompts else None, seconds, _try_next(config, run, prompts))


def usual_steps(images: int, images_a_step: int, passes: int | None = None) -> int:
    """As many as `passes` over the images take; without it 100 passes, but at least 600 steps and at most 2000."""
    if passes is not None:
        return max(1, -(-passes * images // images_a_step))
    return min(max(100 * images // images_a_step, 600), 2000)


def add_lora(net: Any, config: TrainLora, family: Family) -> int:
    """Puts a fresh LoRA into the denoiser, in fp32 and the same for the same seed; returns how many numbers it has."""
    with torch.random.fork_rng():
        torch.manual_seed(generator(config.seed, "network").initial_seed())
        net.add_adapter(config.network.peft_config(family.lora_targets(config.network.layers)))
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.data = parameter.data.float()
    return sum(parameter.numel() for parameter in trainable)


def _title(name: str) -> str:
    """Mini is the default, so it is said what it is and how to choose another."""
    if name != "mini":
        return name
    real = ", ".join(name for name in model.SHORT_NAMES if name != "mini")
    return f"mini, built in, 128 px, to try things out; for a real model: --model {real}, a hub name or a path"


def _check(config: TrainLora, family: Family) -> None:
    """Settings that contradict the model's family."""
    if config.weighting.predictions.isdisjoint(family.predictions):
        told = (
            f"{config.weighting.kind} has no meaning for {family.title}, which predicts {', '.join(family.predictions)}"
        )
        raise ConfigError(f"weighting: {told}; use --weighting constant")


def _settled(config: TrainLora, family: Family, resolution: int, steps: int) -> TrainLora:
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


def _with_batches_that_fill(config: TrainLora, images: int) -> Telling[TrainLora]:
    """A batch holds no image twice, so it holds no more than there are."""
    if config.batch_size <= images:
        return config
    told = "is 1 image" if images == 1 else f"are {images} images"
    yield Warned(f"--batch-size {config.batch_size}: there {told}, so a batch holds {images}")
    return config.model_copy(update={"batch_size": images})


def _warn_of_size(examples: Sequence[Example], resolution: int) -> Telling[None]:
    small = [example for example in examples if example.width * example.height < resolution**2]
    if small:
        named = ", ".join(example.path.name for example in small[:3])
        are = "is" if len(small) == 1 else "are"
        told = f"{_counted(len(small), 'image')} {are} smaller than {resolution} x {resolution} and {are} enlarged"
        yield Warned(f"{told} ({named})")


def _prompts(config: TrainLora, examples: Sequence[Example]) -> list[str]:
    """What to draw: as told, else the captions a third and two thirds of the way through the data set."""
    if config.samples.off:
        return []
    own = [example.caption for example in examples if not example.prior]
    third = len(own) // 3
    return list(config.samples.prompts or dict.fromkeys(own[place] for place in (third, 2 * third)))


def _encode(
    config: TrainLora,
    family: Family,
    pipe: Any,
    examples: Sequence[Example],
    prompts: Sequence[str],
    device: torch.device,
) -> Telling[tuple[list[Encoded], Conditioning, list[Wish]]]:
    """All that the encoders are needed for: the images, the blank caption, and what to draw."""
    assert config.data.resolution is not None, "the resolution is settled with the model"
    captions = [caption for example in examples for caption in example.captions]
    texts = list(dict.fromkeys([*captions, *prompts, "", config.samples.negative]))
    told = dict(zip(texts, (yield from encode_captions(texts, family, pipe, device)), strict=True))
    images = yield from encode_examples(examples, told, family, pipe.vae.to(device), config.data.resolution)
    pipe.vae.to("cpu")
    size = (config.data.resolution, config.data.resolution)
    negative = told[config.samples.negative]
    wishes = [Wish(told[prompt], negative, config.seed + number, size) for number, prompt in enumerate(prompts)]
    return images, told[""], wishes


def _learn(
    loop: Iterator[Step], run: RunFolder, net: nn.Module, config: TrainLora, family: Family, facts: dict[str, str]
) -> Telling[float]:
    """Tells and records every step, and saves the LoRA at the end, wherever that is; returns the seconds."""
    step = None
    try:
        for step in loop:
            run.record(step)
            yield step
    except GeneratorExit:
        if step is not None:
            _save(run.partial(step.number), net, config, family, facts | {"ss_steps": str(step.number)})
        raise
    warning = _save(run.lora, net, config, family, facts)
    if warning:
        yield Warned(warning)
    return step.seconds if step else 0.0


def _plan(config: TrainLora, count: int, dtype: torch.dtype, device: torch.device) -> str:
    name = memory.MIXED[dtype] if dtype != torch.float32 else "fp32"
    steps, images = _counted(config.steps or 0, "step"), _counted(images_a_step(config), "image")
    return (
        f"training: {steps} of {images}, rank {config.network.rank}, {count:,} numbers, "
        f"{config.optimizer.kind} at {config.optimizer.lr:.1e}, {name} on {device.type}"
    )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _draw(
    config: TrainLora, family: Family, pipe: Any, net: Any, wishes: Sequence[Wish], run: RunFolder, step: int
) -> Telling[list[Image.Image]]:
    """Samples after so many steps, each in its file; returns the images."""
    if not wishes:
        return []
    net.eval()
    pipe.vae.to(net.device)
    phase = "samples after training" if step else "samples before training"
    sampler = DPMpp2M().build(pipe.scheduler)
    told = config.samples
    with at_strength(net, told.strength):
        images = yield from draw(
            family, net, pipe.vae, sampler, wishes, steps=told.steps, guidance=told.guidance, phase=phase
        )
    pipe.vae.to("cpu")
    for number, image in enumerate(images, 1):
        write_atomically(run.sample(step, number), image.save)
    return images


def _facts(config: TrainLora, name: str, identity: model.Identity, prediction: str, images: int) -> dict[str, str]:
    """What the LoRA's metadata tells of its training, in kohya's names; no path, no date, no machine."""
    facts = {
        "ss_output_name": name,
        "ss_sd_model_name": identity.name,
        "ss_steps": str(config.steps),
        "ss_num_train_images": str(images),
        "ss_seed": str(config.seed),
        "ss_learning_rate": f"{config.optimizer.lr:g}",
        "ss_optimizer": config.optimizer.kind,
        "ss_lr_scheduler": config.schedule.kind,
        "ss_total_batch_size": str(images_a_step(config)),
        "ss_resolution": f"({config.data.resolution}, {config.data.resolution})",
        "modelspec.title": name,
        "modelspec.prediction_type": prediction,
        "modelspec.resolution": f"{config.data.resolution}x{config.data.resolution}",
    }
    return facts | ({"modelspec.trigger_phrase": config.data.trigger} if config.data.trigger else {})


def _save(path: Path, net: nn.Module, config: TrainLora, family: Family, facts: dict[str, str]) -> str | None:
    """Writes the LoRA; returns what the user should know of it."""
    used = lora_file.write(path, from_peft(net, family, facts), form=config.save.form, dtype=config.save.dtype)
    return (
        None if used == config.save.dtype else f"saved in {used}, as its values are too large for {config.save.dtype}"
    )


def _try_next(config: TrainLora, run: RunFolder, prompts: Sequence[str]) -> str:
    prompt = prompts[0] if prompts else config.data.trigger or "a red apple"
    strength = config.samples.strength
    lora = str(run.path) if strength == 1 else f"{run.path}:{strength:g}"
    return f"sdtune sample --prompt {shlex.quote(prompt)} --lora {shlex.quote(lora)}"


def _after(config: TrainLora) -> str:
    strength = config.samples.strength
    return f"after {config.steps} steps" + ("" if strength == 1 else f", at strength {strength:g}")
