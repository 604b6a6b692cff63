"""The rack: LoRAs that are put into a model and taken out again, as one picture after the other wants them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sdtune.core.applied import Applied
from sdtune.core.families import Family


class Rack:
    """The LoRAs that act on some parts of a pipeline.

    What is taken out leaves no trace: the weights are those of the model again, bit for bit.
    """

    def __init__(self, pipe: Any, family: Family, parts: Collection[str]) -> None:
        self.pipe, self.family, self.parts = pipe, family, tuple(parts)

    def use(self, applied: Sequence[Applied]) -> None:
        """Have these act, and no others; nothing is done where they do already. LoraError where one does not fit."""
        raise NotImplementedError
