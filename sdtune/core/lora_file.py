"""A LoRA as one safetensors file: key names (kohya, peft, diffusers), alpha, metadata."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sdtune.core import lora_names as names
from sdtune.core.families import Family, families, family_named
from sdtune.core.header import Header, read_header, what_is
from sdtune.core.lora import Lora, LoraModule, check_family, from_peft, load_into
from sdtune.core.run_folder import write_atomically
from sdtune.errors import LoraError, SdtuneError, TrainingError

__all__ = ["Lora", "LoraModule", "check_family", "from_peft", "load_into", "read", "write"]

MAX_RANK = 1024
Precision = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_WIDER: dict[Precision, tuple[Precision, ...]] = {"fp32": (), "fp16": ("bf16", "fp32"), "bf16": ("fp32",)}
"""what else is tried where values are too large"""
_SAFETENSORS_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_CONFIG = "lora_adapter_metadata"
"""where diffusers keeps peft's settings in a file's metadata"""
_ROLES = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".alpha": "alpha",
}
_OTHER_NETWORKS = {
    ".dora_scale": "a DoRA",
    ".lora_magnitude_vector": "a DoRA",
    ".hada_": "a LoHa",
    ".lokr_": "a LoKr",
    ".oft_": "an OFT",
    ".on_input": "an (IA)3",
    ".lora_mid.": "a LoRA with Tucker decomposition",
    ".a1.weight": "a GLoRA",
    ".diff.": "a difference of whole weights",
}


# ---- writing


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
    data = _serialised(tensors, metadata)

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
    return {"format": "pt", _CONFIG: json.dumps(settings, sort_keys=True)}


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


def _serialised(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
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
    data = _serialised(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    start = 8 + int.from_bytes(data[:8], "little")
    return hashlib.sha256(data[start:]).hexdigest(), hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]


# ---- reading


def read(path: Path) -> Lora:
    """The LoRA in a file of kohya's, peft's or diffusers' form; nothing in it is left out without a word."""
    header = read_header(path, LoraError)
    _refuse_other_files(path, header)
    places = _places(path, header)
    try:
        values = load_file(path)
    except (SafetensorError, OSError) as problem:
        raise LoraError(f"{path}: a broken safetensors file ({problem}); get it again from where it came") from None
    alphas = _alphas(path, header)
    modules = {}
    for name, keys in places.items():
        if not {"down", "up"} <= keys.keys():
            raise LoraError(
                f"{path}: {name} has {' and '.join(sorted(keys))} alone; the file is not whole, get it again"
            )
        down, up = values[keys["down"]], values[keys["up"]]
        if not (down.is_floating_point() and up.is_floating_point()):
            whole = header.dtypes[keys["up"] if down.is_floating_point() else keys["down"]]
            raise LoraError(f"{path}: {name} holds whole numbers ({whole}), which no LoRA is made of; choose another")
        down, up = down.float(), up.float()
        matrices = down.ndim in (2, 4) and up.ndim in (2, 4)
        fits = matrices and up.shape[1] == down.shape[0] and math.prod(up.shape[2:]) == 1
        if not fits or not 1 <= down.shape[0] <= MAX_RANK:
            shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
            raise LoraError(
                f"{path}: {name} has shapes {shapes}, which make no LoRA of rank 1 to {MAX_RANK}; get it again"
            )
        alpha = float(values[keys["alpha"]]) if "alpha" in keys else alphas(name, down.shape[0])
        if not (torch.isfinite(down).all() and torch.isfinite(up).all() and math.isfinite(alpha)):
            raise LoraError(f"{path}: {name} holds values that are no numbers; the file is broken, choose another")
        modules[name] = LoraModule(down, up, alpha)
    return Lora(modules, _family(modules, header.metadata), header.metadata)


def _refuse_other_files(path: Path, header: Header) -> None:
    keys = header.shapes
    if not keys:
        raise LoraError(f"{path}: holds no weights; get it again")
    if any(family.recognises(keys) for family in families().values()):
        raise LoraError(f"{path}: a whole model, not a LoRA; give it with --model")
    for mark, kind in _OTHER_NETWORKS.items():
        if any(mark in f"{key}." for key in keys):
            raise LoraError(f"{path}: {kind}, which sdtune does not read; choose a plain LoRA")


def _places(path: Path, header: Header) -> dict[str, dict[str, str]]:
    """{module: {down, up or alpha: key}} of every tensor in the file."""
    places: dict[str, dict[str, str]] = {}
    unknown = []
    for key, shape in header.shapes.items():
        suffix = max((end for end in _ROLES if key.endswith(end)), key=len, default="")
        name = key.removesuffix(suffix)
        if "_lora." in suffix or ".lora." in suffix:
            name = names.modernised(name)
        module = names.from_kohya(name) or names.from_dotted(name) if suffix else None
        if module is None or (_ROLES[suffix] == "alpha" and math.prod(shape) != 1):
            unknown.append(key)
        elif _ROLES[suffix] in places.setdefault(module, {}):
            raise LoraError(f"{path}: names {module} twice ({key}); the file is broken, choose another")
        else:
            places[module][_ROLES[suffix]] = key
    if unknown:
        told = f"{unknown[0]}" + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
        raise LoraError(
            f"{path}: not a LoRA of a kind that sdtune reads (it does not know {told}); choose another file"
        )
    return places


def _alphas(path: Path, header: Header) -> Callable[[str, int], float]:
    """(module, rank) -> alpha, for modules without a tensor of their own: from peft's settings, else the rank."""
    settings = _settings(path, header)

    def alpha(module: str, rank: int) -> float:
        part, inside = names.split(module)
        usual = settings.get(f"{part}.lora_alpha", rank)
        patterns = settings.get(f"{part}.alpha_pattern") or {}
        fitting = [value for end, value in patterns.items() if f".{inside}".endswith("." + end.lstrip("^"))]
        value = float(fitting[0] if fitting else usual)
        return value * math.sqrt(rank) if settings.get(f"{part}.use_rslora") else value

    return alpha


def _settings(path: Path, header: Header) -> dict[str, Any]:
    """{part.setting: value} as peft keeps them, in the file or beside it; empty where they are in neither."""
    beside = path.parent / "adapter_config.json"
    if _CONFIG in header.metadata:
        place, text = f"{path}: its {_CONFIG}", header.metadata[_CONFIG]
    elif path.name == "adapter_model.safetensors" and what_is(beside, LoraError) == "file":
        place, text = f"{beside}: it", _small(beside)
    else:
        return {}
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict) and _CONFIG not in header.metadata:
        told = {f"{part}.{key}": value for part in names.PARTS for key, value in told.items()}
    if not isinstance(told, dict) or not all(_is_of_peft(key, value) for key, value in told.items()):
        raise LoraError(f"{place} is not what peft writes; get the file again")
    return told


def _small(file: Path) -> str:
    """The text of a file of settings; of one too large for that, or of no text, nothing."""
    try:
        return file.read_text("utf-8") if file.stat().st_size < 2**20 else ""
    except (OSError, ValueError):
        return ""


def _is_of_peft(key: str, value: Any) -> bool:
    """Whether a setting is of the kind that peft writes, as far as alpha needs it."""
    setting = key.rpartition(".")[2]
    if setting == "lora_alpha":
        return _is_number(value)
    if setting == "alpha_pattern":
        return value is None or (isinstance(value, dict) and all(map(_is_number, value.values())))
    return setting != "use_rslora" or value is None or isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**32  # so neither infinite nor NaN


def _family(modules: Mapping[str, LoraModule], metadata: Mapping[str, str]) -> str | None:
    """By shapes and names where these are sure, else by what the metadata says."""
    shapes = {name: tuple(module.down.shape) for name, module in modules.items()}
    told = [metadata.get(key, "") for key in ("modelspec.architecture", "ss_base_model_version")]
    sure = [family.name for family in families().values() if family.recognises_lora(shapes)]
    said = [family.name for family in families().values() if any(text.startswith(family.marks) for text in told)]
    return next(iter([*sure, *said]), None)
