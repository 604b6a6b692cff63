"""Prior images: the class as the base model draws it, so that training keeps it beside the subject."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256
from itertools import groupby
from pathlib import Path

from PIL import Image

from sdtune.config import Sample, TrainLora, drawing_settings, refine
from sdtune.core import hub
from sdtune.core.data.cache_folder import PRIORS, folder_of
from sdtune.core.data.folder import Example, triggers_of, with_trigger
from sdtune.core.data.image_file import contents
from sdtune.core.families import Family
from sdtune.core.identity import Identity
from sdtune.core.picture_text import plain, quoted
from sdtune.core.reports import Drawn, Note, Progress, Saved, Telling, Warned
from sdtune.errors import ConfigError, DataError

FORMAT = 1
"""of the key; a higher one draws everything anew"""
READ = (".safetensors", ".bin", ".json", ".txt", ".model")
"""what a model is read from; other files in its folder change nothing"""
SMALL = 10**6  # bytes: configs and tokenizers
OWN = "draw some with another model (sdtune sample) and give their folder in [[data.folders]], with prior = true"


def check_priors(config: TrainLora, identity: Identity) -> None:
    """Raises ConfigError where prior images are asked for that cannot be drawn; to be called at the door."""
    if config.prior.count and not config.prior.prompt:
        wanted = 'what --prior shall draw, as in: --class-prompt "a dog"'
        raise ConfigError(f"prior.prompt (--class-prompt): not given; {wanted}")
    if config.prior.prompt and not config.prior.count:
        wanted = "--prior says how many pictures of it to draw, as in: --prior 200"
        raise ConfigError(f"prior.count (--prior): not given; {wanted}, or leave --class-prompt out")
    if config.prior.count and identity.inpainting:
        raise ConfigError(f"prior.count (--prior): {identity.name} draws into pictures alone; {OWN}")


def draw_priors(config: TrainLora, identity: Identity, family: Family) -> Telling[list[Path]]:
    """The prior images by their seeds, 0 to count - 1; those that an earlier run has drawn are taken from the cache."""
    check_priors(config, identity)
    if not config.prior.count:
        return []
    assert config.prior.prompt is not None, "checked at the door"
    settings = _settings(config)
    folder = yield from _folder(config, _key(identity, settings))
    wanted = range(config.prior.count)
    size = (settings.width, settings.height) if settings.width and settings.height else None
    there = drawn_in(folder, config.prior.prompt, identity.name, size)
    missing = [seed for seed in wanted if seed not in there]
    told = f'prior images of "{config.prior.prompt}"'
    if others := _others(folder, there):
        yield Note(f"{told}: {others} in the cache damaged or of another size, removed")
    if trigger := _trigger_in(config):
        yield Warned(f'--class-prompt "{config.prior.prompt}": holds the trigger {trigger}, which the class is without')
    if not missing:
        yield Note(f"{told}: {len(wanted)} in the cache")
        return [there[seed] for seed in wanted]
    yield Note(f"{told}: {len(missing)} of {len(wanted)} are to be drawn by {identity.name} ({family.title})")
    for first, count in _runs(missing):
        for report in drawing(settings.model_copy(update={"out": folder, "seed": first, "count": count})):
            if isinstance(report, Drawn):
                there[report.seed] = report.path
                yield Progress("drawing prior images", sum(seed in there for seed in wanted), len(wanted))
    return [there[seed] for seed in wanted]


def as_examples(priors: Sequence[Path], config: TrainLora) -> list[Example]:
    """Drawn images as what training takes, each told by the class prompt."""
    captions = config.task.captions_of((config.prior.prompt or "",), "")
    return [_example(path, captions, config.prior.weight) for path in priors]


def drawing(settings: Sample) -> Telling[None]:
    """Draws one prompt's pictures, telling each; the sheet of all, which is no image to train on, is removed."""
    from sdtune.core.sample import sample

    for report in sample(settings):
        if isinstance(report, Saved):
            report.path.unlink(missing_ok=True)
        elif isinstance(report, Drawn | Note):
            yield report


def drawn_in(folder: Path, prompt: str, model_name: str, size: tuple[int, int] | None = None) -> dict[int, Path]:
    """{seed: picture} of those in a folder that this model has drawn of this prompt, whole and of their size.

    `size`: (width, height) in pixels; None: what each says of itself.
    """
    found, prompts, models = {}, (prompt, plain(prompt)), (model_name, quoted(model_name))
    for path in _pictures(folder):
        with contextlib.suppress(Exception), Image.open(path) as image:  # damage shows itself in many ways
            told, _, settings = str(image.info.get("parameters", "")).rpartition("\n")
            by_model = any(f", Model: {name}, Version: " in settings for name in models)
            is_ours = told.split("\n")[0] in prompts and by_model
            drawn = re.search(r"Seed: (\d+), Size: (\d+)x(\d+), ", settings)
            if is_ours and drawn and image.size == (size or (int(drawn[2]), int(drawn[3]))):
                image.load()
                found[int(drawn[1])] = path
    return found


def _pictures(folder: Path) -> list[Path]:
    """All but those that are being written, which are hidden."""
    return sorted(path for path in folder.glob("*.png") if not path.name.startswith("."))


def _others(folder: Path, there: Mapping[int, Path]) -> int:
    """Removes what lies in the cache beside pictures that can be used; returns how many files that were."""
    others = [path for path in _pictures(folder) if path not in there.values()]
    for path in others:
        path.unlink(missing_ok=True)
    return len(others)


def _settings(config: TrainLora) -> Sample:
    """How they are drawn, in full."""
    assert config.prior.prompt is not None, "checked at the door"
    side = config.data.resolution
    usual = Sample(
        prompt=(config.prior.prompt,),
        syntax="plain",  # as captions are read
        model=config.model,
        width=side,
        height=side,
        memory=config.memory,
    )
    return refine(usual, drawing_settings(config.model))


def _key(identity: Identity, settings: Sample) -> str:
    """What the pictures depend on, but for their seeds: 40 hex digits."""
    from sdtune.core import memory

    how = settings.model_dump(mode="json", include={"prompt", "negative", "steps", "guidance", "sampler"})
    device = memory.device_for(settings.memory)
    numbers = (device.type, str(memory.dtype_for(settings.memory, device)))
    told = [FORMAT, identity.name, identity.location, stamp(identity), settings.width, settings.height, how, numbers]
    return blake2b(json.dumps(told, sort_keys=True).encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


def stamp(identity: Identity) -> list[tuple[str, ...]]:
    """What tells a model from another at its place.

    On the hub its commit; here the bytes of its small files, and sizes and times of change of its weights.
    """
    if identity.source == "hub":
        folder = hub.cached(identity.location)
        return [(folder.name,)] if folder else []
    place = Path(identity.location)
    # Where parts are links, what lies in them counts.
    files = sorted([*place.glob("*"), *place.glob("*/*")]) if place.is_dir() else [place]
    return [
        (os.path.relpath(file, place), *_stamp_of(file)) for file in files if file.suffix in READ and file.is_file()
    ]


def _stamp_of(file: Path) -> tuple[str, ...]:
    """A small file's bytes, else how many they are and when they changed."""
    found = file.stat()
    if found.st_size < SMALL:
        return (sha256(file.read_bytes()).hexdigest(),)
    return (str(found.st_size), str(found.st_mtime_ns))


def _folder(config: TrainLora, key: str) -> Telling[Path]:
    """Where they are kept; where nothing can be, a folder that goes when the process ends."""
    if cache := folder_of(config.cache):
        folder = cache / PRIORS / key
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)  # used today
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
            reason = "Permission denied"
        except OSError as error:
            reason = error.strerror or str(error)
        yield Warned(f"{folder}: cannot be written ({reason}), so prior images are drawn for this run alone")
    folder = Path(tempfile.mkdtemp(prefix="sdtune-priors-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _runs(seeds: Sequence[int]) -> list[tuple[int, int]]:
    """(first, how many) of seeds that follow each other: [0, 1, 5] -> [(0, 2), (5, 1)]."""
    groups = groupby(enumerate(seeds), key=lambda one: one[1] - one[0])
    runs = [[seed for _, seed in group] for _, group in groups]
    return [(run[0], len(run)) for run in runs]


def _trigger_in(config: TrainLora) -> str | None:
    prompt = config.prior.prompt or ""
    return next((one for one in triggers_of(config) if with_trigger(prompt, one) == prompt), None)


def _example(path: Path, captions: tuple[str, ...], weight: float) -> Example:
    try:
        data = contents(path, str(path))
    except DataError:
        if path.exists():
            raise
        raise DataError("prior images in the cache were removed meanwhile; run again") from None
    with Image.open(path) as image:
        width, height = image.size
    return Example(path, captions, width, height, weight=weight, prior=True, sha256=sha256(data).hexdigest())
