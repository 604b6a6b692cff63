"""A LoRA written as one safetensors file, in kohya's form, peft's or that of diffusers' older scripts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdtune.core import lora_names as names
from sdtune.core.adapters import Adapter, LoraModule
from sdtune.core.families import Family, family_named
from sdtune.core.header import Header
from sdtune.core.lora import Lora
from sdtune.core.lora_precision import DTYPES, TOLERANCE, fitting, is_held, lost
from sdtune.core.lora_reader import MAX_ALPHA, read
from sdtune.core.run_folder import write_atomically
from sdtune.core.safetensors_bytes import kohya_hashes, pieces
from sdtune.core.written_metadata import carried_over, of_structure
from sdtune.errors import FULL, LoraError, SdtuneError, TrainingError
from sdtune.lora_config import Dtype, Form

_WIDER: dict[Dtype, tuple[Dtype, ...]] = {"fp32": (), "fp16": ("bf16", "fp32"), "bf16": ("fp32",)}
"""what else is tried where values are too large; where they are too small, fp32 alone, as bf16 has fewer digits"""
_LEAST_ALPHA = 1e-6
"""far below any that was ever trained with; the weights bear smaller ones"""
_HOLDING: dict[str, Dtype] = {"F8_E4M3": "fp16", "F8_E5M2": "fp16", "F16": "fp16", "BF16": "bf16"}
_VECTORS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}
"""what A1111 and ComfyUI call a new word's vectors in a LoRA file"""
_REMEDY = "choose kohya's form, or make it a plain LoRA with sdtune lora resize"


def precision_of(header: Header) -> Dtype:
    """The least that holds all numbers of a file's weights; alphas take little and are kept apart."""
    found = {_HOLDING.get(dtype, "fp32") for key, dtype in header.dtypes.items() if not key.endswith(".alpha")}
    return found.pop() if len(found) == 1 else "fp32"


def form_of(lora: Lora, form: Form) -> Form:
    """The form that is written where this one is asked for: kohya, peft or diffusers.

    Of SD3 there is one, diffusers' keys with alpha folded into the weights: no spelling of alpha is read right by both
    diffusers and ComfyUI, and kohya's names by neither.
    """
    if _family(lora).lora_form != "kohya":
        return "diffusers"
    return "kohya" if form == "auto" else form


def write(path: Path, lora: Lora, form: Form = "auto", dtype: Dtype = "fp16") -> Dtype:
    """Save a LoRA, whole or not at all, and return the precision it took; the same LoRA always gives the same bytes.

    That is another than was asked for where values are too large for it (bf16 instead of fp16, else fp32), or so small
    that it would lose more of a module's change than rounding does (fp32).

    In kohya's form a part's modules share one alpha (the usual one, the weights bearing the difference), as diffusers
    reads no other from it; in that of diffusers' older scripts there is none, and the weights bear it. What is written
    is read again and compared before it takes the place of a file that is there.
    """
    lora = replace(lora, metadata=carried_over(lora.metadata))
    family, taken = _family(lora), form_of(lora, form)
    meant, tensors, dtype = _fitted(path, lora, form, dtype)
    metadata = {**lora.metadata, **of_structure(meant)}
    if taken == "peft" or (taken == "diffusers" and family.lora_form != "kohya"):
        metadata |= _peft_config(meant)
    model_hash, legacy_hash = kohya_hashes(tensors, metadata)
    metadata |= {
        "sshs_model_hash": model_hash,
        "sshs_legacy_hash": legacy_hash,
        "modelspec.hash_sha256": f"0x{model_hash}",
    }

    def save(file: Path) -> None:
        with file.open("wb") as opened:
            opened.writelines(pieces(tensors, metadata))
        _check(file, lora, tensors, form, dtype)

    try:
        write_atomically(path, save)
    except OSError as problem:
        todo = "free space, or choose another place" if problem.errno in FULL else "choose another place"
        raise SdtuneError(f"{path}: cannot be written ({problem.strerror or problem}); {todo}") from None
    return dtype


def _family(lora: Lora) -> Family:
    """Whose names are written; sd1 and sd2, which some LoRAs do not tell apart, have the same."""
    return family_named(lora.family or "sd1")


def _check(file: Path, lora: Lora, tensors: Mapping[str, Tensor], form: Form, dtype: Dtype) -> None:
    """Raises OSError where a file, read by our own reader, is not what was to be written."""
    try:
        again = read(file)
        found = _keyed(again, form_of(lora, form), form)
    except LoraError as problem:
        raise OSError(str(problem).replace(f"{file}: ", "")) from None
    same = found.keys() == tensors.keys() and all(
        value.shape == found[key].shape and torch.equal(value.float(), found[key].float())
        for key, value in tensors.items()
    )
    if not same or not all(
        _is_near(value, again.modules[name], dtype)
        for name, value in lora.modules.items()
        if isinstance(value, LoraModule)
    ):
        raise OSError("what was read back is not what was written")


def _is_near(module: LoraModule, again: Adapter, dtype: Dtype) -> bool:
    """Whether it changes what it shall, but for what its precision rounds."""
    return isinstance(again, LoraModule) and lost(module, again) <= TOLERANCE[dtype]


def _keyed(lora: Lora, taken: Form, asked: Form) -> dict[str, Tensor]:
    """{key in the file: tensor}; raises LoraError for what the form has no place for."""
    if taken == "kohya":
        return _kohya_tensors(lora)
    if asked in ("peft", "diffusers"):
        _must_be_plain(lora, asked)
    tensors: dict[str, Tensor] = {}
    for name, value in lora.modules.items():
        if isinstance(value, LoraModule):
            down, up = _suffixes(name, taken, _family(lora))
            tensors |= {f"{name}.{down}.weight": value.down, f"{name}.{up}.weight": value.up}
        else:
            tensors |= {f"{name}.{role}": one for role, one in value.tensors().items()}
    return tensors | _others(lora, {name: name for name in (*lora.modules, *lora.biases)})


def _suffixes(module: str, taken: Form, family: Family) -> tuple[str, str]:
    if taken == "peft" or family.lora_form != "kohya":
        return "lora_A", "lora_B"
    if module.startswith("text_encoder"):
        return "lora_linear_layer.down", "lora_linear_layer.up"
    return "lora.down", "lora.up"


def _kohya_tensors(lora: Lora) -> dict[str, Tensor]:
    family = _family(lora)
    keys = {
        name: names.to_kohya(name, family.kohya_prefixes, family.numbered_blocks)
        for name in (*lora.modules, *lora.biases)
    }
    tensors = {
        f"{keys[name]}.{role}": one for name, value in lora.modules.items() for role, one in value.tensors().items()
    }
    return tensors | _others(lora, keys)


def _others(lora: Lora, keys: Mapping[str, str]) -> dict[str, Tensor]:
    """What is added to biases, and new words."""
    tensors: dict[str, Tensor] = {}
    for name, bias in lora.biases.items():
        of_norm = name in lora.modules and "w_norm" in lora.modules[name].tensors()
        tensors[f"{keys[name]}.{'b_norm' if of_norm else 'diff_b'}"] = bias
    for word, vectors in lora.embeddings.items():
        for part, value in vectors.items():
            tensors[f"bundle_emb.{word}.{_VECTORS[part]}"] = value
    return tensors


def _must_be_plain(lora: Lora, form: Form) -> None:
    """Stop at what diffusers' forms have no place for."""
    for name, value in lora.modules.items():
        if not isinstance(value, LoraModule):
            raise LoraError(f"{name} is {value.one}, which the {form} form has no place for; {_REMEDY}")
    for what in (*(f"a bias of {name}" for name in lora.biases), *(f"the word {word}" for word in lora.embeddings)):
        raise LoraError(f"{what} is changed, which the {form} form has no place for; choose kohya's form")


def _fitted(path: Path, lora: Lora, form: Form, dtype: Dtype) -> tuple[Lora, dict[str, Tensor], Dtype]:
    """The same LoRA as a form tells it, its tensors, and the precision that these are in: the first that holds them."""
    taken, broken, too_small = form_of(lora, form), "", False
    for kept in (dtype, *_WIDER[dtype]):
        if too_small and kept == "bf16":
            continue
        meant = replace(lora, modules=_with_alphas(lora, taken, kept))
        tensors = _narrowed(_keyed(meant, taken, form), kept)
        broken = next((key for key, value in tensors.items() if not torch.isfinite(value).all()), "")
        if not broken and is_held(lora, meant, kept):
            return meant, tensors, kept
        too_small = not broken
    assert broken, "float32 holds every change that a weight shows"
    told = f"{path}: not saved, as {broken} holds what is no number"
    raise TrainingError(f"{told}: the training broke down; lower the learning rate")


def _with_alphas(lora: Lora, form: Form, dtype: Dtype) -> dict[str, Adapter]:
    """The same changes, told with those alphas that a form can hold, as well as a precision can."""
    usual = {part: _usual(lora, part) for part in {names.split(name)[0] for name in lora.modules}}

    def alpha_of(name: str, module: LoraModule) -> float:
        if form == "peft":
            return module.alpha
        return usual[names.split(name)[0]] if form == "kohya" else module.rank

    return {
        name: fitting(value, alpha_of(name, value), dtype) if isinstance(value, LoraModule) else value
        for name, value in lora.modules.items()
    }


def _usual(lora: Lora, part: str) -> float:
    """The alpha that most modules of a part have."""
    told = (module.alpha for module in _of_part(lora, part).values())
    alphas = Counter(alpha for alpha in told if _LEAST_ALPHA <= abs(alpha) <= MAX_ALPHA)
    return alphas.most_common(1)[0][0] if alphas else 1.0


def _of_part(lora: Lora, part: str) -> dict[str, LoraModule]:
    """Its plain LoRAs by their paths."""
    return {
        names.split(name)[1]: value
        for name, value in lora.modules.items()
        if names.split(name)[0] == part and isinstance(value, LoraModule)
    }


def _narrowed(tensors: Mapping[str, Tensor], dtype: Dtype) -> dict[str, Tensor]:
    """The tensors in this precision; alpha in float32."""
    return {
        key: value.detach().cpu().to(torch.float32 if key.endswith(".alpha") else DTYPES[dtype])
        for key, value in tensors.items()
    }


def _peft_config(lora: Lora) -> dict[str, str]:
    """The settings of peft as diffusers keeps them; without them a reload takes alpha for the rank."""
    settings: dict[str, Any] = {}
    for part in {names.split(name)[0] for name in lora.modules}:
        inside = {path.removeprefix("text_model."): value for path, value in _of_part(lora, part).items()}
        if not inside:
            continue
        (rank, _), *_ = Counter(value.rank for value in inside.values()).most_common(1)
        (alpha, _), *_ = Counter(value.alpha for value in inside.values()).most_common(1)
        told = {
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {path: value.rank for path, value in inside.items() if value.rank != rank},
            "alpha_pattern": {path: value.alpha for path, value in inside.items() if value.alpha != alpha},
            "target_modules": sorted(inside),
        }
        settings |= {f"{part}.{key}": value for key, value in told.items()}
    return {"format": "pt", names.SETTINGS: json.dumps(settings, sort_keys=True)}
