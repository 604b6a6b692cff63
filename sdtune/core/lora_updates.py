"""What the modules of a LoRA add, whatever the network, in the forms in which ranks can be changed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from sdtune.core import model
from sdtune.core.adapters import Adapter, LoraModule
from sdtune.core.adapters.difference import Difference
from sdtune.core.families import family_named
from sdtune.core.lora import Lora, check_shape
from sdtune.core.lora_facts import by_block
from sdtune.core.low_rank import Product
from sdtune.core.weights import Weights, open_weights
from sdtune.errors import LoraError

_CONVOLUTIONS = re.compile(r"\.(conv|conv1|conv2|conv_in|conv_out|conv_shortcut|pos_embed\.proj)$")
_SQUARE = (3, 2, 1)
"""sides of the kernels that there are"""


class Bases:
    """The weights of a base model, for networks whose change depends on them; opened when the first is asked for."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.identity = model.identify(name) if name is not None else None
        self._weights: Weights | None = None

    @property
    def family(self) -> str | None:
        """Of the model, None without one."""
        return self.identity.family if self.identity else None

    def of(self, module: str) -> Tensor:
        """A module's weights, flat, in float32."""
        shape = self._opened().shapes.get(f"{module}.weight")
        if shape is None:
            raise LoraError(f"the LoRA changes {module}, which {self.name} has not; choose the model it was made for")
        return self._opened().read(f"{module}.weight").float().reshape(shape[0], -1)

    def _opened(self) -> Weights:
        assert self.identity is not None, "asked for weights of no model"
        self._weights = self._weights or open_weights(self.identity)
        return self._weights

    def fitting(self, module: str, adapter: Adapter, told: str) -> Tensor | None:
        """The weights that an adapter's change depends on, None where it depends on none; `told` names the LoRA."""
        if not adapter.needs_base:
            return None
        if self.identity is None:
            raise LoraError(
                f"{told}: {module} is {adapter.one}, whose change depends on the model; give it with --model"
            )
        return self.changed_by(module, adapter, told)

    def changed_by(self, module: str, adapter: Adapter, told: str) -> Tensor:
        """The weights that an adapter changes, flat, which are of its shape; `told` names the LoRA."""
        base = self.of(module)
        try:
            check_shape(module, adapter, self._opened().shapes[f"{module}.weight"])
        except LoraError as problem:
            raise LoraError(f"{told}: {problem}") from None
        return base


def update_of(adapter: Adapter, base: Tensor | None) -> Product | Tensor:
    """What it adds at strength 1: its factors where it has few, else all of it [out, in]."""
    factors = adapter.factors()
    return adapter.delta(base) if factors is None else Product(*factors)


def is_matrix(adapter: Adapter) -> bool:
    """Whether it changes a layer's matrix, which has low ranks, not a norm's numbers, which have none."""
    return len(adapter.shape) != 2 or min(adapter.shape) > 1


def inside_of(module: str, adapters: Sequence[Adapter], width: int) -> tuple[int, ...]:
    """(in,) of a layer, (in, k, k) of a convolution: as a plain LoRA among these says, else by the module's name."""
    for adapter in adapters:
        if isinstance(adapter, LoraModule):
            return tuple(adapter.down.shape[1:])
    if not _CONVOLUTIONS.search(module):
        return (width,)
    side = 1 if module.endswith("shortcut") else next(one for one in _SQUARE if width % one**2 == 0)
    return (width // side**2, side, side)


def family_for(loras: Mapping[str, Lora], bases: Bases) -> str | None:
    """The family of all of these, {name: LoRA}, and of the base model where there is one; None where nothing tells."""
    told = {name: lora.family for name, lora in loras.items() if lora.family}
    if bases.family and bases.name:
        told[bases.name] = bases.family
    for (first, one), (name, other) in itertools.pairwise(told.items()):
        if one != other:
            titles = family_named(one).title, family_named(other).title
            raise LoraError(f"{name}: for {titles[1]}, but {first} is for {titles[0]}; give those of one family")
    return next(iter(told.values()), None)


def made_plain(lora: Lora) -> str:
    """What is told of networks that become a plain LoRA where ranks change; empty where there are none."""
    others = sorted({one.kind for one in lora.modules.values()} - {LoraModule.kind, Difference.kind})
    return f"{' and '.join(others)} become{'s' if len(others) == 1 else ''} a plain LoRA" if others else ""


def in_order(modules: Collection[str]) -> list[str]:
    """The same by the order in which blocks are run, whatever order they came in."""
    return [name for names in by_block(sorted(modules)).values() for name in names]
