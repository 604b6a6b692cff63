"""What a model folder has beside weights: configs, tokenizers, the scheduler, its licence, copied from another one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdtune.core.config_file import config_of
from sdtune.core.merge_out import CONFIG, INDEX, goes_with_part, is_licence
from sdtune.core.shareable import without_places
from sdtune.errors import ModelError

REPOSITORY, SNAPSHOTS, BLOBS = "models--", "snapshots", "blobs"
"""of the hub's cache: models--owner--name/snapshots/<revision> links to files of models--owner--name/blobs"""
DROPPED = "quantization_config"
"""of a part's config: the weights are unpacked"""
OF_TOKENIZERS = "tokenizer_config.json"
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
    _must_be_inside(source / INDEX, source)
    index = config_of(source / INDEX)
    if wrong := [name for name in index if not re.fullmatch(r"\w{1,64}", name)]:
        raise ModelError(f"{source / INDEX}: {wrong[0][:80]!a} is no name of a part; download the model again")
    for name, kind in list(index.items()):
        if isinstance(kind, list) and (source / name).is_dir() and kind != [None, None]:
            if name not in parts and (source / name / CONFIG).is_file():
                index[name] = [None, None]
                if name == "safety_checker":
                    index["requires_safety_checker"] = False
            else:
                _copy_part(source, target / name, parts.get(name), changes.get(name, {}))
    index.pop("_name_or_path", None)
    for file in sorted(source.iterdir()):
        if file.is_file() and is_licence(file.name):
            _copy(file, target / file.name, source)
    _write(target / INDEX, index)


def _copy_part(folder: Path, target: Path, dtype: str | None, changes: Mapping[str, Any]) -> None:
    target.mkdir()
    for file in sorted((folder / target.name).iterdir()):
        if not file.is_file() or not goes_with_part(file.name) or ".index." in file.name:
            continue
        is_config = file.name in (CONFIG, "scheduler_config.json")
        if not is_config and (file.name != OF_TOKENIZERS or _names_no_place(file, folder)):
            _copy(file, target / file.name, folder)
            continue
        _must_be_inside(file, folder)
        config = without_places(config_of(file))
        if is_config:
            config.pop(DROPPED, None)
            config |= {key: dtype for key in DTYPES if key in config and dtype} | dict(changes)
        _write(target / file.name, config)


def _names_no_place(file: Path, folder: Path) -> bool:
    """Whether a config can be copied as it is."""
    _must_be_inside(file, folder)
    config = config_of(file)
    return without_places(config) == config


def _copy(file: Path, target: Path, folder: Path) -> None:
    _must_be_inside(file, folder)
    shutil.copyfile(file, target)


def _must_be_inside(file: Path, folder: Path) -> None:
    """Stop at a link that leads out of the model's folder, but to where the hub's cache keeps what models have.

    Downloads into a folder of one's own have been links to there, too.
    """
    place, home = file.resolve(), folder.resolve()
    homes = [home, home.parents[1] / BLOBS] if home.parent.name == SNAPSHOTS else [home]
    is_blob = place.parent.name == BLOBS and place.parents[1].name.startswith(REPOSITORY)
    if not is_blob and not any(place.is_relative_to(one) for one in homes):
        raise ModelError(f"{file}: a link that leads out of the model's folder; put the file itself there")


def _write(file: Path, told: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(told, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
