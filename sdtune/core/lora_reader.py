"""A LoRA read from one safetensors file, of kohya's form, peft's or diffusers'."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sdtune.core import lora_names as names
from sdtune.core.families import families
from sdtune.core.header import Header, read_header, what_is
from sdtune.core.lora import Lora, LoraModule
from sdtune.errors import LoraError

MAX_RANK = 1024
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
    if names.SETTINGS in header.metadata:
        place, text = f"{path}: its {names.SETTINGS}", header.metadata[names.SETTINGS]
    elif path.name == "adapter_model.safetensors" and what_is(beside, LoraError) == "file":
        place, text = f"{beside}: it", _small(beside)
    else:
        return {}
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict) and names.SETTINGS not in header.metadata:
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
