"""A LoRA written as one safetensors file, in kohya's form or peft's."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sdtune.core import lora_names as names
from sdtune.core.families import Family, family_named
from sdtune.core.lora import Lora, LoraModule
from sdtune.core.run_folder import write_atomically
from sdtune.errors import SdtuneError, TrainingError

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_WIDER: dict[Precision, tuple[Precision, ...]] = {"fp32": (), "fp16": ("bf16", "fp32"), "bf16": ("fp32",)}
"""what else is tried where values are too large"""
_SAFETENSORS_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write(
    path: Path,
    lora: Lora,
    form: Literal["auto", "kohya", "peft"] = "auto",
    dtype: Precision = "fp16",
) -> Precision:
    """Save a LoRA, whole or not at all, and return the precision it took; the same LoRA always gives the same bytes.

    That is another than was asked for where values are too large for it: bf16 instead of fp16, else fp32.

    In kohya's form a part's modules share one alpha (the usual one, the weights bearing the difference), as diffusers
    reads no other from it.

    Of SD3 there is one form, diffusers' keys with alpha folded into the weights: no spelling of alpha is read right by
    both diffusers and ComfyUI, and kohya's names by neither.
    """
    assert lora.family, "a LoRA to be saved knows its family"
    family = family_named(lora.family)
    kohya = family.lora_form == "kohya" and form != "peft"
    modules = lora.modules.items()
    if family.lora_form != "kohya":
        lora = replace(lora, modules={name: _with_alpha(module, module.rank) for name, module in modules})
    elif kohya:
        usual = {part: _usual(lora, part) for part in {names.split(name)[0] for name in lora.modules}}
        lora = replace(
            lora, modules={name: _with_alpha(module, usual[names.split(name)[0]]) for name, module in modules}
        )
    tensors = _kohya_tensors(lora, family) if kohya else _peft_tensors(lora)
    tensors, dtype = _narrowed(path, tensors, dtype)
    metadata = {**lora.metadata, **_structure(lora, family)} | ({} if kohya else _peft_config(lora))
    model_hash, legacy_hash = _kohya_hashes(tensors, metadata)
    metadata |= {
        "sshs_model_hash": model_hash,
        "sshs_legacy_hash": legacy_hash,
        "modelspec.hash_sha256": f"0x{model_hash}",
    }
    data = serialised(tensors, metadata)

    def save(file: Path) -> None:
        file.write_bytes(data)
        if file.read_bytes() != data:
            raise OSError("what was read back is not what was written")

    try:
        write_atomically(path, save)
    except OSError as problem:
        told = problem.strerror or problem
        raise SdtuneError(f"{path}: cannot be written ({told}); free space or choose another place") from None
    return dtype


def _narrowed(path: Path, tensors: Mapping[str, Tensor], dtype: Precision) -> tuple[dict[str, Tensor], Precision]:
    """The tensors in this precision, or in the first that all of their values fit into; alpha in float32."""
    whole = {key: value.detach().cpu().float() for key, value in tensors.items()}
    for key, value in whole.items():
        if not torch.isfinite(value).all():
            told = f"{path}: not saved, as {key} holds what is no number"
            raise TrainingError(f"{told}: the training broke down; lower the learning rate")
    for taken in (dtype, *_WIDER[dtype]):
        narrow = {key: value if key.endswith(".alpha") else value.to(DTYPES[taken]) for key, value in whole.items()}
        if all(bool(torch.isfinite(value).all()) for value in narrow.values()):
            break
    return narrow, taken


def _with_alpha(module: LoraModule, alpha: float) -> LoraModule:
    """The same change told with another alpha."""
    return (
        module if module.alpha == alpha else LoraModule(module.down, module.up.float() * (module.alpha / alpha), alpha)
    )


def _usual(lora: Lora, part: str) -> float:
    """The alpha that most modules of a part have."""
    alphas = Counter(module.alpha for module in _of_part(lora, part).values() if module.alpha)
    return alphas.most_common(1)[0][0] if alphas else 1.0


def _kohya_tensors(lora: Lora, family: Family) -> dict[str, Tensor]:
    tensors = {}
    for module, value in lora.modules.items():
        name = names.to_kohya(module, family.kohya_prefixes, family.numbered_blocks)
        tensors[f"{name}.lora_down.weight"] = value.down
        tensors[f"{name}.lora_up.weight"] = value.up
        tensors[f"{name}.alpha"] = torch.tensor(value.alpha, dtype=torch.float64)
    return tensors


def _peft_tensors(lora: Lora) -> dict[str, Tensor]:
    pairs = lora.modules.items()
    return {f"{name}.lora_A.weight": value.down for name, value in pairs} | {
        f"{name}.lora_B.weight": value.up for name, value in pairs
    }


def _peft_config(lora: Lora) -> dict[str, str]:
    """The settings of peft as diffusers keeps them; without them a reload takes alpha for the rank."""
    settings: dict[str, Any] = {}
    for part in {names.split(name)[0] for name in lora.modules}:
        inside = {path.removeprefix("text_model."): value for path, value in _of_part(lora, part).items()}
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


def _of_part(lora: Lora, part: str) -> dict[str, LoraModule]:
    return {names.split(name)[1]: value for name, value in lora.modules.items() if names.split(name)[0] == part}


def _structure(lora: Lora, family: Family) -> dict[str, str]:
    """The metadata that follows from the LoRA itself, as kohya's programs and the ModelSpec standard name it."""
    prediction = lora.metadata.get("modelspec.prediction_type", "epsilon")
    ranks = {value.rank for value in lora.modules.values()}
    alphas = {value.alpha for value in lora.modules.values()}
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alphas.pop():.12g}" if len(alphas) == 1 else "Dynamic",
        "ss_base_model_version": family.version(prediction),
        "ss_v2": str(family.base_version.startswith("sd_v2")),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{family.architecture(prediction)}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": lora.metadata.get("modelspec.title", "LoRA"),
    }


def serialised(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file: metadata in sorted order, tensors in that of size and name (the library keeps no order)."""
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    ordered = sorted(tensors, key=lambda key: (-tensors[key].element_size(), key))
    pieces, end = [], 0
    for key in ordered:
        value = tensors[key].contiguous()
        piece = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        offsets = [end, end := end + len(piece)]
        entries[key] = {"dtype": _SAFETENSORS_NAMES[value.dtype], "shape": list(value.shape), "data_offsets": offsets}
        pieces.append(piece)
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, *pieces])


def _kohya_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, str]:
    """sshs_model_hash: SHA-256 of all after the header; sshs_legacy_hash: of 64 KB at 1 MB, with ss_ metadata alone."""
    data = serialised(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    start = 8 + int.from_bytes(data[:8], "little")
    return hashlib.sha256(data[start:]).hexdigest(), hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
