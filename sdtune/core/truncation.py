"""What a LoRA lost when ranks were lowered, by block: of the sum of squares over all of a block's modules."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from sdtune.core.blocks import block_of
from sdtune.core.lora_facts import spread
from sdtune.core.lora_reports import Truncated

EXACT = 1e-5
"""a loss that is but rounding, which no file in half precision could hold"""


@dataclass(frozen=True)
class Loss:
    """Of one module."""

    before: int
    """rank"""
    rank: int
    """that is left"""
    norm: float
    """Frobenius norm of the update before"""
    gone: float
    """that of what is left out"""


@dataclass
class Losses:
    """Of all modules, as they come, which is the order in which blocks are run."""

    modules: dict[str, Loss] = field(default_factory=dict)

    def blocks(self) -> tuple[Truncated, ...]:
        """A line for each block; none where nothing was lost anywhere."""
        if self.whole() is None:
            return ()
        found: dict[str, list[Loss]] = defaultdict(list)
        for module, loss in self.modules.items():
            found[block_of(module)].append(loss)
        return tuple(
            Truncated(
                block,
                len(ones),
                spread(one.rank or None for one in ones),
                spread(one.before or None for one in ones),
                _share(ones),
            )
            for block, ones in found.items()
        )

    def whole(self) -> float | None:
        """Of the whole LoRA; None where that is but rounding."""
        lost = _share(self.modules.values())
        return lost if lost > EXACT else None


def _share(losses: Iterable[Loss]) -> float:
    ones = list(losses)
    norm, gone = math.hypot(*(one.norm for one in ones)), math.hypot(*(one.gone for one in ones))
    return gone / norm if norm else 0.0
