"""Training a LoRA, from a folder of pictures to a file, told step by step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

from sdtune.config import OF_ONE_START, Tables, TrainLora, model_settings, refine, to_toml
from sdtune.core import memory, model
from sdtune.core.course import Course
from sdtune.core.data.folder import read_folders
from sdtune.core.data_list import as_json, data_list
from sdtune.core.dry_run import dry_run
from sdtune.core.families import Family, family_named
from sdtune.core.folding import as_long_as_it_helps, fold, told_of_folds
from sdtune.core.held_out import choose
from sdtune.core.home import from_home
from sdtune.core.inpainting import check_task
from sdtune.core.lock import lock
from sdtune.core.making import Base, make, outline
from sdtune.core.new_word import check_said, check_word_early
from sdtune.core.peers import Dismissed, Peers
from sdtune.core.priors import as_examples, check_priors, draw_priors
from sdtune.core.reports import Note, Resumed, Telling, Warned
from sdtune.core.results import show_inputs
from sdtune.core.resume import command, guarantee
from sdtune.core.resumption import resumption
from sdtune.core.run_folder import RunFolder
from sdtune.core.state import State
from sdtune.core.tracking import Trackers, check_trackers
from sdtune.core.training import Training
from sdtune.core.unused import unused_settings
from sdtune.errors import FULL, ConfigError, Paused


def train_lora(config: TrainLora) -> Telling[None]:
    """Trains and tells of it; a run that is ended between steps leaves a checkpoint, and the LoRA as far as it came."""
    with contextlib.ExitStack() as held:
        yield from _train_lora(config, held)


@contextlib.contextmanager
def _pausing(run: RunFolder) -> Iterator[None]:
    """A full disk pauses a run that has learned something."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or not run.has_learned:
            raise
        told = f"{error.filename or run.path}: the disk is full; free some space there"
        raise Paused(told, resume=command(run)) from None


def _train_lora(config: TrainLora, held: contextlib.ExitStack) -> Telling[None]:
    began = time.monotonic()
    peers = Peers.here(memory.device_for(config.memory))
    resumed = yield from resumption(config, peers, held)
    if isinstance(resumed, Note):
        yield resumed
        return
    config = resumed.config if resumed else config
    given = bool(config.steps or config.passes)
    identity = model.identify(config.model)
    family = family_named(identity.family)
    config = refine(from_home(config), family.defaults, own_settings(config), task_settings(config, identity))
    for told in unused_settings(config, family):
        yield Warned(told)
    _check(config, identity, family)
    yield from check_word_early(config, identity, family)
    run = resumed.run if resumed else RunFolder.planned(config.data.all_folders[0].path, config.out)
    folds = 0 if resumed else config.validation.folds
    if folds and peers.of > 1:
        raise ConfigError("validation.folds: not done by several processes; ask one for it, and give --steps to all")

    device = memory.device_for(config.memory)
    memory.make_deterministic(config.memory, device)
    base = Base(identity, family, device, memory.dtype_for(config.memory, device))
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

    folded = None
    if folds and not config.dry_run:
        folded = yield from fold(config, base, examples, began)
        config = yield from as_long_as_it_helps(config, folded, given)
    planned = yield from outline(config, base, examples, held_out, peers)
    config = planned.config
    data = data_list(config, run.name, planned.trained, planned.held_out)
    changed = resumed.agreed(config, data, planned.images) if resumed else ()
    made = yield from make(planned, run, peers)
    if peers.leads:
        peers.wait()  # what the others need is in the cache

    if config.dry_run:
        if folds:
            yield Note(told_of_folds(planned, folds))
        if peers.leads:
            yield from dry_run(
                made.training, made.results, planned.seen, planned.held_out, planned.stream, made.protocol
            )
        elif config.probe:
            yield from _followed(made.training, planned.steps, None)
        return
    yield Note(f"training: {made}")
    if not peers.leads:
        yield from _followed(made.training, planned.steps, resumed.state if resumed else None)
        return

    settings = to_toml(config, without=OF_ONE_START)
    if resumed is None:
        run = run.create(settings, as_json(data))
        held.enter_context(lock(run.path))
    trackers = Trackers(config, run.path)
    held.callback(trackers.close)
    results, told_of = replace(made.results, run=run), str(folded) if folded else None
    course = Course(config, run, made.training, results, made.validator(), trackers, planned.steps, folded=told_of)
    course.began = began
    course.marked = folded.best.step if folded and folded.better else None
    held.enter_context(_pausing(run))
    try:
        if resumed:
            course.load(resumed.state)
            run.describe(settings, as_json(data))
            yield Resumed(run.path, course.training.step, course.steps, changed)
        as_begun = not (config.allow_changes and changed)
        yield Note(guarantee(config, device, same=course.same, as_begun=as_begun))
        if course.validator:
            yield Note(f"validation: {course.validator.protocol}")
        yield from trackers.start(course.training.step)
        if resumed is None:
            yield from show_inputs(run, planned.seen, config.mask)
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


def _check(config: TrainLora, identity: model.Identity, family: Family) -> None:
    """Settings that contradict the model, each other or what is installed."""
    if config.weighting.predictions.isdisjoint(family.predictions):
        told = (
            f"{config.weighting.kind} has no meaning for {family.title}, which predicts {', '.join(family.predictions)}"
        )
        raise ConfigError(f"weighting: {told}; use --weighting constant")
    if config.validation.folds and config.validation.off:
        raise ConfigError("validation.folds: nothing is judged with --validation.off; leave out one of the two")
    check_task(config.task.kind, identity, family.title)
    check_priors(config, identity)
    check_trackers(config.track)
