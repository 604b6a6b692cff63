"""The command `sdtune lora inspect`: what a LoRA file is, by its header alone, and by its weights where asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from shlex import quote

from sdtune.core import lora_facts as facts
from sdtune.core.families import families
from sdtune.core.header import read_header
from sdtune.core.lora_keys import family_of, keys_of, said_family
from sdtune.core.lora_metadata import hashes_of, likely_trigger, prompt_of, title_of, training_of, trigger_of
from sdtune.core.lora_names import split
from sdtune.core.lora_place import lora_at
from sdtune.core.lora_problems import File, problems_of
from sdtune.core.lora_reports import Inspected
from sdtune.core.reports import Telling
from sdtune.earlier import RUN_SETTINGS
from sdtune.errors import LoraError
from sdtune.inspect_config import LoraInspect


def inspect_lora(config: LoraInspect) -> Telling[None]:
    """Tells what a file is; without the weights it reads a few thousand bytes, and imports nothing heavy."""
    path = lora_at(config.lora)
    header = read_header(path, LoraError)
    keys = keys_of(path, header)
    modules = facts.modules_of(path, header, keys)
    file = File(path, keys, modules, header.metadata, family_of(keys, header), said_family(header.metadata))
    tensors = [key for roles in keys.modules.values() for role, key in roles.items() if role != "alpha"]
    inspected = Inspected(
        path=path,
        size=path.stat().st_size,
        family=file.family,
        title=title_of(header.metadata, path.stem),
        form=keys.form,
        networks=facts.networks_in(modules.values()),
        dtype=facts.dtype_of(header, [*tensors, *keys.biases.values()]),
        modules=len(modules),
        parts=_counts(split(name)[0] for name in modules),
        rank=facts.spread(one.rank for one in modules.values()),
        alpha=facts.spread(one.acting for one in modules.values()),
        trigger=trigger_of(header.metadata),
        trained=training_of(header.metadata),
        hashes=hashes_of(header.metadata),
        hash_holds=None,
        embeddings=tuple(keys.embeddings),
        blocks=facts.blocks_of(modules),
        metadata=header.metadata if config.metadata else {},
        problems=tuple(problems_of(file)),
        try_next=_try_next(file, config),
    )
    if config.weights:
        from sdtune.core.weigh_lora import weigh

        weighed = yield from weigh(file, inspected.blocks)
        inspected = replace(
            inspected,
            blocks=weighed.blocks,
            hashes={**inspected.hashes, **weighed.hashes},
            hash_holds=weighed.hash_holds,
            problems=(*inspected.problems, *weighed.problems),
        )
    yield inspected


def _counts(parts: Iterator[str]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for part in parts:
        counts[part] = counts.get(part, 0) + 1
    return dict(sorted(counts.items(), key=lambda one: (one[0].startswith("text"), one[0])))


def _try_next(file: File, config: LoraInspect) -> str:
    """A look at the weights, else a picture."""
    place = quote(str(file.path))
    if not config.weights:
        return f"sdtune lora inspect {place} --weights"
    prompt = quote(prompt_of(trigger_of(file.metadata) or likely_trigger(file.metadata)) or "what it was trained on")
    model = _model(file)
    return f"sdtune sample --prompt {prompt} --lora {place}" + (f" --model {model}" if model else "")


def _model(file: File) -> str | None:
    """The short name of the model that it was trained on, else of the first of its family; None where its run says."""
    if file.family is None or (file.path.parent / RUN_SETTINGS).is_file():
        return None
    known = tuple(families()[file.family].models)
    said = file.metadata.get("ss_sd_model_name")
    return said if said in (*known, "mini") else known[0]
