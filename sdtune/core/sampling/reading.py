"""Prompts as the denoiser is told of them: each text encoded once, and which of them holds at which step."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sdtune.core.data.cache import Store, key_of
from sdtune.core.data.conditioning import (
    CHUNK,
    LONGEST,
    NO_NUMBERS,
    are_numbers,
    entry,
    is_whole,
    tell_of_damaged,
)
from sdtune.core.data.weights import HEAVIEST, weighted
from sdtune.core.drawing import Guide
from sdtune.core.families import Family
from sdtune.core.reports import Progress, Telling
from sdtune.core.sampling.grammar import Schedule, check, must_be_text, schedule
from sdtune.errors import ConfigError, DataError

A1111 = "a1111"
_SPACE = re.compile(r"\s")


@dataclass(frozen=True)
class Script:
    """The texts of a picture by step, and the chunks of 75 tokens in which all of them are read.

    These depend on the picture alone, so that it is the same whatever is drawn beside it.
    """

    prompt: Schedule
    negative: Schedule
    chunks: int

    @property
    def texts(self) -> dict[str, None]:
        """Each text once, in order."""
        return dict.fromkeys(text for _, text in (*self.prompt, *self.negative))


@dataclass(frozen=True)
class Scripted:
    """What the text encoders made of every text of some scripts."""

    keys: Mapping[tuple[str, int], str]
    """{(text, chunks): where it lies in the store}"""
    store: Store

    def guides(self, script: Script) -> tuple[Guide, Guide]:
        """(prompt, negative) as the denoiser is told; equal texts share their tensors."""
        told = {text: entry(self.store, self.keys[text, script.chunks]) for text in script.texts}
        prompt, negative = (
            tuple((step, told[text]) for step, text in texts) for texts in (script.prompt, script.negative)
        )
        return prompt, negative


def script_of(
    prompt: str,
    negative: str,
    steps: int,
    family: Family,
    pipe: Any,
    *,
    syntax: str,
    clip_skip: int | None,
    where: str,
) -> Script:
    """A prompt without <lora:...> and its negative; ConfigError where one is too long or does not parse.

    As in A1111, all texts of a picture are read in as many chunks as the longest of them needs.
    """
    family.check_clip_skip(pipe, clip_skip)
    told, chunks = _schedule(prompt, steps, family, pipe, syntax, where)
    unwanted, more = _schedule(negative, steps, family, pipe, syntax, f"{where}, negative")
    return Script(told, unwanted, max(chunks, more))


def encode(
    scripts: Sequence[Script],
    family: Family,
    pipe: Any,
    device: torch.device,
    *,
    syntax: str,
    clip_skip: int | None,
    store: Store,
    acting: str,
) -> Telling[Scripted]:
    """Encodes every text once, telling how many; `acting` stands for the LoRAs that act on the text encoders now.

    One by one on every device, so that the last digits do not depend on the others. The store is of this model alone.
    """
    facts = (family.name, clip_skip, syntax, acting)
    keys = {
        (text, script.chunks): key_of("prompt", text, script.chunks, *facts)
        for script in scripts
        for text in script.texts
    }
    damaged = len(store.damaged)
    missing = [one for one, key in keys.items() if not is_whole(store, key)]
    yield from tell_of_damaged(len(store.damaged) - damaged)
    encoders = [getattr(pipe, name) for name in family.text_encoders]
    for encoder in encoders:
        if missing and encoder is not None:
            encoder.to(device)
    began = time.monotonic()
    for number, (text, chunks) in enumerate(missing, 1):
        with torch.no_grad():
            told = family.encode_captions(pipe, [text], chunks=chunks, clip_skip=clip_skip, breaks=syntax == A1111)
        one = {name: value[0].cpu() for name, value in told.items()}
        if not are_numbers(one):
            raise DataError(f'"{text[:60]}": the text encoders make no numbers of it; {NO_NUMBERS}')
        store.put(keys[text, chunks], one)
        speed = number / (time.monotonic() - began)
        yield Progress("encoding prompts", len(keys) - len(missing) + number, len(keys), speed)
    return Scripted(keys, store)


def _schedule(text: str, steps: int, family: Family, pipe: Any, syntax: str, where: str) -> tuple[Schedule, int]:
    """What of it holds at which step, and the chunks that the longest of these texts needs."""
    breaks = syntax == A1111
    if breaks:
        check(text, where)
        told = schedule(_SPACE.sub(" ", text), steps)
    else:
        must_be_text(text, where)
        told = ((steps, text),)
    texts = list(dict.fromkeys(one for _, one in told))
    for one in texts if breaks else ():
        _must_weigh_sanely(one, where)
    longest = min(LONGEST, family.most_tokens(pipe) or LONGEST)
    count = max(family.count_tokens(pipe, texts, breaks=breaks))
    if count > longest:
        raise ConfigError(f"{where}: {count} tokens, and {longest} are the most that can be read; shorten the prompt")
    chunks = max(family.count_chunks(pipe, texts, breaks=breaks))
    if chunks > LONGEST // CHUNK:
        most = f"{LONGEST // CHUNK} are the most that can be read"
        raise ConfigError(
            f"{where}: {chunks} chunks of {CHUNK} tokens, and {most}; shorten the prompt, or break it less"
        )
    return told, chunks


def _must_weigh_sanely(text: str, where: str) -> None:
    heaviest = max((weight for _, weight in weighted(text)), key=abs)
    if not abs(heaviest) <= HEAVIEST:
        raise ConfigError(f"{where}: its brackets come to a weight of {heaviest:g}; {HEAVIEST} is the most")
