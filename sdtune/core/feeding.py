"""Feeding: all that a training learns from, made of its examples before the denoiser is there."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psutil
import torch

from sdtune.choices.tasks import Inpainting
from sdtune.config import TrainLora
from sdtune.core.data.batches import Batches, said_of
from sdtune.core.data.cache import Store
from sdtune.core.data.cache_folder import folder_of
from sdtune.core.data.conditioning import Conditioning, encode_captions, let_go, reader_of, reading_for
from sdtune.core.data.encode import Encoded, Holes, encode_images_of
from sdtune.core.data.folder import in_command, triggers_of, with_trigger
from sdtune.core.data.plain import Plain, plain, some
from sdtune.core.data.plan import Stream
from sdtune.core.data.seen import Seen
from sdtune.core.data.wordings import wordings
from sdtune.core.embedding import add_word
from sdtune.core.everyday import PROMPTS
from sdtune.core.families import Family
from sdtune.core.live_text import LiveText
from sdtune.core.reports import Note, Telling, Warned
from sdtune.core.step_losses import Lessons
from sdtune.errors import ConfigError

FREE_SHARE = 4  # of the free memory, this part of it holds what is encoded


@dataclass(frozen=True)
class Fed:
    """What a training learns from."""

    batches: Batches
    told: Callable[[str], Conditioning]
    """what the denoiser is told of a prompt, now"""
    everyday: Sequence[str]
    """prompts for keeping the base"""
    generic: Sequence[Conditioning]
    """what they tell the base's denoiser"""
    live: LiveText | None
    """text encoders that are trained"""
    held_out: Sequence[Plain]
    """images for validation"""
    watched: Sequence[Plain]
    """as many of the trained ones, to compare with"""
    told_of_images: Callable[[str], Conditioning]
    """what the denoiser is told of the captions of both, now"""

    @property
    def lessons(self) -> Lessons:
        """What the training loop is given of it, beside the batches."""
        if self.live is None:
            return Lessons(self.generic)
        parts = tuple(self.live.parts.values())
        everyday = self.everyday if parts else ()  # a new word alone changes nothing of them
        return Lessons(self.generic, everyday, self.live.read, tuple(self.live.groups()), parts)


def store_for(config: TrainLora) -> Store:
    """Where encoded images and captions are kept."""
    told = config.cache
    room = int(told.memory * 1e9) if told.memory else psutil.virtual_memory().available // FREE_SHARE
    return Store(folder_of(told), room)


def feed(
    config: TrainLora,
    family: Family,
    pipe: Any,
    seen: Sequence[Seen],
    stream: Stream,
    prompts: Sequence[str],
    device: torch.device,
    held_out: Sequence[Seen] = (),
) -> Telling[Fed]:
    """Encodes images and captions where the cache lacks them, and lets the encoders go that are needed no more.

    `held_out` are those that validation looks at, seen plainly; as many of the trained ones are chosen beside them.
    What is trained on is encoded and read as if there were none.
    """
    store = store_for(config)
    watched = _watched(seen, len(held_out), config)
    holes = Holes(config.task.masks, config.task.full) if isinstance(config.task, Inpainting) else None
    images = yield from encode_images_of(seen, family, pipe.vae.to(device), store, config.mask, holes)
    judged = [*held_out, *watched]
    judged_images = yield from encode_images_of(judged, family, pipe.vae, store, config.mask, holes)
    pipe.vae.to("cpu")

    fixed = [*prompts, "", config.samples.negative]
    everyday = _everyday(config)
    triggers = triggers_of(config)
    every = said_of(images, config.captions, triggers)
    live = config.text.train or config.token.word is not None
    if live:
        yield from _tell_of_live(config)
    if everyday:
        told_of = f"{len(everyday)} prompt" + ("" if len(everyday) == 1 else "s")
        yield Note(f"keep-base: {config.keep_base.weight:g} x the distance to the base's own answer to {told_of}")
    if config.token.word:
        add_word(pipe, family, config.token.word, config.token.vectors)

    count = partial(
        reading_for,
        family=family,
        pipe=pipe,
        longest=config.captions.longest,
        clip_skip=config.text.clip_skip,
        weighted=config.captions.weights,
    )
    reading = count([*every, *everyday], thing="caption", name_of=_names_in(seen, config), remedy=_shorter(config))
    of_prompts = count(fixed)  # by themselves, as they are read where the LoRA is used
    shown_plainly = [_plain(*one, config) for one in zip(judged, judged_images, strict=True)]
    judged_texts = list(dict.fromkeys(one.caption for one in shown_plainly))
    of_judged = reading
    if judged_texts:
        of_judged = count(judged_texts, thing="caption", name_of=_names_in(held_out, config), remedy=_shorter(config))
    of_judged = replace(of_judged, chunks=max(reading.chunks, of_judged.chunks))  # as in training, and more if need be
    texts = [*everyday, *([] if live else every)]
    reader = reader_of(family, pipe) if store.folder else None
    told = yield from encode_captions(texts, family, pipe, device, reading, store, reader)
    shown = yield from encode_captions([] if live else fixed, family, pipe, device, of_prompts, store, reader)
    texts = [] if live else judged_texts
    told_of_judged = yield from encode_captions(texts, family, pipe, device, of_judged, store, reader)
    trained = LiveText(pipe, family, config, device, reading.chunks) if live else None
    if trained is None:
        let_go(family, pipe)
    masked = len({image.name for image in images if any(version.mask for shape in image.shapes for version in shape)})
    if masked:
        yield Note(f"masks: {masked} of {len(images)} images; what they leave out counts {config.mask.floor:g}")
    yield from _tell_of_store(config, store)
    if device.type == "cuda":
        store.to(device)
    now = None if trained else told
    batches = Batches(images, stream, store, config.captions, seed=config.seed, told=now, triggers=triggers)
    return Fed(
        batches,
        _now(trained, of_prompts.chunks) if trained else shown,
        everyday,
        [told(text) for text in everyday],
        trained,
        shown_plainly[: len(held_out)],
        shown_plainly[len(held_out) :],
        _now(trained, of_judged.chunks) if trained else told_of_judged,
    )


def _watched(seen: Sequence[Seen], count: int, config: TrainLora) -> list[Seen]:
    """So many images of those to learn, seen plainly."""
    learned = {one.example.sha256: one for one in reversed(seen) if not one.example.prior and one.example.weight}
    return [plain(one.example, one.sizes[0], config.buckets) for one in some(learned, count)]


def _plain(one: Seen, encoded: Encoded, config: TrainLora) -> Plain:
    caption = plain_wording(one.example.caption, config)
    return Plain(one.example.sha256, encoded.shapes[0][0], one.sizes[0], caption)


def _names_in(seen: Sequence[Seen], config: TrainLora) -> Callable[[str], str]:
    """The file of the last image that a text is said of, "" where it is of none."""

    def name_of(text: str) -> str:
        saying = (one for one in reversed(seen) if text in _wordings_of(one, config))
        return next((one.example.path.name for one in saying), "")

    return name_of


def _wordings_of(one: Seen, config: TrainLora) -> list[str]:
    if one.example.prior:
        return list(one.example.captions)
    triggers = triggers_of(config)
    return [text for caption in one.example.captions for text in wordings(caption, config.captions, triggers)]


def _shorter(config: TrainLora) -> str:
    """A command that shortens captions to {longest}."""
    folder, name = in_command(config.data.all_folders[0].path), shlex.quote(config.model)
    return f"sdtune caption {folder} --mode edit --max-tokens {{longest}} --model {name}"


def _everyday(config: TrainLora) -> list[str]:
    """Prompts that keep the base, none of which says the new word, of which the base knows nothing."""
    if not config.keep_base.weight:
        return []
    word = config.token.word
    known = [one for one in config.keep_base.prompts or PROMPTS if not word or with_trigger(one, word) != one]
    if not known or (config.keep_base.prompts and len(known) < len(config.keep_base.prompts)):
        raise ConfigError(
            f"keep_base.prompts: one says the new word {word}, which the base does not know; leave it out"
        )
    return known


def plain_wording(caption: str, config: TrainLora) -> str:
    """A caption as a prompt for samples: one of its wordings."""
    return wordings(caption, config.captions, triggers_of(config))[0]


def _now(live: LiveText, chunks: int) -> Callable[[str], Conditioning]:
    """What the denoiser is told of a prompt by text encoders as far as they have come."""

    def told(prompt: str) -> Conditioning:
        for part in live.parts.values():
            part.eval()
        with torch.no_grad():
            return {name: value[0].cpu() for name, value in live.read([prompt], chunks).items()}

    return told


def _tell_of_store(config: TrainLora, store: Store) -> Telling[None]:
    if store.why_not:
        yield Warned(f"cache: cannot be written ({store.why_not}), so all is kept in memory for this run alone")
        return
    held, size = store.held / 1e6, store.on_disk / 1e6
    if config.cache.place == "memory":
        yield Note(f"cache: {store.entries} entries, {held:.0f} MB in memory")
        return
    new = f", {store.made} of them new" if store.made else ", all found there"
    where = "all in memory" if store.held >= 0.9 * store.on_disk else f"{held:.0f} MB in memory, the rest read ahead"
    yield Note(f"cache: {store.entries} entries{new}, {size:.0f} MB in {store.folder}, {where}")


def _tell_of_live(config: TrainLora) -> Telling[None]:
    text, token = config.text, config.token
    second = "" if text.lr_2 is None else f", the second at {text.lr_2:.1e}"
    told = f"trained too, at {text.lr:.1e}{second}" if text.train else "read at each step"
    yield Note(f"text encoders: {told}; they stay in memory")
    if token.word:
        vectors = "1 vector" if token.vectors == 1 else f"{token.vectors} vectors"
        start = f'"{token.init}"' if token.init else "the mean of all words"
        put = ", put before captions that lack it" if config.data.trigger == token.word else ""
        yield Note(f'new word: "{token.word}", {vectors} learned at {token.lr:.1e} from {start}{put}')
