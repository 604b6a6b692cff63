"""What a model folder has beside weights: configs, tokenizers, the scheduler, its licence, copied from another one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdtune.core.merge_out import INDEX
from sdtune.errors import ModelError

COPIED = (".json", ".txt", ".model")
LICENCES = ("LICENSE", "LICENCE", "NOTICE")
"""how the names of files begin that go with a model wherever it goes"""
CONFIG = "config.json"
DROPPED = ("quantization_config", "_name_or_path")
"""of a part's config: the weights are unpacked, and a path says where somebody keeps their files"""
DTYPES = ("torch_dtype", "dtype")
"""what transformers has called it in configs"""


def file_of(part: str) -> str:
    """The name of a part's weights."""
    return "model.safetensors" if part.startswith("text_encoder") else "diffusion_pytorch_model.safetensors"


def copy_configs(
    source: Path, target: Path, parts: Mapping[str, str], changes: Mapping[str, Mapping[str, Any]]
) -> None:
    """All but weights, of the parts {name: precision as torch names it} and what goes with them.

    `changes` are {"unet": {"in_channels": 9}} of configs. Parts that have weights but are not copied are named as
    missing in the index, as diffusers does it of a model that was saved without them.
    """
    index = _json(source / INDEX)
    for name, kind in list(index.items()):
        if isinstance(kind, list) and (source / name).is_dir() and kind != [None, None]:
            if name not in parts and (source / name / CONFIG).is_file():
                index[name] = [None, None]
                if name == "safety_checker":
                    index["requires_safety_checker"] = False
            else:
                _copy_part(source / name, target / name, parts.get(name), changes.get(name, {}))
    index.pop("_name_or_path", None)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.name.upper().startswith(LICENCES):
            (target / file.name).write_bytes(file.read_bytes())
    _write(target / INDEX, index)


def _copy_part(source: Path, target: Path, dtype: str | None, changes: Mapping[str, Any]) -> None:
    target.mkdir()
    for file in sorted(source.iterdir()):
        if not file.is_file() or file.suffix not in COPIED or ".index." in file.name:
            continue
        is_config = file.name in (CONFIG, "scheduler_config.json")
        if not is_config:
            (target / file.name).write_bytes(file.read_bytes())
            continue
        config = {key: value for key, value in _json(file).items() if key not in DROPPED}
        config |= {key: dtype for key in DTYPES if key in config and dtype} | dict(changes)
        _write(target / file.name, config)


def _json(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise ModelError(f"{file}: not a config in JSON; download the model again")
    return told


def _write(file: Path, told: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(told, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
