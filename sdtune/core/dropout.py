"""Dropout by counter: what is left out for an image depends on (seed, layer, step, slot) alone.

So neither the split of a batch, nor a pass that is computed again to save memory, nor a run that was stopped in between
changes what is learned; PyTorch's own draws are of a state that all layers share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from sdtune.core.draws import Draws, generator


@dataclass
class Shown:
    """The images that pass through the network now."""

    draws: Draws | None = None


class Dropout(nn.Module):
    """Zeroes a share of each image's numbers while training, and scales the others up (Srivastava et al. 2014)."""

    def __init__(self, p: float, name: str, shown: Shown) -> None:
        super().__init__()
        self.p = p
        self.name = name
        """of the layer"""
        self.shown = shown

    def forward(self, x: Tensor) -> Tensor:
        """[rows, ...] -> [rows, ...]; each image has as many rows as the others, one after the other."""
        if not self.training:
            return x
        draws = self.shown.draws
        assert draws is not None, "dropout is drawn for the images of a step"
        assert len(x) % len(draws.slots) == 0, f"{len(x)} rows are no multiple of {len(draws.slots)} images"
        shape = (len(x) // len(draws.slots), *x.shape[1:])
        random = Generator(x.device)
        kept = torch.empty(len(draws.slots), *shape, device=x.device)
        for drawn, slot in zip(kept, draws.slots, strict=True):
            random.manual_seed(generator(draws.seed, "dropout", self.name, draws.step, slot).initial_seed())
            torch.rand(shape, generator=random, out=drawn)
        return x * (kept >= self.p).reshape(x.shape).to(x.dtype) / (1 - self.p)


def by_counter(parts: Mapping[str, nn.Module], shown: Shown) -> None:
    """Puts such layers in place of PyTorch's own, wherever there are any that leave something out."""
    for part, whole in parts.items():
        for path, module in list(whole.named_modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Dropout) and child.p > 0:
                    setattr(
                        module,
                        name,
                        Dropout(child.p, ".".join(filter(None, (part, path, name))), shown).train(child.training),
                    )
