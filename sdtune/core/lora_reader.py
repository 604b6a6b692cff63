"""A LoRA read from one safetensors file, of whatever form and network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdtune.core.adapters import Adapter, LoraModule, adapters
from sdtune.core.adapters.difference import Difference
from sdtune.core.adapters.lokr import LokrModule
from sdtune.core.header import read_header
from sdtune.core.lora import Lora
from sdtune.core.lora_keys import Keys, family_of, keys_of
from sdtune.core.lora_settings import alphas
from sdtune.errors import LoraError

MAX_ALPHA = 2.0**20
"""far above any that was ever trained with; larger ones are a broken file's"""
MOST_HERE = 2**28
"""numbers that are made out beyond those of a file: of Tucker's form of SDXL's convolutions at rank 128 a quarter"""
MOST_LATER = 3 * 2**29
"""numbers of LoKr's shares, which are written whole: q, k and v of SD3.5 large have 1.35 x 10^9"""
Read = Callable[[str, str], Tensor]
"""(key, what it is of) -> the tensor in float32, all of its values finite"""


def read(path: Path) -> Lora:
    """The LoRA in a file of any form; nothing in it is left out without a word."""
    header = read_header(path, LoraError)
    keys = keys_of(path, header)
    alpha_of = alphas(path, header)
    try:
        with safe_open(path, framework="pt") as file:
            lora = Lora({}, family_of(keys, header), header.metadata)
            return _filled(path, lora, keys, _reading(path, file), alpha_of)
    except (SafetensorError, OSError) as problem:
        raise LoraError(f"{path}: a broken safetensors file ({problem}); get it again from where it came") from None


def _reading(path: Path, file: Any) -> Read:
    """Values one tensor at a time, in memory of their own."""

    def read_one(key: str, what: str) -> Tensor:
        value: Tensor = file.get_tensor(key).to(torch.float32, copy=True)
        if not torch.isfinite(value).all():
            raise LoraError(f"{path}: {what} holds values that are no numbers; the file is broken, choose another")
        return value

    return read_one


@dataclass
class _Made:
    """How many numbers were made out of a file beyond those that it holds."""

    here: int = 0
    """in memory"""
    later: int = 0
    """of which each is made when it is asked for"""

    def add(self, numbers: int) -> None:
        """Raises ValueError where these are more than any LoRA needs."""
        self.here += max(0, numbers)
        self._check(self.here, MOST_HERE)

    def add_later(self, numbers: int) -> None:
        """The same of those that are not made yet."""
        self.later += numbers
        self._check(self.later, MOST_LATER)

    def _check(self, numbers: int, most: int) -> None:
        if numbers > most:
            told = f"is where more than {most / 1e6:.0f} million numbers would be made out of far fewer"
            raise ValueError(f"{told}, which no LoRA of the families needs")


def _filled(path: Path, lora: Lora, keys: Keys, value_of: Read, alpha_of: Callable[[str, int], float]) -> Lora:
    modules: dict[str, Adapter] = {}
    whole: dict[tuple[str, ...], Adapter] = {}  # what several modules share, which is read once
    made = _Made()
    for module, roles in keys.modules.items():
        place = tuple(sorted(roles.values()))
        try:
            adapter = whole.get(place) or _adapter(module, keys.kinds[module], roles, value_of, alpha_of, made)
            if module in keys.cuts:
                whole = {place: adapter}
                adapter = adapter.share(*keys.cuts[module])
                if isinstance(adapter, LokrModule) and adapter.part != (0, 1):
                    made.add_later(math.prod(adapter.shape))
            modules[module] = _swapped(adapter, made) if module in keys.swapped else adapter
        except ValueError as problem:
            raise LoraError(f"{path}: {module} {problem}; get it again") from None
    biases = {}
    for module, key in keys.biases.items():
        bias = value_of(key, f"the bias of {module}").flatten()
        number, of = keys.cuts.get(module, (0, 1))
        if len(bias) % (2 * of if module in keys.swapped else of):
            raise LoraError(
                f"{path}: the bias of {module} has {len(bias)} values, which are no equal shares; get it again"
            )
        bias = bias.chunk(of)[number].clone()
        biases[module] = _halves_swapped(bias) if module in keys.swapped else bias
    embeddings = {
        word: {part: torch.atleast_2d(value_of(key, f"the word {word}")) for part, key in parts.items()}
        for word, parts in keys.embeddings.items()
    }
    return replace(lora, modules=modules, biases=biases, embeddings=embeddings)


def _adapter(
    module: str,
    kind: str,
    roles: Mapping[str, str],
    value_of: Read,
    alpha_of: Callable[[str, int], float],
    made: _Made,
) -> Adapter:
    tensors = {role: value_of(key, module) for role, key in roles.items()}
    told = tensors.pop("alpha", None)
    alpha = None if told is None else float(told)
    adapter = adapters()[kind].from_tensors(tensors, alpha)
    made.add(_numbers(adapter.tensors()) - _numbers(tensors))
    if alpha is None and adapter.rank and (usual := alpha_of(module, adapter.rank)) != adapter.rank:
        alpha = usual
        adapter = adapters()[kind].from_tensors(tensors, alpha)
    if adapter.rank and alpha is not None and abs(alpha) > MAX_ALPHA:  # without a rank it says nothing
        raise ValueError(f"has an alpha of {alpha:g}, which nobody trains with")
    return adapter


def _numbers(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for role, value in tensors.items() if role != "alpha")


def _swapped(adapter: Adapter, made: _Made) -> Adapter:
    """The same with the halves of the outputs in each other's place."""
    if adapter.shape[0] % 2:
        raise ValueError(f"has {adapter.shape[0]} outputs, which have no halves")
    if isinstance(adapter, LoraModule):
        return replace(adapter, up=_halves_swapped(adapter.up))
    if adapter.needs_base:
        raise ValueError(f"is {adapter.one} in the order of SD3's first publication, which sdtune cannot turn round")
    made.add(math.prod(adapter.shape))
    return Difference(_halves_swapped(adapter.delta()))


def _halves_swapped(values: Tensor) -> Tensor:
    return torch.cat(values.chunk(2)[::-1])
