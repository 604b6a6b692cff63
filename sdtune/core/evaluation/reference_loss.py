"""The loss on references at fixed noises, with every LoRA at every strength and with the base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch

from sdtune.config import TrainLora, refine
from sdtune.core import memory, model
from sdtune.core.applied import Applied
from sdtune.core.autoencoder import native_side
from sdtune.core.data.cache import Store, key_of
from sdtune.core.data.conditioning import encode_captions, reading_for
from sdtune.core.data.encode import encode_images_of
from sdtune.core.data.folder import Example
from sdtune.core.data.images import decode
from sdtune.core.data.plain import Plain, see_plainly, some
from sdtune.core.evaluation.intervals import Array
from sdtune.core.evaluation.subject import Reference
from sdtune.core.families import Family, family_named
from sdtune.core.identity import Identity
from sdtune.core.relay import quietly, retold
from sdtune.core.reports import Note, Progress, Report, Telling, Warned
from sdtune.core.sampling import parts
from sdtune.core.sampling.fingerprint import of_model
from sdtune.core.sampling.rack import Rack, acting_on
from sdtune.core.validation import Protocol, Validator
from sdtune.evaluate_config import Protocol as Settings
from sdtune.tables import Data, Masking

Acting = tuple[Applied, ...]
LONGEST = 225  # tokens of a caption, as in training


@dataclass(frozen=True)
class _Base:
    """The model, and where it works."""

    identity: Identity
    family: Family
    device: torch.device
    dtype: torch.dtype


def losses_of(
    config: Settings,
    base_model: str,
    clip_skip: int | None,
    references: Sequence[Reference],
    sets: Sequence[Acting],
    store: Store,
) -> Telling[list[Array] | None]:
    """For each set of LoRAs the loss of each reference [m]; of all the same m references, chosen by content.

    None where there is nothing to measure it on: no reference has a caption and fits a bucket. What was measured before
    is in the store.
    """
    described = {one.sha256: one for one in references if one.caption is not None}
    chosen = some(described, config.losses)
    if not chosen:
        return None
    base = _base_of(config, base_model)
    weights = yield from of_model(base.identity)
    facts: tuple[object, ...] = (
        "loss on references",
        weights,
        config.levels,
        clip_skip,
        str(base.dtype),
        memory.maker_of(base.device),
    )
    facts += tuple((one.sha256, one.caption) for one in chosen)
    every = (base.family.denoiser, *base.family.text_encoders)
    keys = [key_of(*facts, acting_on(acting, every)) for acting in sets]
    found = {key: row for key in dict.fromkeys(keys) if (row := _kept(store, key)) is not None}
    missing = {key: acting for key, acting in zip(keys, sets, strict=True) if key not in found}
    if missing:
        measured = yield from _measured(config, base, clip_skip, chosen, list(missing.values()), store)
        if measured is None:
            return None
        for key, row in zip(missing, measured, strict=True):
            store.put(key, {"losses": torch.from_numpy(row)})
            found[key] = row
    return [found[key] for key in keys]


def _kept(store: Store, key: str) -> Array | None:
    try:
        return numpy.asarray(store.get(key)["losses"].double())
    except KeyError:
        return None


def _base_of(config: Settings, base_model: str) -> _Base:
    identity = model.identify(base_model)
    device = memory.device_for(config.memory)
    return _Base(identity, family_named(identity.family), device, memory.dtype_for(config.memory, device))


def _measured(
    config: Settings,
    base: _Base,
    clip_skip: int | None,
    references: Sequence[Reference],
    sets: Sequence[Acting],
    store: Store,
) -> Telling[list[Array] | None]:
    family, device = base.family, base.device
    usual = TrainLora(data=Data(folder=Path(".")))
    training = refine(usual, family.defaults)  # the loss that a training of this family takes where nothing is said
    pipe = parts.reader(base.identity, base.dtype)
    side = native_side(getattr(pipe, family.denoiser).config, pipe.vae, family.resolution)
    seen = quietly(see_plainly([_example(one) for one in references], side, training.buckets))
    if len(seen) < len(references):
        yield Warned(
            f"the loss is not measured on {of_references(len(references) - len(seen))}, too small for the model"
        )
    if not seen:
        return None
    told = yield from _told(pipe, base, clip_skip, [one.example.caption for one in seen], sets)
    process = family.process(pipe)
    pipe = parts.drawer(pipe, base.identity, base.dtype)
    encoded = yield from encode_images_of(seen, family, pipe.vae.to(device), store, Masking(use="off"), None)
    plain = [
        Plain(one.example.sha256, images.shapes[0][0], one.sizes[0], one.example.caption)
        for one, images in zip(seen, encoded, strict=True)
    ]
    pipe.vae.to("cpu")
    net = getattr(pipe, family.denoiser).to(device)
    memory.use_attention(net, config.memory.attention, device, base.dtype)
    rack = Rack(pipe, family, (family.denoiser,))
    protocol = Protocol(every=1, images=len(plain), timesteps=config.levels, noises=1, share=0.0)
    yield Note(f"loss on {of_references(len(plain))}, at {config.levels} noise levels")
    found: list[Array] = []
    passes = len(plain) * config.levels
    for number, acting in enumerate(sets):
        rack.use(acting)
        known = told[acting_on(acting, family.text_encoders)]
        validator = Validator(training, family, process, protocol, plain, plain, known, store, device)
        shown = partial(_among, before=number * passes, of=len(sets) * passes)
        rows = yield from retold(validator.losses(net, plain), shown)
        found.append(numpy.array([rows[one.sha256].mean() for one in plain]))
    return found


def _among(report: Report, before: int, of: int) -> Report:
    """Progress, counted among that of others."""
    return Progress("measuring losses", before + report.number, of) if isinstance(report, Progress) else report


def _told(
    pipe: Any, base: _Base, clip_skip: int | None, captions: Sequence[str], sets: Sequence[Acting]
) -> Telling[dict[str, Any]]:
    """{which LoRAs act on the text encoders: what the denoiser is told of a caption}."""
    family = base.family
    rack = Rack(pipe, family, family.text_encoders)
    apart = {acting_on(acting, family.text_encoders): acting for acting in sets}
    texts = list(dict.fromkeys(captions))
    found = {}
    for name, acting in apart.items():
        rack.use(acting)
        reading = reading_for(
            texts, family, pipe, longest=LONGEST, clip_skip=clip_skip, weighted=False, thing="caption"
        )
        told = yield from encode_captions(texts, family, pipe, base.device, reading, Store(None, 2**31))
        found[name] = told
    rack.use(())
    return found


def _example(one: Reference) -> Example:
    """A reference as training would see it."""
    decoded = decode(one.path, str(one.path))
    return Example(one.path, (one.caption or "",), decoded.width, decoded.height, sha256=one.sha256)


def of_references(references: int) -> str:
    """ "1 reference", "7 references" """
    return "1 reference" if references == 1 else f"{references} references"
