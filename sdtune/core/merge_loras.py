"""Several LoRAs made one: their updates added exactly, or by another blend, in one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from sdtune.choices.blends import Blend, Concat
from sdtune.core.adapters import Adapter
from sdtune.core.adapters.shapes import MAX_RANK
from sdtune.core.applied import Applied
from sdtune.core.blending import Part, blended
from sdtune.core.families import family_named
from sdtune.core.home import expanded
from sdtune.core.last_loras import averaged
from sdtune.core.lora import Lora
from sdtune.core.lora_metadata import title_of, trigger_of
from sdtune.core.lora_updates import Bases, family_for, in_order, made_plain
from sdtune.core.made_lora import write_made
from sdtune.core.out_file import SUFFIX, check_models_stay, check_out
from sdtune.core.reports import Note, Progress, Telling, Warned
from sdtune.core.truncation import Losses
from sdtune.errors import LoraError
from sdtune.lora_config import Merge

LONGEST = 2**14
"""letters of what is joined of all LoRAs"""
_OF_THE_MODEL = (
    "modelspec.prediction_type",
    "modelspec.architecture",
    "modelspec.resolution",
    "ss_base_model_version",
    "ss_sd_model_name",
)
"""metadata that the sum has where all of them have the same"""


def merge_loras(config: Merge, applied: Sequence[Applied]) -> Telling[None]:
    """Makes one LoRA file of these, each at its strength, and tells what of each block is lost."""
    out = expanded(config.out)
    check_out(out, config.overwrite, *(one.path for one in applied))
    bases = Bases(config.model)
    check_models_stay(out, bases.identity)
    family = family_for({str(one.path): one.lora for one in applied}, bases)
    yield Note("; ".join(f"{one.shown} at {one.strength}" for one in applied))
    if config.last is not None:
        applied = yield from averaged(applied, config.last, bases)
    yield from _networks_told(applied, family)
    losses = Losses()
    modules = yield from _modules(config, applied, bases, losses)
    biases = _biases(applied)
    if not modules and not biases:
        raise LoraError("nothing is left of the LoRAs at these strengths; give others: cats.safetensors:0.8")
    embeddings = yield from _embeddings(applied)
    lora = Lora(modules, family, _metadata(applied), biases, embeddings)
    made, measured = _made(config, len(applied)), _measured(config.method)
    lost = losses.whole()
    if lost and config.rank is None:
        most = max(module.rank or 0 for module in modules.values())
        yield Note(
            f"{100 * lost:.2g} % of {measured} has no place in rank {most}; --rank {min(4 * most, MAX_RANK)} keeps more"
        )
    yield from write_made(out, lora, config.form, config.dtype or "fp16", made, losses, measured)


def _modules(config: Merge, applied: Sequence[Applied], bases: Bases, losses: Losses) -> Telling[dict[str, Adapter]]:
    """Every module that any of them changes; what each loses is put down in `losses`."""
    every = in_order({name for one in applied for name in one.lora.modules})
    modules: dict[str, Adapter] = {}
    for number, name in enumerate(every, 1):
        parts = []
        for one in applied:
            adapter, strength = one.lora.modules.get(name), one.strength(name)
            if adapter is not None and strength:
                parts.append(Part(str(one.path), adapter, strength, bases.fitting(name, adapter, str(one.path))))
        if parts:
            modules[name], losses.modules[name] = blended(config.method, name, parts, config.rank)
        yield Progress("merging", number, len(every))
    return modules


def _biases(applied: Sequence[Applied]) -> dict[str, Tensor]:
    """What is added to biases: the sums."""
    sums: dict[str, Tensor] = {}
    for one in applied:
        for name, bias in one.lora.biases.items():
            strength = one.strength(name)
            if name in sums and sums[name].shape != bias.shape:
                shapes = f"{tuple(bias.shape)}, others as {tuple(sums[name].shape)}"
                raise LoraError(f"{one.path}: changes the bias of {name} as {shapes}; give LoRAs for one model")
            if strength:
                sums[name] = sums.get(name, 0.0) + strength * bias.float()
    return sums


def _embeddings(applied: Sequence[Applied]) -> Telling[dict[str, Mapping[str, Tensor]]]:
    """The new words of all of them."""
    words: dict[str, Mapping[str, Tensor]] = {}
    for one in applied:
        for word, vectors in one.lora.embeddings.items():
            if word in words:
                yield Warned(f'{one.path}: also teaches the word "{word}", as one before it does; that one is kept')
            words.setdefault(word, vectors)
    return words


def _networks_told(applied: Sequence[Applied], family: str | None) -> Telling[None]:
    """What of them is not kept as it is, or does not fit well together."""
    for line in dict.fromkeys(f"{one.shown}: {plain}" for one in applied if (plain := made_plain(one.lora))):
        yield Note(line)
    predictions = {one.lora.metadata.get("modelspec.prediction_type") for one in applied} - {None}
    if len(predictions) > 1:
        title = family_named(family).title if family else "Stable Diffusion"
        said = ", ".join(sorted(map(str, predictions)))
        yield Warned(f"the LoRAs are for models of {title} that predict {said}, so their sum may fit none of them")


def _metadata(applied: Sequence[Applied]) -> dict[str, str]:
    """What is true of the sum: names, strengths, trigger phrases; nothing of the trainings."""
    names = [one.shown.removesuffix(SUFFIX) for one in applied]
    titles = [title_of(one.lora.metadata, name) for one, name in zip(applied, names, strict=True)]
    told: dict[str, str | None] = {
        "modelspec.title": " + ".join(titles if len({*titles}) == len(titles) else names),
        "modelspec.merged_from": ", ".join(
            f"{name}:{one.strength.usual:g}" for name, one in zip(names, applied, strict=True)
        ),
        "modelspec.trigger_phrase": _joined(trigger_of(one.lora.metadata) for one in applied),
        "modelspec.tags": _joined(one.lora.metadata.get("modelspec.tags") for one in applied),
    }
    for key in _OF_THE_MODEL:
        values = {one.lora.metadata.get(key) for one in applied}
        told[key] = values.pop() if len(values) == 1 else None
    return {key: value for key, value in told.items() if value}


def _joined(texts: Iterable[str | None]) -> str:
    """All that stands between commas, once, as far as a value of metadata reaches."""
    told = ", ".join(dict.fromkeys(word.strip() for text in texts for word in (text or "").split(",") if word.strip()))
    return told if len(told) <= LONGEST else told[: LONGEST + 1].rpartition(",")[0] or told[:LONGEST]


def _measured(method: Blend) -> str:
    """What a loss is a share of."""
    return "the LoRAs' sum" if isinstance(method, Concat) else f"what {type(method).__name__} makes of them"


def _made(config: Merge, count: int) -> str:
    """In a few words."""
    what = "a LoRA" if count == 1 else f"{count} LoRAs"
    if config.last is not None:
        what = f"the average of the last {config.last}" + ("" if count == 1 else f" of {count} runs")
    how = "added" if count > 1 else "at its strength"
    return f"{what} {how}" + ("" if isinstance(config.method, Concat) else f" by {type(config.method).__name__}")
