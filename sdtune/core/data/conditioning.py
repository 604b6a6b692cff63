"""Conditioning: what the denoiser is told of each caption, by its own argument names, encoded once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sdtune.core.data.cache import Store, identity_of, key_of
from sdtune.core.data.weights import HEAVIEST
from sdtune.core.data.weights import weighted as by_weight
from sdtune.core.families import Family
from sdtune.core.memory import maker_of
from sdtune.core.reports import Progress, Telling, Warned
from sdtune.core.room import one_by_one
from sdtune.errors import DataError

Conditioning = dict[str, Tensor]
CHUNK = 75  # tokens that CLIP reads at once, beside its begin and end
AT_ONCE = {"cuda": 16, "cpu": 1}
"""captions; on the CPU one, so that the last digits do not depend on which others were encoded with it"""
NAMED = 3
NO_NUMBERS = "use --memory.precision bf16 or fp32 (T5 overflows fp16), or check the model's text encoders"
PIXELS = frozenset({"time_ids"})
"""arguments of denoisers that tell sizes and crops"""
LONGEST = 750
"""tokens of a caption at most, as --captions.longest says"""


@dataclass(frozen=True)
class Reading:
    """How captions are read."""

    chunks: int = 1
    """of 75 tokens that every caption is given, empty ones among them"""
    clip_skip: int | None = None
    weighted: bool = False
    """whether brackets weigh words"""


@dataclass(frozen=True)
class Told:
    """The conditioning of every caption of a run."""

    keys: Mapping[str, str]
    """{caption: where its conditioning lies in the store}"""
    store: Store

    def __call__(self, caption: str) -> Conditioning:
        """{argument name of the denoiser: [...]} in the text encoders' own dtype, on the CPU."""
        return entry(self.store, self.keys[caption])


def reading_for(
    captions: Sequence[str],
    family: Family,
    pipe: Any,
    *,
    longest: int,
    clip_skip: int | None,
    weighted: bool,
    thing: str = "prompt",
    name_of: Callable[[str], str] | None = None,
    remedy: str = "",
) -> Reading:
    """As many chunks as the longest caption needs; raises DataError where one has over `longest` tokens.

    In messages they are called a `thing`, and as `name_of` says; `remedy` is a command that shortens them to {longest}.
    """
    if weighted:
        _must_weigh_sanely(captions)
    longest = min(longest, family.most_tokens(pipe) or longest)
    counts = family.count_tokens(pipe, captions, weighted=weighted)
    over = [(caption, count) for caption, count in zip(captions, counts, strict=True) if count > longest]
    if over:
        most = max(count for _, count in over)
        called = name_of or (lambda _: "")
        named = "; ".join(f'{called(one)} "{one[:60]}..." ({count})'.strip() for one, count in over[:NAMED])
        more = f" and {len(over) - NAMED} more" if len(over) > NAMED else ""
        have = f"1 {thing} has" if len(over) == 1 else f"{len(over)} {thing}s have"
        wanted = -(-most // CHUNK) * CHUNK
        room = LONGEST if family.most_tokens(pipe) is None else longest
        it = "it" if len(over) == 1 else "them"
        how = f" ({remedy.format(longest=longest)})" if remedy else ""
        else_more = f", or read more with --captions.longest {wanted}" if remedy and wanted <= room else ""
        raise DataError(f"{have} over {longest} tokens: {named}{more}; shorten {it}{how}{else_more}")
    long = [caption for caption, count in zip(captions, counts, strict=True) if count > CHUNK]
    chunks = family.count_chunks(pipe, long, weighted=weighted) if long else [1]
    return Reading(max(chunks), clip_skip, weighted)


def _must_weigh_sanely(captions: Sequence[str]) -> None:
    """Stop at a weight from which nothing but NaN could come."""
    for caption in captions:
        heavy = next((weight for _, weight in by_weight(caption) if not abs(weight) <= HEAVIEST), None)
        if heavy is not None:
            raise DataError(f'"{caption[:60]}": a weight of {heavy:g}; give one from -{HEAVIEST} to {HEAVIEST}')


def reader_of(family: Family, pipe: Any) -> tuple[str, ...]:
    """What stands for the weights of the text encoders and for their tokenizers."""
    parts = [part for part in family.text_encoders if getattr(pipe, part) is not None]
    tokenizers = (getattr(pipe, part.replace("text_encoder", "tokenizer")) for part in parts)
    return (*(identity_of(getattr(pipe, part)) for part in parts), *(_words_of(one) for one in tokenizers))


def encode_captions(
    captions: Sequence[str],
    family: Family,
    pipe: Any,
    device: torch.device,
    reading: Reading,
    store: Store,
    reader: tuple[str, ...] | None = None,
) -> Telling[Told]:
    """Encodes what the store lacks, telling how many; the text encoders are left on the device.

    `reader` is that of `reader_of`, where the caller has it: hashing the weights takes a second or more.
    """
    facts: tuple[object, ...] = (family.name, reading.chunks, reading.clip_skip, reading.weighted)
    if store.folder:
        facts += (reader or reader_of(family, pipe), maker_of(device))
    keys = {caption: key_of("caption", caption, *facts) for caption in captions}
    damaged = len(store.damaged)
    missing = [caption for caption, key in keys.items() if not is_whole(store, key)]
    yield from tell_of_damaged(len(store.damaged) - damaged)
    if missing:
        for name in family.text_encoders:
            if getattr(pipe, name) is not None:
                getattr(pipe, name).to(device)
    began = time.monotonic()
    at_once = AT_ONCE.get(device.type, 1)
    for start in range(0, len(missing), at_once):
        chunk = missing[start : start + at_once]
        for caption, told in zip(chunk, one_by_one(partial(_read, family, pipe, reading), chunk), strict=True):
            if not are_numbers(told):
                raise DataError(f'"{caption[:60]}": the text encoders make no numbers of it; {NO_NUMBERS}')
            store.put(keys[caption], told)
        done = start + len(chunk)
        speed = done / (time.monotonic() - began)
        yield Progress("encoding captions", len(keys) - len(missing) + done, len(keys), speed)
    return Told(keys, store)


def _read(family: Family, pipe: Any, reading: Reading, captions: Sequence[str]) -> list[Conditioning]:
    with torch.no_grad():
        told = family.encode_captions(
            pipe, captions, chunks=reading.chunks, clip_skip=reading.clip_skip, weighted=reading.weighted
        )
    cpu = {name: value.cpu() for name, value in told.items()}
    return [{name: value[index].clone() for name, value in cpu.items()} for index in range(len(captions))]


def are_numbers(tensors: Mapping[str, Tensor]) -> bool:
    """Whether all of them are, without NaN or infinity."""
    return all(bool(one.isfinite().all()) for one in tensors.values())


def _words_of(tokenizer: Any) -> str:
    """A hash of how a tokenizer reads: its words and merges, its marks, its padding."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    marks = sorted((name, str(mark)) for name, mark in tokenizer.special_tokens_map.items())
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return key_of(words, repr(marks), repr(ids), str(tokenizer.padding_side))


def let_go(family: Family, pipe: Any) -> None:
    """Frees the text encoders' memory."""
    for name in family.text_encoders:
        setattr(pipe, name, None)


def entry(store: Store, key: str) -> Conditioning:
    """What was put into the store; DataError where it is there no more."""
    try:
        return store.get(key)
    except KeyError:
        told = f"{store.folder}: what was encoded for this run is gone or damaged ({key[:8]})"
        raise DataError(f"{told}; start the run again, which encodes it anew") from None


def is_whole(store: Store, key: str) -> bool:
    """Whether an entry is there, undamaged and all numbers."""
    if key not in store:
        return False
    try:
        return are_numbers(store.get(key))
    except KeyError:
        return False


def tell_of_damaged(count: int) -> Telling[None]:
    """That so many entries are encoded again."""
    if count:
        told = "1 damaged entry, which is" if count == 1 else f"{count} damaged entries, which are"
        yield Warned(f"cache: {told} encoded again")


def moved(conditioning: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> Conditioning:
    """On a device and in the denoiser's type, but for numbers of pixels, which bf16 would round."""
    return {
        name: value.to(device) if name in PIXELS else value.to(device, dtype) for name, value in conditioning.items()
    }


def stack(conditionings: Sequence[Mapping[str, Tensor]]) -> Conditioning:
    """{name: [...]} of several as {name: [B, ...]}."""
    return {name: torch.stack([one[name] for one in conditionings]) for name in conditionings[0]}
