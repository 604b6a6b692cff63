"""A LoRA read from one safetensors file, of whatever form and network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdtune.core.adapters import Adapter, LoraModule, adapters
from sdtune.core.adapters.difference import Difference
from sdtune.core.header import read_header
from sdtune.core.lora import Lora
from sdtune.core.lora_keys import Keys, family_of, keys_of
from sdtune.core.lora_settings import alphas
from sdtune.errors import LoraError

MAX_ALPHA = 2.0**20
"""far above any that was ever trained with; larger ones are a broken file's"""
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


def _filled(path: Path, lora: Lora, keys: Keys, value_of: Read, alpha_of: Callable[[str, int], float]) -> Lora:
    modules: dict[str, Adapter] = {}
    whole: dict[tuple[str, ...], Adapter] = {}  # what several modules share, which is read once
    for module, roles in keys.modules.items():
        place = tuple(sorted(roles.values()))
        try:
            adapter = whole.get(place) or _adapter(module, keys.kinds[module], roles, value_of, alpha_of)
            if module in keys.cuts:
                whole = {place: adapter}
                adapter = adapter.share(*keys.cuts[module])
            modules[module] = _swapped(adapter) if module in keys.swapped else adapter
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
    module: str, kind: str, roles: Mapping[str, str], value_of: Read, alpha_of: Callable[[str, int], float]
) -> Adapter:
    tensors = {role: value_of(key, module) for role, key in roles.items()}
    told = tensors.pop("alpha", None)
    alpha = None if told is None else float(told)
    adapter = adapters()[kind].from_tensors(tensors, alpha)
    if alpha is None and adapter.rank and (usual := alpha_of(module, adapter.rank)) != adapter.rank:
        alpha = usual
        adapter = adapters()[kind].from_tensors(tensors, alpha)
    if adapter.rank and alpha is not None and abs(alpha) > MAX_ALPHA:  # without a rank it says nothing
        raise ValueError(f"has an alpha of {alpha:g}, which nobody trains with")
    return adapter


def _swapped(adapter: Adapter) -> Adapter:
    """The same with the halves of the outputs in each other's place."""
    if adapter.shape[0] % 2:
        raise ValueError(f"has {adapter.shape[0]} outputs, which have no halves")
    if isinstance(adapter, LoraModule):
        return replace(adapter, up=_halves_swapped(adapter.up))
    if adapter.needs_base:
        raise ValueError(f"is {adapter.one} in the order of SD3's first publication, which sdtune cannot turn round")
    return Difference(_halves_swapped(adapter.delta()))


def _halves_swapped(values: Tensor) -> Tensor:
    return torch.cat(values.chunk(2)[::-1])
