"""Configs of models, held against their weights before anything of the sizes that they tell is made."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sdtune.core.config_file import config_of
from sdtune.core.header import Header
from sdtune.errors import ModelError

COUNTS = re.compile(r"layers?|depths?|stages?|blocks?")
"""in the names of numbers of parts, of which each has a tensor at least"""
WIDE = re.compile(r"labels?|heads?|groups?|channels?")
MOST_WIDE = 2**16
MOST = 2**24
"""of all others: vocabularies have 2**18 words, rotary embeddings a base of 5,000,000"""
MOST_PIXELS = 4096  # of a side
MOST_AREA = 2**26  # pixels
SLACK = 10_000_000  # weights that a file need not hold: those that are shared, or made


def must_be_sane(file: Path, headers: Sequence[Header]) -> dict[str, Any]:
    """A model's config, of which no number of layers or size is beyond what its weights can be."""
    config = config_of(file)
    tensors = sum(len(header.shapes) for header in headers)
    for path, number in _numbers(config):
        name = path.rpartition(".")[2]
        parts = re.split(r"_", name)
        if any(COUNTS.fullmatch(part) for part in parts):
            most = tensors
        else:
            most = MOST_WIDE if any(WIDE.fullmatch(part) for part in parts) else MOST
        if abs(number) > most:
            raise ModelError(f"{file}: {path} is not a number up to {most}; download the model again")
    return config


def must_fit(file: Path, model: Any, headers: Sequence[Header]) -> None:
    """Stop at a model that would take far more memory than its weights, by the shapes that its config tells."""
    held = sum(math.prod(shape) for header in headers for shape in header.shapes.values())
    told = sum(parameter.numel() for parameter in model.parameters())
    if told > 2 * held + SLACK:
        raise ModelError(f"{file}: tells of {told} weights where there are {held}; download the model again")


def must_make_pixels(file: Path) -> None:
    """Stop at a preprocessor_config.json that does not make three colours of a sane size."""
    config = config_of(file)
    config = config["image_processor"] if isinstance(config.get("image_processor"), dict) else config
    areas = "merge_size" in config  # as Qwen's tell their sizes
    for name in ("image_mean", "image_std"):
        values = config.get(name) or [0.5] * 3
        three = isinstance(values, list) and len(values) == 3
        if not three or not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            raise ModelError(f"{file}: {name} is not three numbers; download the model again")
        if name == "image_std" and 0 in values:
            raise ModelError(f"{file}: image_std is not above 0; download the model again")
    for path, number in _numbers(config):
        edge = path.startswith(("size", "crop_size"))
        most = MOST_AREA if areas or not edge else MOST_PIXELS
        if abs(number) > most or (edge and number < 1):
            raise ModelError(f"{file}: {path} is not a number from 1 to {most}; download the model again")


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, int]]:
    """Whole numbers with their names, those in lists by the list's name."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, path)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path, value
