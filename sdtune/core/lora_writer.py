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
from sdtune.core.lora_reader import read
from sdtune.core.run_folder import write_atomically
from sdtune.core.safetensors_bytes import kohya_hashes, pieces
from sdtune.core.written_metadata import carried_over, of_structure
from sdtune.errors import LoraError, SdtuneError, TrainingError
from sdtune.lora_config import Dtype, Form

DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_WIDER: dict[Dtype, tuple[Dtype, ...]] = {"fp32": (), "fp16": ("bf16", "fp32"), "bf16": ("fp32",)}
"""what else is tried where values are too large"""
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

    That is another than was asked for where values are too large for it: bf16 instead of fp16, else fp32.

    In kohya's form a part's modules share one alpha (the usual one, the weights bearing the difference), as diffusers
    reads no other from it; in that of diffusers' older scripts there is none, and the weights bear it. What is written
    is read again and compared before it takes the place of a file that is there.
    """
    lora = replace(lora, metadata=carried_over(lora.metadata))
    family, taken = _family(lora), form_of(lora, form)
    meant = replace(lora, modules=_with_alphas(lora, taken))
    tensors, dtype = _narrowed(path, _keyed(meant, taken, form), dtype)
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
        _check(file, meant, tensors, taken, form)

    try:
        write_atomically(path, save)
    except OSError as problem:
        told = problem.strerror or problem
        raise SdtuneError(f"{path}: cannot be written ({told}); free space or choose another place") from None
    return dtype


def _family(lora: Lora) -> Family:
    """Whose names are written; sd1 and sd2, which some LoRAs do not tell apart, have the same."""
    return family_named(lora.family or "sd1")


def _check(file: Path, meant: Lora, tensors: Mapping[str, Tensor], taken: Form, asked: Form) -> None:
    """Raises OSError where a file, read by our own reader, is not what was to be written."""
    try:
        again = read(file)
        found = _keyed(again, taken, asked)
    except LoraError as problem:
        raise OSError(str(problem).replace(f"{file}: ", "")) from None
    same = found.keys() == tensors.keys() and all(
        value.shape == found[key].shape and torch.equal(value.float(), found[key].float())
        for key, value in tensors.items()
    )
    alphas = {name: value.alpha for name, value in meant.modules.items() if isinstance(value, LoraModule)}
    if not same or any(
        abs(getattr(again.modules[name], "alpha", 0.0) - alpha) > 1e-6 * abs(alpha) for name, alpha in alphas.items()
    ):
        raise OSError("what was read back is not what was written")


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


def _with_alphas(lora: Lora, form: Form) -> dict[str, Adapter]:
    """The same changes, told with those alphas that a form can hold."""
    if form == "peft":
        return dict(lora.modules)
    usual = {part: _usual(lora, part) for part in {names.split(name)[0] for name in lora.modules}}
    return {
        name: _with_alpha(value, usual[names.split(name)[0]] if form == "kohya" else value.rank)
        if isinstance(value, LoraModule)
        else value
        for name, value in lora.modules.items()
    }


def _with_alpha(module: LoraModule, alpha: float) -> LoraModule:
    """The same change told with another alpha."""
    return (
        module if module.alpha == alpha else LoraModule(module.down, module.up.float() * (module.alpha / alpha), alpha)
    )


def _usual(lora: Lora, part: str) -> float:
    """The alpha that most modules of a part have."""
    alphas = Counter(module.alpha for module in _of_part(lora, part).values() if module.alpha)
    return alphas.most_common(1)[0][0] if alphas else 1.0


def _of_part(lora: Lora, part: str) -> dict[str, LoraModule]:
    """Its plain LoRAs by their paths."""
    return {
        names.split(name)[1]: value
        for name, value in lora.modules.items()
        if names.split(name)[0] == part and isinstance(value, LoraModule)
    }


def _narrowed(path: Path, tensors: Mapping[str, Tensor], dtype: Dtype) -> tuple[dict[str, Tensor], Dtype]:
    """The tensors in this precision, or in the first that all of their values fit into; alpha in float32."""
    for taken in (dtype, *_WIDER[dtype]):
        narrow = {
            key: value.detach().cpu().to(torch.float32 if key.endswith(".alpha") else DTYPES[taken])
            for key, value in tensors.items()
        }
        broken = [key for key, value in narrow.items() if not torch.isfinite(value).all()]
        if not broken:
            return narrow, taken
    told = f"{path}: not saved, as {broken[0]} holds what is no number"
    raise TrainingError(f"{told}: the training broke down; lower the learning rate")


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
