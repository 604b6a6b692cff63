"""LoRAs put into a base model: its weights are read, changed and written one tensor at a time."""

from __future__ import annotations

import re
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sdtune.config import drawing_settings
from sdtune.core import memory, model
from sdtune.core.applied import Applied
from sdtune.core.data.folder import in_command
from sdtune.core.families import Family, family_named
from sdtune.core.header import read_header
from sdtune.core.identity import Identity
from sdtune.core.last_loras import averaged
from sdtune.core.lora import check_family
from sdtune.core.lora_metadata import prompt_of
from sdtune.core.lora_reports import Merged
from sdtune.core.lora_updates import Bases
from sdtune.core.merge_check import prediction_difference
from sdtune.core.merge_out import check_place, check_room, clear_up, in_bytes, is_file, making
from sdtune.core.merged_folder import copy_configs, file_of
from sdtune.core.merged_metadata import MARKS, Noise, metadata_of, noise_of
from sdtune.core.mixture import NAMES, Mixture
from sdtune.core.model_file import channels_in_file, configs_here, configs_of_file
from sdtune.core.model_folder import folder_of
from sdtune.core.original import Piece, file_shape, joined
from sdtune.core.reports import Note, Progress, Telling, Warned
from sdtune.core.run_folder import embeddings_beside
from sdtune.core.tensor_file import TORCH_DTYPES, Slot, writing
from sdtune.core.weights import Weights, open_weights
from sdtune.core.whole import check_whole, missing_parts
from sdtune.errors import ConfigError, ModelError
from sdtune.lora_config import Dtype, Merge
from sdtune.tables import Memory

PHASE = "merging"
EMA = "model_ema."
EMPTY = 8
"""bytes of the numbers that stand beside an average"""
HARMLESS = re.compile(
    r"^(alphas|betas$|sqrt_|log_one_minus_|posterior_|lvlb_weights$|logvar$|scale_factor$|model_ema\.|model_sampling\.)"
    rf"|^(epoch|global_step|{'|'.join(MARKS)})$|(^|\.)(position_ids|logit_scale|attn_mask)$|^first_stage_model\.loss\."
    r"|^cond_stage_model\.model\.(transformer\.resblocks\.23\.|text_projection$)"
)
"""of files: what follows from the configs, or what nothing reads"""
SMALL = 10**9
"""bytes of a denoiser that is asked for a prediction unless --verify says otherwise"""
LARGE = 10**10
"""bytes of a file that some disks and programs do not take"""


def merge_model(config: Merge, identity: Identity, applied: Sequence[Applied]) -> Telling[None]:
    """Writes the model with the LoRAs in it, and measures how far it is from the model with the LoRAs beside it."""
    began = time.monotonic()
    family = family_named(identity.family)
    for one in applied:
        check_family(one.lora, family, one.path)
    place = None if identity.source == "hub" else Path(identity.location)
    if cleared := clear_up(config.out):
        yield Note(cleared)
    check_place(config.out, config.overwrite, place, [one.path for one in applied])
    device = memory.device_for(Memory(device=config.device))
    yield Note(f"model: {identity.name} ({family.title})" + "".join(_told(one) for one in applied))
    for line in _words(applied):
        yield Warned(line)
    if not model.is_here(identity):
        yield Note("the model is fetched from the hub: some GB, kept for later")
    weights = open_weights(identity)
    lacking = missing_parts(weights)
    _check_parts(config, identity, lacking)
    configs = _configs(identity, family, needed=not is_file(config.out))
    noise = noise_of(identity, configs)
    in_file = identity.source == "file" and is_file(config.out)
    check_whole(weights, identity.location, configs, _changes(identity, noise), in_file=in_file)
    if config.last is not None:
        applied = yield from averaged(applied, config.last, Bases(config.given[0]))
    mixture = Mixture(weights, applied, config.dtype, _shown(identity))
    for line in _left_alone(weights, lacking, config):
        yield Warned(line)
    kinds = _few_bits(mixture)
    if kinds:
        yield Note(_told_of_packed(kinds, mixture, config.dtype))
    if config.verify and mixture.weights.packed:
        told = "leave it out, as what rounding does to each layer is told in any case"
        raise ConfigError(f"--verify: {identity.name} is packed ({kinds}), so it is asked for no prediction; {told}")
    metadata = metadata_of(config.out, identity, family, configs, noise, applied)
    if is_file(config.out):
        yield from _write_file(config.out, mixture, identity, noise, metadata)
    else:
        assert configs, "a folder has configs"
        yield from _write_folder(config.out, mixture, identity, family, configs, noise, metadata)
    sizes = {name: Slot(kind, mixture.weights.shapes[name]).bytes for name, kind in mixture.dtypes.items()}
    of_denoiser = sum(size for name, size in sizes.items() if name.startswith(f"{family.denoiser}."))
    denoised = None
    if config.verify or (config.verify is None and of_denoiser < SMALL and not kinds and not lacking):
        yield Note("the merged model and the base with its LoRAs are asked for a prediction each")
        try:
            denoised = prediction_difference(identity, applied, config.out, device)
        except ModelError as problem:
            if config.verify:
                raise
            yield Note(f"no prediction was measured: {problem}")
    yield Merged(
        config.out,
        "original" if is_file(config.out) else "diffusers",
        family.name,
        _usual_dtype(mixture, sizes),
        sum(sizes.values()),
        len(mixture.changed),
        len({name.rpartition(".")[0] for name in sizes if name.endswith(".weight") and not name.startswith("vae.")}),
        mixture.difference,
        denoised,
        time.monotonic() - began,
        "" if lacking else _try_next(config, applied),
    )


def _check_parts(config: Merge, identity: Identity, lacking: Sequence[str]) -> None:
    """Stop where more is asked for than a base can give that lacks parts."""
    if lacking and not is_file(config.out):
        todo = "get it whole, or give a name that ends in .safetensors with --out"
        raise ModelError(f"{identity.location}: has no {_and(lacking)}, and a folder does not load without; {todo}")
    if lacking and config.verify:
        told = "leave it out, or choose a whole model"
        raise ConfigError(f"--verify: {identity.name} has no {_and(lacking)}, so it is asked for no prediction; {told}")


def _write_file(
    out: Path, mixture: Mixture, identity: Identity, noise: Noise, metadata: Mapping[str, str]
) -> Telling[None]:
    weights = mixture.weights
    pieces = weights.pieces()
    slots = {piece.key: Slot(_dtype_of(piece, mixture), file_shape(piece, weights.shapes)) for piece in pieces}
    kept = weights.extra if identity.source == "file" else {}
    marks = {key: Slot("F32", (0,)) for key in MARKS if key not in kept and getattr(noise, key)}
    slots |= {**kept, **marks}
    check_room(out, sum(slot.bytes for slot in slots.values()))
    with making(out) as made, writing(made, slots, metadata) as file:
        for number, piece in enumerate(pieces, 1):
            value = joined(piece, mixture.made)
            untouched = all(mixture.is_untouched(name) for name in piece.names)
            file.add(piece.key, value, as_is=untouched and value.dtype == TORCH_DTYPES[slots[piece.key].dtype])
            yield Progress(PHASE, number, len(pieces))
        for key in kept:
            file.add(key, weights.read_extra(key), as_is=True)
        for key in marks:
            file.add(key, torch.zeros(0))


def _write_folder(
    out: Path,
    mixture: Mixture,
    identity: Identity,
    family: Family,
    configs: Path,
    noise: Noise,
    metadata: Mapping[str, str],
) -> Telling[None]:
    weights = mixture.weights
    slots: dict[str, dict[str, Slot]] = {}
    for name, shape in weights.shapes.items():
        part, _, key = name.partition(".")
        slots.setdefault(part, {})[key] = Slot(mixture.dtypes[name], shape)
    sizes = {part: sum(slot.bytes for slot in inside.values()) for part, inside in slots.items()}
    check_room(out, sum(sizes.values()))
    for part, size in sizes.items():
        if size > LARGE:
            yield Note(f"{part} is one file of {size / 1e9:.0f} GB")
    with making(out) as folder:
        folder.mkdir()
        dtypes = {part: _torch_name(Counter(slot.dtype for slot in inside.values())) for part, inside in slots.items()}
        copy_configs(configs, folder, dtypes, _changes(identity, noise))
        number = 0
        for part, inside in slots.items():
            told = metadata if part == family.denoiser else {"format": "pt"}
            with writing(folder / part / file_of(part), inside, told) as file:
                for key in inside:
                    name = f"{part}.{key}"
                    file.add(key, mixture.made(name), as_is=mixture.is_untouched(name))
                    number += 1
                    yield Progress(PHASE, number, len(weights.shapes))


def _configs(identity: Identity, family: Family, *, needed: bool) -> Path | None:
    """The folder with the model's configs; those of a single file are fetched only where they are needed."""
    own = folder_of(identity, family)
    return own or (configs_of_file(identity, family) if needed else configs_here(identity, family))


def _changes(identity: Identity, noise: Noise) -> dict[str, dict[str, Any]]:
    """What a single file says otherwise than the configs that its family has."""
    if identity.source != "file":
        return {}
    scheduler: dict[str, Any] = {"prediction_type": identity.prediction} if identity.prediction else {}
    if noise.ztsnr:
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    channels = channels_in_file(read_header(Path(identity.location), ModelError))
    return {"scheduler": scheduler, "unet": {"in_channels": channels} if channels else {}}


def _dtype_of(piece: Piece, mixture: Mixture) -> str:
    """Of what the piece is made; the widest where that differs."""
    return max((mixture.dtypes[name] for name in piece.names), key=lambda kind: (TORCH_DTYPES[kind].itemsize, kind))


def _usual_dtype(mixture: Mixture, sizes: Mapping[str, int]) -> str:
    """What most of the model is written in, as --dtype calls it."""
    bytes_of: Counter[str] = Counter()
    for name, size in sizes.items():
        bytes_of[mixture.dtypes[name]] += size
    kind = bytes_of.most_common(1)[0][0]
    return next((name for name, own in NAMES.items() if own == kind), kind.lower())


def _torch_name(kinds: Counter[str]) -> str:
    """float16"""
    return str(TORCH_DTYPES[kinds.most_common(1)[0][0]]).removeprefix("torch.")


def _shown(identity: Identity) -> str:
    """A base as messages name it: a file with its ending."""
    return Path(identity.location).name if identity.source == "file" else identity.name


def _told(one: Applied) -> str:
    return f", with {one.shown} at {one.strength}"


def _words(applied: Sequence[Applied]) -> Iterator[str]:
    """A line for each new word that a LoRA brings, which no model can hold."""
    for one in applied:
        for word in one.lora.embeddings:
            todo = f"draw with --lora {one.path}:0 beside the merged model"
            yield f'{one.path}: brings the new word "{word}", which no model can hold; {todo}'
        for path in embeddings_beside(one.path):
            todo = "give this file to the program that draws with the merged model"
            yield f"{path}: a new word that was learned with {one.path.name}, which no model can hold; {todo}"


def _left_alone(weights: Weights, lacking: Sequence[str], config: Merge) -> Iterator[str]:
    """A line for what of the base the merged model has not, and what it has without the LoRAs."""
    if lacking:
        told = "so the merged file has none; draw with a program that takes such parts beside it"
        yield f"the base has no {_and(lacking)}, {told}"
    averages = [key for key in weights.extra if key.startswith(EMA) and weights.extra[key].bytes > EMPTY]
    others = [key for key in weights.extra if key not in averages and not HARMLESS.search(key)]
    kept = is_file(config.out)
    if averages:
        size = sum(weights.extra[key].bytes for key in averages)
        told = "is kept as it is, without the LoRAs" if kept else "is left out, as folders have no place for it"
        yield f"the base has an average of its weights beside them ({EMA}*, {in_bytes(size)}), which {told}"
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        told = "kept as it is" if kept else "left out, as folders have no place for it"
        yield f"{others[0]}{more} of the base is not known here, and {told}"


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _few_bits(mixture: Mixture) -> str:
    """How the base's weights are packed, F8_E4M3 and nf4; empty where they are not."""
    plain = {kind for kind in mixture.weights.dtypes.values() if kind.startswith("F8")}
    return " and ".join(sorted(plain.union(mixture.weights.packed.values())))


def _told_of_packed(kinds: str, mixture: Mixture, dtype: Dtype | None) -> str:
    weights = mixture.weights
    made = {mixture.dtypes[name] for name, kind in weights.dtypes.items() if name in weights.packed or "F8" in kind}
    told = " and ".join(name for name, own in NAMES.items() if own in made) + ("" if dtype else " (see --dtype)")
    return f"the base has weights in {kinds}; they are unpacked, and written in {told}"


def _try_next(config: Merge, applied: Sequence[Applied]) -> str:
    return f"sdtune sample --model {in_command(config.out)} --prompt {shlex.quote(_prompt(applied))}{_drawing(config)}"


def _drawing(config: Merge) -> str:
    """The flags by which the base's own preset says how it draws, as the merged model has no preset."""
    told = drawing_settings(config.given[0])
    return "".join(f" --{name} {told[name]:g}" for name in ("guidance", "steps") if name in told)


def _prompt(applied: Sequence[Applied]) -> str:
    triggers = [one.lora.metadata.get("modelspec.trigger_phrase", "") for one in applied]
    told = dict.fromkeys(trigger for trigger in triggers if trigger.isprintable() and trigger)
    return prompt_of(", ".join(told)) or "a cat"
