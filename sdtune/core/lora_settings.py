"""PEFT's settings in a LoRA file or beside it, as far as alpha needs them; without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdtune.core import lora_names as names
from sdtune.core.header import Header, what_is
from sdtune.errors import LoraError


def alphas(path: Path, header: Header) -> Callable[[str, int], float]:
    """(module, rank) -> alpha, for modules without a tensor of their own: from peft's settings, else the rank."""
    told = told_alphas(path, header)

    def alpha(module: str, rank: int) -> float:
        value = told(module, rank)
        return rank if value is None else value

    return alpha


def told_alphas(path: Path, header: Header) -> Callable[[str, int], float | None]:
    """The same, None where peft's settings say nothing of it."""
    settings = _settings(path, header)
    patterns = {part: _by_path(settings.get(f"{part}.alpha_pattern") or {}) for part in names.PARTS}

    def alpha(module: str, rank: int) -> float | None:
        part, inside = names.split(module)
        pieces = inside.split(".")
        ends = (".".join(pieces[start:]) for start in range(len(pieces)))
        fitting = [patterns[part][end] for end in ends if end in patterns[part]]
        usual = settings.get(f"{part}.lora_alpha", settings.get(f"{part}.alpha"))  # alpha: of its LoHa and LoKr
        told = min(fitting)[1] if fitting else usual
        if told is None:
            return None
        return float(told) * math.sqrt(rank) if settings.get(f"{part}.use_rslora") else float(told)

    return alpha


def _by_path(patterns: dict[str, float]) -> dict[str, tuple[int, float]]:
    """{the end of a module's path: (place among the patterns, alpha)}; peft takes the first that fits."""
    found: dict[str, tuple[int, float]] = {}
    for place, (end, value) in enumerate(patterns.items()):
        found.setdefault(end.lstrip("^"), (place, value))
    return found


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
    if isinstance(told, dict) and not any(names.split(key)[0] in names.PARTS for key in told):
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
    if setting in ("lora_alpha", "alpha"):
        return _is_number(value)
    if setting == "alpha_pattern":
        return value is None or (isinstance(value, dict) and all(map(_is_number, value.values())))
    return setting != "use_rslora" or value is None or isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**32  # so neither infinite nor NaN
