"""The command `sdtune lora resize`: a LoRA of any network as a plain one, of a lower rank, and what that loses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from sdtune.core.adapters import Adapter, LoraModule
from sdtune.core.adapters.difference import Difference
from sdtune.core.adapters.shapes import MAX_RANK
from sdtune.core.blending import rank_of
from sdtune.core.header import read_header
from sdtune.core.home import expanded
from sdtune.core.lora_facts import spread
from sdtune.core.lora_place import lora_at
from sdtune.core.lora_reader import read
from sdtune.core.lora_updates import Bases, family_for, in_order, inside_of, is_matrix, made_plain, update_of
from sdtune.core.lora_writer import precision_of
from sdtune.core.low_rank import Limits, spectrum
from sdtune.core.made_lora import write_made
from sdtune.core.memorisation import filtered
from sdtune.core.out_file import check_models_stay, check_out
from sdtune.core.reports import Note, Progress, Telling
from sdtune.core.truncation import Loss, Losses
from sdtune.errors import ConfigError, LoraError
from sdtune.lora_config import LoraResize


def resize_lora(config: LoraResize) -> Telling[None]:
    """Writes the smaller LoRA, and tells what each block has lost."""
    path, out = lora_at(config.lora), expanded(config.out)
    check_out(out, config.overwrite, path)
    if config.filter_memorisation and config.model is None:
        raise ConfigError("--filter-memorisation: compares with the base model; give it with --model")
    lora = read(path)
    limits, plain = Limits(config.rank, config.share, config.ratio), made_plain(lora)
    if limits == Limits() and config.filter_memorisation is None and not plain:
        raise ConfigError("lora resize: say how small: --rank 8, --share 0.95 or --ratio 20")
    bases = Bases(config.model)
    check_models_stay(out, bases.identity)
    family = family_for({str(path): lora}, bases)
    if plain:
        yield Note(plain)
    losses = Losses()
    modules: dict[str, Adapter] = {}
    names = in_order(lora.modules)
    for number, name in enumerate(names, 1):
        modules[name], losses.modules[name] = _resized(config, path, name, lora.modules[name], bases, limits)
        yield Progress("resizing", number, len(names))
    before = spread(loss.before for loss in losses.modules.values() if loss.before)
    after = spread(loss.rank for loss in losses.modules.values() if loss.rank)
    made = f"rank {before} to {after}" if before != after else f"rank {after}"
    if config.filter_memorisation:
        made += f", memorisation filtered by {config.filter_memorisation:g}"
    if after == before and losses.whole() is None and not plain:
        yield Note(f"nothing is taken away: {_why(config, before)}")
    dtype = config.dtype or precision_of(read_header(path, LoraError))
    smaller = replace(lora, modules=modules, family=family)
    yield from write_made(out, smaller, config.form, dtype, made, losses)


def _why(config: LoraResize, before: str) -> str:
    """What a LoRA that stays as it is has been asked for."""
    if config.rank is not None and before.isdecimal() and config.rank > int(before):
        return f"its rank is {before}, below --rank {config.rank}; give a lower one"
    return f"its rank is {before}, and all of it is within what was asked for; give a lower --rank or --share"


def _resized(
    config: LoraResize, path: Path, name: str, adapter: Adapter, bases: Bases, limits: Limits
) -> tuple[Adapter, Loss]:
    """One module, and what it loses; norms, which have no rank, stay as they are."""
    if not is_matrix(adapter) or (isinstance(adapter, Difference) and limits == Limits()):
        return adapter, Loss(0, 0, float(torch.linalg.vector_norm(adapter.delta())), 0.0)
    update = update_of(adapter, bases.fitting(name, adapter, str(path)))
    found = spectrum(update, MAX_RANK if config.filter_memorisation else config.rank or MAX_RANK)
    norm, before, values = found.norm, rank_of(update, found), found.values
    if config.filter_memorisation:
        base = bases.changed_by(name, adapter, str(path))
        found, values = filtered(found.first(found.significant()), base, config.filter_memorisation)
    kept = found.first(limits.count(found))
    number = len(kept.values)
    gone = torch.cat([values[:number] - kept.values, values[number:]])
    loss = Loss(before, number, norm, math.hypot(float(torch.linalg.vector_norm(gone)), found.rest))
    if isinstance(adapter, LoraModule) and number == before and not gone.any():
        return adapter, loss
    return kept.product().module(inside_of(name, [adapter], update.shape[1])), loss
