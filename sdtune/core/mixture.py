"""A base model's weights with LoRAs in them, made one at a time and rounded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sdtune.core.adapters import Adapter
from sdtune.core.adapters.base import flat
from sdtune.core.adapters.difference import Difference
from sdtune.core.applied import Applied
from sdtune.core.lora import check_shape
from sdtune.core.merge_check import layer_difference
from sdtune.core.tensor_file import TORCH_DTYPES, finite
from sdtune.core.weights import Weights
from sdtune.errors import LoraError, ModelError
from sdtune.lora_config import Dtype

NAMES: Mapping[Dtype, str] = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
"""as safetensors names them"""
KEPT = ("F64", *NAMES.values())
"""what is written as in the base where no precision is asked for; others, of 8 bits, become fp16"""
REMEDY = "choose the model that the LoRA was made for"


@dataclass(frozen=True)
class Change:
    """What a LoRA adds to one tensor."""

    strength: float
    adapter: Adapter


class Mixture:
    """What the merged model is made of."""

    def __init__(self, weights: Weights, applied: Sequence[Applied], dtype: Dtype | None, base: str) -> None:
        """Raises LoraError where a LoRA changes what the model has not, which messages call `base`."""
        self.weights = weights
        self._base = base
        self.changes: dict[str, list[Change]] = {}
        """by part and diffusers' name of the tensor, each as if it were alone"""
        self.dtypes = {name: _dtype(stored, dtype) for name, stored in weights.dtypes.items()}
        """of what is written, as safetensors names them"""
        self.difference = 0.0
        """largest of the layers that were made, see merge_check.py"""
        for one in applied:
            self._put(one)

    @property
    def changed(self) -> set[str]:
        """The modules whose weights are not the base's."""
        return {name.rpartition(".")[0] for name in self.changes}

    def is_untouched(self, name: str) -> bool:
        """Whether a tensor is the base's, bit for bit."""
        is_kept = self.dtypes[name] == self.weights.dtypes[name] and name not in self.weights.packed
        return is_kept and name not in self.changes

    def made(self, name: str) -> Tensor:
        """One of the model's tensors: as stored where nothing becomes of it, else in float32, not yet rounded."""
        base = self.weights.read(name)
        if not finite(base):
            raise ModelError(f"{self._base}: {name} holds what is no number; download the model again")
        if name not in self.changes:
            return base if self.is_untouched(name) or not base.is_floating_point() else base.float()
        rows = base.float().reshape(flat(base.shape))
        updates = [(change.strength, change.adapter.delta(rows)) for change in self.changes[name]]
        exact = rows.clone()
        for strength, update in updates:
            exact.add_(update, alpha=strength)
        rounded = exact.to(TORCH_DTYPES[self.dtypes[name]])
        if rounded.isfinite().all():
            self.difference = max(self.difference, layer_difference(rows, updates, rounded))
        return exact.reshape(base.shape)

    def _put(self, one: Applied) -> None:
        for module, adapter in one.lora.modules.items():
            self._add(one, module, "weight", adapter)
        for module, bias in one.lora.biases.items():
            self._add(one, module, "bias", Difference(bias))

    def _add(self, one: Applied, module: str, kind: str, adapter: Adapter) -> None:
        strength = one.strength(module)
        if not strength:
            return
        name, what = f"{module}.{kind}", f"the bias of {module}" if kind == "bias" else module
        shape = self.weights.shapes.get(name)
        part = module.partition(".")[0]
        if not any(other.startswith(f"{part}.") for other in self.weights.shapes):
            others = {other.partition(".")[0] for other in (*one.lora.modules, *one.lora.biases)} - {part}
            leave = f", or leave that out with {one.path.name}:{one.strength.usual:g}:{part}=0" if others else ""
            raise LoraError(f"{one.path}: the LoRA changes a {part}, which {self._base} has not; {REMEDY}{leave}")
        if shape is None:
            raise LoraError(f"{one.path}: the LoRA changes {what}, which {self._base} has not; {REMEDY}")
        try:
            check_shape(what, adapter, shape)
        except LoraError as problem:
            raise LoraError(f"{one.path}: {problem}") from None
        self.changes.setdefault(name, []).append(Change(strength, adapter))


def _dtype(stored: str, asked: Dtype | None) -> str:
    if not TORCH_DTYPES[stored].is_floating_point:
        return stored
    return NAMES[asked] if asked else stored if stored in KEPT else "F16"
