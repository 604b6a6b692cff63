"""Random draws by counter: each number depends on (seed, purpose, step, slot) alone.

So there is no random state to save, and neither workers nor previews nor the way in which a batch is split can
change what a step sees (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor


def generator(*key: int | str) -> Generator:
    """A CPU generator seeded by the hash of the key, the same on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True)
class Draws:
    """The draws of some images of one step."""

    seed: int
    step: int
    """optimizer step, from 0"""
    slots: range
    """places of these images in the step's whole batch, over micro-batches and processes"""
    images_a_step: int
    """size of the step's whole batch"""

    def part(self, start: int, count: int) -> Draws:
        """The draws of some of the images alone."""
        return replace(self, slots=self.slots[start : start + count])

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers [n, *shape] in fp32 on the CPU."""
        return torch.stack([torch.randn(shape, generator=self._generator(purpose, slot)) for slot in self.slots])

    def uniform(self, purpose: str) -> Tensor:
        """Numbers in [0, 1), shape [n], double precision on the CPU."""
        kind = torch.float64
        return torch.stack([torch.rand((), generator=self._generator(purpose, s), dtype=kind) for s in self.slots])

    def constant(self, purpose: str) -> float:
        """One number in [0, 1) for the whole run."""
        return float(torch.rand((), generator=generator(self.seed, purpose), dtype=torch.float64))

    def numbers(self) -> Tensor:
        """Number of each image among all that the run has seen, [n], double precision."""
        return torch.tensor([self.step * self.images_a_step + slot for slot in self.slots], dtype=torch.float64)

    def _generator(self, purpose: str, slot: int) -> Generator:
        return generator(self.seed, purpose, self.step, slot)
