"""The command `sdtune lora extract`: a LoRA out of what sets two models apart, one layer in memory at a time."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdtune.core import model
from sdtune.core.adapters import Adapter
from sdtune.core.families import Family, family_named
from sdtune.core.home import expanded
from sdtune.core.identity import Identity
from sdtune.core.lora import Lora
from sdtune.core.lora_names import split
from sdtune.core.lora_updates import in_order
from sdtune.core.low_rank import Limits, spectrum
from sdtune.core.made_lora import write_made
from sdtune.core.merged_metadata import PREDICTIONS, noise_of
from sdtune.core.model_folder import folder_of
from sdtune.core.out_file import check_models_stay, check_out
from sdtune.core.reports import Note, Progress, Telling, Warned
from sdtune.core.truncation import Loss, Losses
from sdtune.core.weights import Weights, open_weights
from sdtune.errors import ModelError
from sdtune.lora_config import LoraExtract

WEIGHT = ".weight"
_NO_LAYER = re.compile(r"(token_embedding|position_embedding|shared|embed_tokens|relative_attention_bias|pos_embed)$")
"""tables, whose rows are looked up: no program has a LoRA beside them"""
NAMED = 3
"""of what is left out, in a line"""


@dataclass
class LeftOut:
    """What a plain LoRA has no place for."""

    square: float = 0.0
    """of the changes' norms, the sum of squares"""
    names: list[str] = field(default_factory=list)

    def add(self, name: str, norm: float) -> None:
        """One of them."""
        self.square += norm**2
        self.names.append(name)


def extract_lora(config: LoraExtract) -> Telling[None]:
    """Writes the LoRA, and tells what of each block is lost, and what it has no place for."""
    out = expanded(config.out)
    check_out(out, config.overwrite)
    base, tuned = model.identify(config.base), model.identify(config.tuned)
    check_models_stay(out, base, tuned)
    family = family_named(base.family)
    if tuned.family != base.family:
        other = family_named(tuned.family).title
        raise ModelError(f"{tuned.name}: {other}, but {base.name} is {family.title}; give two models of one family")
    for identity in (base, tuned):
        if not model.is_here(identity):
            yield Note(f"{identity.name} is fetched from the hub: some GB, kept for later")
    old, new = open_weights(base), open_weights(tuned)
    names = _names(config, family, old, new, tuned)
    losses, left_out = Losses(), LeftOut()
    modules = yield from _modules(config, names, old, new, losses, left_out)
    if not modules:
        least = f"by more than {config.least:g} of its weights" if config.least else "at all"
        raise ModelError(f"{tuned.name}: no layer differs from {base.name} {least}; give another model")
    yield from _told(left_out, losses)
    lora = Lora(modules, family.name, _metadata(base, tuned, family))
    made = f"extracted from {tuned.name} against {base.name}"
    yield from write_made(out, lora, config.form, config.dtype, made, losses, "the change of its layers")


def _names(config: LoraExtract, family: Family, old: Weights, new: Weights, tuned: Identity) -> list[str]:
    """The tensors to compare, in the order in which blocks are run; both models have all of them, and alike."""
    wanted: dict[str, Collection[str]] = {
        "all": (family.denoiser, *family.text_encoders),
        "denoiser": (family.denoiser,),
        "text": family.text_encoders,
    }
    parts = {split(name)[0] for name in old.shapes} & {split(name)[0] for name in new.shapes} & {*wanted[config.parts]}
    names = [name for name in old.shapes if split(name)[0] in parts]
    for name in names:
        shape = new.shapes.get(name)
        if shape != old.shapes[name]:
            what = "lacks it" if shape is None else f"has {shape}"
            raise ModelError(
                f"{name}: {old.shapes[name]} in {config.base}, but {tuned.name} {what}; give two models of one make"
            )
    return in_order(names)


def _modules(
    config: LoraExtract, names: Collection[str], old: Weights, new: Weights, losses: Losses, left_out: LeftOut
) -> Telling[dict[str, Adapter]]:
    """Every layer that has changed, at a low rank."""
    limits = Limits(rank=config.rank, share=config.share)
    modules: dict[str, Adapter] = {}
    for number, name in enumerate(names, 1):
        before, after = old.read(name), new.read(name)
        if not _same(before, after):
            weights = before.float()
            change = after.float() - weights
            norm = _norm(change)
            if not math.isfinite(norm):
                raise ModelError(f"{config.base} and {config.tuned}: {name} holds what is no number; get them again")
            module = name.removesuffix(WEIGHT)
            if norm > config.least * _norm(weights):
                if not _is_layer(name, change):
                    left_out.add(module, norm)
                else:
                    modules[module], losses.modules[module] = _lowered(change, limits)
        yield Progress("comparing", number, len(names))
    return modules


def _lowered(change: Tensor, limits: Limits) -> tuple[Adapter, Loss]:
    found = spectrum(change.flatten(1), limits.rank)
    kept = found.first(limits.count(found))
    loss = Loss(min(change.flatten(1).shape), len(kept.values), found.norm, kept.rest)
    return kept.product().module(tuple(change.shape[1:])), loss


def _same(before: Tensor, after: Tensor) -> bool:
    """Whether they are the same numbers, but for the precision in which the shorter ones are kept."""
    narrow = min(before, after, key=lambda one: one.element_size()).dtype
    return torch.equal(before.to(narrow).float(), after.to(narrow).float())


def _is_layer(name: str, weight: Tensor) -> bool:
    """Whether a tensor is the matrix of a layer or the kernels of a convolution."""
    module = name.removesuffix(WEIGHT)
    return name.endswith(WEIGHT) and weight.ndim in (2, 4) and not _NO_LAYER.search(module)


def _norm(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float32))


def _told(left_out: LeftOut, losses: Losses) -> Telling[None]:
    """What changed and is not in the LoRA."""
    if not left_out.names:
        return
    whole = math.hypot(math.sqrt(left_out.square), *(loss.norm for loss in losses.modules.values()))
    some = ", ".join(left_out.names[:NAMED]) + (", ..." if len(left_out.names) > NAMED else "")
    share = f"{100 * math.sqrt(left_out.square) / whole:.2g} % of the whole change"
    yield Warned(
        f"{len(left_out.names)} norms, biases and tables also changed ({some}), {share}: a plain LoRA has no place for "
        "them, and they are left out"
    )


def _metadata(base: Identity, tuned: Identity, family: Family) -> dict[str, str]:
    """What it is called, and for which model it is."""
    facts = {"modelspec.title": f"{tuned.name} out of {base.name}", "ss_sd_model_name": base.name}
    prediction = PREDICTIONS.get(noise_of(tuned, folder_of(tuned, family)).prediction or "")
    return facts | ({"modelspec.prediction_type": prediction} if prediction else {})
