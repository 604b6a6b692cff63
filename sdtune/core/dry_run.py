"""A dry run: what a training would do, told by the training itself before its first step."""

from __future__ import annotations

import shlex
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sdtune.config import Caption, TrainLora, resolve
from sdtune.core import memory
from sdtune.core.caption import caption
from sdtune.core.data.buckets import covering_scale, cropped
from sdtune.core.data.folder import Example, arrange_folder, in_command
from sdtune.core.data.plan import Stream
from sdtune.core.data.seen import Seen
from sdtune.core.embedding import embedding_path
from sdtune.core.estimate import check_disk, disk_for, forward_seconds, known_memory, memory_of
from sdtune.core.reports import Planned, Probed, Problem, Progress, Step, Taught, Telling
from sdtune.core.results import Results, drawn_every
from sdtune.core.run_folder import RunFolder
from sdtune.core.training import Training, images_a_step
from sdtune.core.validation import Protocol
from sdtune.core.verdict import KEPT

PROBED = 3  # steps
BEST = "LoRA of the least held-out loss, where that is another"
SETTLED = ("missing", "empty", "trigger")
"""problems of captions that a training has refused or put right before it comes here"""


def dry_run(
    training: Training,
    results: Results,
    seen: Sequence[Seen],
    held_out: Sequence[Example],
    stream: Stream,
    protocol: Protocol | None,
) -> Telling[None]:
    """Tells what a training would do; OutputError where the disk has too little room for what it would write."""
    planned = plan_of(training, results, seen, held_out, stream, protocol)
    if results.config.probe:
        probed = yield from probe(training, planned.steps)
        planned = replace(planned, probed=probed, seconds=_seconds(planned, probed, results, protocol))
    yield planned
    check_disk(planned.disk, results.run.path)


def plan_of(
    training: Training,
    results: Results,
    seen: Sequence[Seen],
    held_out: Sequence[Example],
    stream: Stream,
    protocol: Protocol | None,
) -> Planned:
    """What a training would do, from its own parts as they stand before the first step.

    `seen` are the images that are trained, priors among them, of which `stream` tells the order.
    """
    config, net, run = results.config, results.net, results.run
    device, dtype = next((one.device, one.dtype) for one in net.parameters() if not one.requires_grad)
    steps = config.steps
    assert steps is not None, "the steps are settled with the data"
    sizes = [((one.example.width, one.example.height), one.sizes[0]) for one in seen]
    problems, look = _problems(config)
    captions = [text for one in seen for text in one.example.captions]
    tokens = results.family.count_tokens(results.pipe, captions, weighted=config.captions.weights)
    every = drawn_every(config, steps) if results.prompts else 0
    drawings = 1 + (-(-steps // every) if every else 1) if results.prompts else 0
    return Planned(
        model=results.facts["ss_sd_model_name"],
        family=results.family.title,
        device=device.type,
        precision="fp32" if dtype == torch.float32 else memory.MIXED[dtype],
        groups=tuple(_groups(training.named, config, results)),
        trained=sum(not one.example.prior for one in seen),
        held_out=len(results.fed.held_out),  # those that are large enough
        priors=sum(one.example.prior for one in seen),
        left_out=_left_out(config, [*(one.example for one in seen), *held_out]),
        enlarged=sum(covering_scale(*size, bucket) > 1 for size, bucket in sizes),
        cropped=sum(cropped(*size, bucket) for size, bucket in sizes) / len(sizes),
        problems=problems,
        look=look,
        tokens=sum(tokens) / len(tokens),
        tokens_longest=max(tokens),
        steps=steps,
        images_a_step=images_a_step(config, training.peers.of),
        passes=steps / stream.steps_an_epoch,
        warmup=round(min(config.schedule.warmup * steps, 100)),
        validations=-(-steps // protocol.every) if protocol else 0,
        validation_every=protocol.every if protocol else None,
        validation_share=protocol.share if protocol else 0.0,
        drawings=drawings,
        drawing_every=every or None,
        prompts=len(results.prompts),
        checkpoint_minutes=config.save.minutes,
        checkpoint_every=config.save.every,
        memory=known_memory(config, training.named, _frozen(results)),
        memory_there=memory_of(device),
        probed=None,
        seconds=None,
        disk=disk_for(
            config,
            training.named,
            run.path,
            loras=2 + KEPT if protocol else 1,  # of the last step and the best, and a window after it
            drawings=drawings,
            prompts=len(results.prompts),
            cache=results.fed.batches.store.on_disk,
        ),
        files=_files(config, run, prompts=len(results.prompts), validated=protocol is not None),
    )


def probe(training: Training, of: int, steps: int = PROBED) -> Telling[Probed]:
    """Takes real steps of a training of so many, measures them, and brings the training back to where it was.

    The first, which needs the most memory of all, is not timed: it loads kernels, and makes the optimizer's state.
    """
    before = training.state()
    wanted = min(1 + steps, of - training.step)
    seconds, memory_used, number = list[float](), 0.0, 0
    began = time.monotonic()
    with closing(training.steps(of)) as loop:
        for report in loop:
            if not isinstance(report, Step):
                yield report
                continue
            seconds.append(time.monotonic() - began)
            memory_used = max(memory_used, report.memory)
            number += 1
            yield Progress("probing steps", number, wanted)
            if number == wanted:
                break
            began = time.monotonic()
    training.load(before)
    return Probed(tuple(seconds[1:] or seconds), memory_used)


def _groups(named: Mapping[str, nn.Parameter], config: TrainLora, results: Results) -> Sequence[Taught]:
    """What is trained, part by part, with the rate that each has."""
    others = [{"params": group["params"], "lr": group["lr"]} for group in results.fed.lessons.groups]
    apart = {id(one) for group in others for one in group["params"]}
    own = {"params": [one for one in named.values() if id(one) not in apart], "lr": config.optimizer.lr}
    # The optimizer has the last word on the rates of its groups.
    groups = config.optimizer.build([own, *others], config.optimizer.rate(1)).param_groups
    rates = {id(one): group["lr"] for group in groups for one in group["params"]}
    modules, numbers, rate = defaultdict[str, set[str]](set), defaultdict[str, int](int), dict[str, float]()
    for name, one in named.items():
        first, _, inside = name.partition(".")
        part = "new word" if first == "token" else first
        modules[part].add(inside.partition(".lora_")[0])
        numbers[part] += one.numel()
        rate[part] = rates[id(one)]
    return [Taught(part, len(modules[part]), numbers[part], rate[part]) for part in numbers]


def _frozen(results: Results) -> dict[str, list[nn.Module]]:
    """The modules that stay on the device while it is trained: {what: those}."""
    family, pipe = results.family, results.pipe
    readers = [part for name in family.text_encoders if (part := getattr(pipe, name)) is not None]
    return {family.denoiser: [results.net], "text encoders": readers if results.fed.live else []}


def _problems(config: TrainLora) -> tuple[int | None, str | None]:
    """How many problems `sdtune caption --lint` finds, and the command that shows them."""
    if not config.task.reads_captions:
        return None, None
    found, commands = 0, []
    for folder in config.data.all_folders:
        trigger = folder.trigger or config.data.trigger
        asked = {"folder": folder.path, "lint": True, "model": config.model, "follow_links": config.data.follow_links}
        wording = {"wording": {"trigger": trigger}} if trigger else {}
        told = list(caption(resolve(Caption, [asked, wording])))
        problems = [one for one in told if isinstance(one, Problem) and one.kind not in SETTLED]
        if problems:
            found += len(problems)
            words = [in_command(folder.path), "--lint", "--model", shlex.quote(config.model)]
            words += [f"--trigger={shlex.quote(trigger)}"] if trigger else []
            words += ["--follow-links"] if config.data.follow_links else []
            commands.append(" ".join(["sdtune caption", *words]))
    return found, commands[0] if commands else None


def _left_out(config: TrainLora, used: Sequence[Example]) -> int:
    """Images in the data folders that are neither trained nor held out, and what may hold some and cannot be read."""
    paths = {one.path for one in used}
    layouts = [arrange_folder(folder.path, follow_links=config.data.follow_links) for folder in config.data.all_folders]
    items = [item for layout in layouts for item in layout.items if not item.held_out]
    return sum(item.entry.path not in paths for item in items) + sum(len(layout.unread) for layout in layouts)


def _files(config: TrainLora, run: RunFolder, *, prompts: int, validated: bool) -> tuple[tuple[str, Path], ...]:
    """What the run folder would hold."""
    files = [("LoRA of the last step", run.lora)]
    if validated:
        files += [(BEST, run.best), ("held-out losses", run.validations)]
    if config.token.word:
        files.append(("new word, for UIs", embedding_path(run.embeddings, config.token.word)))
    files += [("settings", run.settings), ("images and captions", run.data), ("steps", run.metrics)]
    files += [("losses", run.plot), ("images as they are seen", run.inputs)]
    if prompts:
        files.append(("samples", run.samples_sheet))
    return (*files, ("what --resume goes on from", run.checkpoints))


def _seconds(planned: Planned, probed: Probed, results: Results, protocol: Protocol | None) -> tuple[float, float]:
    """Of steps, validations and samples; decoding these, saving and starting are not counted."""
    config = results.config
    guided = 1 if config.samples.guidance == 1 else 2
    forwards = planned.drawings * planned.prompts * config.samples.steps * guided
    if protocol:
        forwards += (planned.validations + 1) * protocol.forwards  # the base is measured, too
    least, most = (
        planned.steps * step + forwards * forward_seconds(config, step, planned.images_a_step)
        for step in (min(probed.seconds), max(probed.seconds))
    )
    return least, most
