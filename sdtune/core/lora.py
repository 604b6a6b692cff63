"""A LoRA in memory, taken out of a model and put into one.

What a network does to a module's weights, at its strength, stands in adapters/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sdtune.core import lora_names as names
from sdtune.core.adapters import Adapter, LoraModule
from sdtune.core.adapters.base import flat, without_ones
from sdtune.core.adapters.difference import Difference
from sdtune.core.beside import Beside, put_beside
from sdtune.core.families import Family, family_named
from sdtune.core.model_folder import INPAINTING_CHANNELS
from sdtune.errors import LoraError

if TYPE_CHECKING:
    from sdtune.core.applied import Applied
    from sdtune.core.blocks import Strength

_REMEDY = "choose the model that the LoRA was made for"
SAMPLED = 64  # numbers of each weight in a fingerprint


@dataclass(frozen=True)
class Lora:
    """A LoRA in memory."""

    modules: Mapping[str, Adapter]
    """by the pipeline's part and diffusers' path in it (see lora_names.py)"""
    family: str | None
    """sd1, sd2, sdxl, sd3; None where neither names, shapes nor metadata tell sd1 from sd2"""
    metadata: Mapping[str, str] = field(default_factory=dict)
    biases: Mapping[str, Tensor] = field(default_factory=dict)
    """what is added to the biases of some modules [out], by the same names"""
    embeddings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """new words that are bundled with it: {word: {"text_encoder": vectors [n, width]}}, by part of the pipeline"""

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {}

    def digest_of(self, name: str) -> str:
        """A hash of all that it does to a module at a strength of 1; made once."""
        if name not in self._digests:
            adapter, bias = self.modules.get(name), self.biases.get(name)
            tensors = {f"{adapter.kind} {role}": one for role, one in adapter.tensors().items()} if adapter else {}
            self._digests[name] = digest_of(tensors | ({"bias": bias} if bias is not None else {}))
        return self._digests[name]


def from_peft(
    net: nn.Module,
    family: Family,
    metadata: Mapping[str, str] | None = None,
    adapter_name: str = "default",
    text_encoders: Mapping[str, nn.Module] | None = None,
) -> Lora:
    """The adapter that peft put into the denoiser (and text encoders, by part); each module's alpha as it acts."""
    modules = {}
    for part, trained in {family.denoiser: net, **(text_encoders or {})}.items():
        for path, layer in trained.named_modules():
            if adapter_name not in getattr(layer, "lora_A", ()):
                continue
            assert not layer.use_dora.get(adapter_name), "a DoRA is no plain LoRA"
            down = layer.lora_A[adapter_name].weight.detach()
            up = layer.lora_B[adapter_name].weight.detach()
            name = names.from_dotted(f"{part}.{path}")
            assert name, f"{part}.{path} has no name in files"
            modules[name] = LoraModule(down, up, layer.scaling[adapter_name] * down.shape[0])
    assert modules, f"there is no adapter {adapter_name}"
    return Lora(modules, family.name, metadata or {})


@contextmanager
def at_strength(net: nn.Module, strength: float, adapter_name: str = "default") -> Iterator[None]:
    """The denoiser with its adapter acting that strongly, meanwhile."""
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in net.modules() if isinstance(layer, LoraLayer)]
    for layer in layers:
        layer.set_scale(adapter_name, strength)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_scale(adapter_name, 1.0)


def fingerprint(net: nn.Module) -> str:
    """A hash of some numbers of each frozen weight: another model has another."""
    digest = hashlib.sha256()
    for name, weight in net.named_parameters():
        if not weight.requires_grad:
            flat = weight.detach().flatten()
            digest.update(name.encode() + flat[:: max(1, len(flat) // SAMPLED)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A hash of tensors, their names, shapes and types."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_family(lora: Lora, family: Family, path: Path) -> None:
    """Stop at a LoRA of another family than the model's."""
    if lora.family and lora.family != family.name:
        made_for = family_named(lora.family).title
        raise LoraError(f"{path}: a LoRA for {made_for}, but the model is {family.title}; choose one to fit the other")


def load_into(pipe: Any, lora: Lora, strength: Strength | float = 1.0, adapter_name: str = "lora") -> None:
    """Put a LoRA into a pipeline: a plain one beside the weights through peft, in float32; all else onto the weights.

    Several act together, each under a name of its own and at its own strength. Networks whose change depends on the
    weights see them as they are by then; `load_all` has no such order.
    """
    _put([fitted(pipe, lora, strength)], pipe, [adapter_name])


def load_all(pipe: Any, applied: Sequence[Applied]) -> None:
    """Put several into a pipeline, or none where one does not fit: each changes the model as if it were alone."""
    _put(all_fitted(pipe, applied), pipe, [name_of(number) for number in range(len(applied))])


def name_of(number: int) -> str:
    """What peft calls the one of several that stands there."""
    return f"lora{number}"


def all_fitted(pipe: Any, applied: Sequence[Applied], elsewhere: Collection[str] = ()) -> list[Fitted]:
    """Each as `fitted` has it; LoraError with its path where one does not fit."""
    found = []
    for one in applied:
        try:
            found.append(fitted(pipe, one.lora, one.strength, elsewhere))
        except LoraError as problem:
            raise LoraError(f"{one.path}: {problem}") from None
    return found


def check_shape(name: str, adapter: Adapter, weight: Sequence[int]) -> None:
    """Stop at an adapter for weights of another shape than this, which is not flat."""
    if not adapter.fits(weight):
        whole = flat(weight)
        kernel = adapter.kernel
        if kernel is not None and adapter.shape == whole and not adapter.has_kernel_of(weight):
            told = f"the LoRA changes {name} {_kernels(kernel)}, but in the model it is {_kernels(weight[2:])}"
            raise LoraError(f"{told}; {_REMEDY}")
        told = f"the LoRA changes {name} as {adapter.shape}, but in the model it is {whole}"
        is_for_inpainting = name == "unet.conv_in" and weight[1] == INPAINTING_CHANNELS
        remedy = "a model for inpainting; leave that out, with conv_in=0 behind the LoRA's strength"
        raise LoraError(f"{told}, {remedy}" if is_for_inpainting else f"{told}; {_REMEDY}")


def _kernels(kernel: Sequence[int]) -> str:
    return f"as kernels of {kernel[0]} x {kernel[1]}" if without_ones(kernel) else "as a layer without kernels"


def changed(weight: Tensor, changes: Iterable[tuple[Adapter, float]]) -> Tensor:
    """The weight with all of these (adapter, strength) added, in float32; each sees it as it was."""
    base = weight.detach().to("cpu", torch.float32)
    rows = base.reshape(flat(base.shape))
    total = rows.clone()
    for adapter, strength in changes:
        total += strength * adapter.delta(rows).cpu()
    return total.reshape(base.shape)


@dataclass(frozen=True)
class Fitted:
    """A LoRA as it goes into a pipeline that it fits, by part, without what has no strength."""

    beside: Mapping[str, Beside]
    added: Mapping[str, Sequence[tuple[Tensor, Adapter, float]]]
    """(weight or bias, what changes it, strength)"""


def fitted(pipe: Any, lora: Lora, strength: Strength | float, elsewhere: Collection[str] = ()) -> Fitted:
    """All of it that acts is there and of the right shape in the pipeline; LoraError where it is not.

    Parts that are `elsewhere` are left alone.
    """
    beside: dict[str, dict[str, tuple[LoraModule, float]]] = {}
    added: dict[str, list[tuple[Tensor, Adapter, float]]] = {}
    strengths = {name: _acting(strength, name) for name in (*lora.modules, *lora.biases)}
    acting = {name: value for name, value in strengths.items() if value}
    for part in sorted({names.split(name)[0] for name in acting}):
        if part in elsewhere:
            continue
        net = getattr(pipe, part, None)
        if net is None:
            leave = f"or leave that out, with {part}=0 behind the LoRA's strength"
            raise LoraError(f"the LoRA changes a {part}, which the model has not; {_REMEDY}, {leave}")
        layers = dict(net.named_modules())
        for name in sorted(name for name in acting if names.split(name)[0] == part):
            path, layer = _layer(name, layers)
            if (adapter := lora.modules.get(name)) is not None:
                check_shape(name, adapter, _shape(name, layer))
                if isinstance(adapter, LoraModule) and isinstance(layer, nn.Linear | nn.Conv2d):
                    beside.setdefault(part, {})[path] = adapter, acting[name]
                else:
                    _check_open(name, adapter, layer)
                    added.setdefault(part, []).append((layer.weight, adapter, acting[name]))
            if (values := lora.biases.get(name)) is not None:
                bias = getattr(layer, "bias", None)
                if bias is None:
                    raise LoraError(f"the LoRA changes the bias of {name}, which the model has not; {_REMEDY}")
                of_bias = Difference(values)
                check_shape(f"the bias of {name}", of_bias, bias.shape)
                added.setdefault(part, []).append((bias, of_bias, acting[name]))
    return Fitted(beside, added)


def _acting(strength: Strength | float, name: str) -> float:
    return strength if isinstance(strength, int | float) else strength(name)


def _layer(name: str, layers: Mapping[str, nn.Module]) -> tuple[str, Any]:
    """(path as spelt in memory, layer), the layer without what peft has put around it; None where it is not there."""
    path = names.in_model(name, layers)
    layer = layers.get(path)
    return path, getattr(layer, "base_layer", layer)


def _shape(name: str, layer: Any) -> tuple[int, ...]:
    """Of a layer's weights."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels, *layer.kernel_size
    if isinstance(layer, nn.Linear):  # its weight may be packed in 4 bits
        return layer.out_features, layer.in_features
    if not isinstance(getattr(layer, "weight", None), Tensor):
        raise LoraError(f"the LoRA changes {name}, which the model has not; {_REMEDY}")
    return tuple(layer.weight.shape)


def _check_open(name: str, adapter: Adapter, layer: Any) -> None:
    """Stop at weights to which nothing can be added."""
    weight = layer.weight
    if not weight.is_floating_point() or flat(weight.shape) != flat(_shape(name, layer)):
        told = f"the LoRA's {adapter.kind} of {name} is added to the weights, but the model's are packed"
        raise LoraError(
            f"{told} ({type(layer).__name__}); choose the model unpacked, or `sdtune merge` the LoRA into it"
        )


def _put(loras: Sequence[Fitted], pipe: Any, adapter_names: Sequence[str]) -> None:
    for one, name in zip(loras, adapter_names, strict=True):
        for part, wanted in one.beside.items():
            put_beside(getattr(pipe, part), wanted, name)
    for weight, changes in by_weight(loras).items():
        weight.data.copy_(changed(weight, changes))


def by_weight(
    loras: Sequence[Fitted], parts: Collection[str] | None = None
) -> dict[Tensor, list[tuple[Adapter, float]]]:
    """What changes each weight and bias, of some parts or of all, in the order of the LoRAs."""
    changes: dict[Tensor, list[tuple[Adapter, float]]] = {}
    for one in loras:
        for part, added in one.added.items():
            for weight, adapter, strength in added if parts is None or part in parts else ():
                changes.setdefault(weight, []).append((adapter, strength))
    return changes
