"""Room: how many images fit into the memory at once, found where they do not."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from sdtune.core.draws import Draws
from sdtune.errors import TrainingError

if TYPE_CHECKING:
    from sdtune.core.data.batches import Batch

Thing = TypeVar("Thing")
Result = TypeVar("Result")
Size = tuple[int, ...]
"""(height, width) of latents"""

WORDS = (
    "out of memory",  # CUDA
    "can't allocate memory",  # PyTorch's allocator on the CPU
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
LESS = "use a smaller --resolution or a preset for a smaller card, or close other programs that use the card"


class Room:
    """How many images of each size fit into one pass, as far as that is known."""

    def __init__(self, *, checkpointing: bool = False) -> None:
        self.checkpointing = checkpointing
        """whether activations are computed again (--memory.gradient-checkpointing), which is the last resort"""
        self._most: dict[Size, int] = {}

    def most(self, size: Size) -> int | None:
        """Images of this size that one pass takes at most; None: all that there are."""
        return self._most.get(tuple(size))

    def too_much(self, size: Size, images: int) -> str:
        """Learn that so many of this size do not fit; returns what is done, in one line.

        Half as many are taken at once, which changes no gradient; where one alone does not fit, `checkpointing` becomes
        True. Raises TrainingError where that is true already.
        """
        size = tuple(size)
        here = f"out of memory with {images} image{'' if images == 1 else 's'} of {_shown(size)} latents"
        if images > 1:
            self._most[size] = (images + 1) // 2
            return f"{here}: {self._most[size]} at once from now on, which learns the same but takes longer"
        if not self.checkpointing:
            self.checkpointing = True
            return f"{here}: --memory.gradient-checkpointing from now on, which takes about a quarter longer"
        raise TrainingError(f"{here}, and with gradient checkpointing; {LESS}")

    def told(self) -> dict[str, Any]:
        """All that is known, as plain JSON values."""
        known = [[list(size), most] for size, most in sorted(self._most.items())]
        return {"most": known, "checkpointing": self.checkpointing}

    def load(self, told: Mapping[str, Any]) -> None:
        """Know what another told, and what was known before."""
        for size, most in told["most"]:
            self._most[tuple(size)] = min(most, self._most.get(tuple(size), most))
        self.checkpointing = self.checkpointing or bool(told["checkpointing"])


def pieces(batch: Batch, draws: Draws, most: int | None) -> Iterator[tuple[Batch, Draws]]:
    """A batch, in order, as batches of at most so many images, each with the draws of its own slots."""
    count = len(batch.latents)
    at_once = most or count
    for start in range(0, count, at_once):
        part = slice(start, min(start + at_once, count))
        own = {one.name: _part(getattr(batch, one.name), part) for one in fields(batch)}
        yield replace(batch, **own), draws.part(start, part.stop - start)


def one_by_one(work: Callable[[Sequence[Thing]], Sequence[Result]], things: Sequence[Thing]) -> list[Result]:
    """What work makes of each of these, of all at once, or one after the other where that needs too much memory."""
    if len(things) > 1:
        try:
            return list(work(things))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        free()
    return [result for thing in things for result in work([thing])]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on the card or beside it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


def free() -> None:
    """Give back what nothing refers to; after the `except`, as the error holds all that was being computed."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _part(value: Any, part: slice) -> Any:
    """Of one field of a batch, whose values all have one entry an image."""
    if isinstance(value, Mapping):
        return {name: one[part] for name, one in value.items()}
    return None if value is None else value[part]


def _shown(size: Size) -> str:
    return " x ".join(map(str, size))
