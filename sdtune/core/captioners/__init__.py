"""The captioners: each file in this folder that holds one is one; PyTorch is imported when one is loaded."""

from __future__ import annotations

from functools import cache

from sdtune.choices.captioners import Auto, Captioner, Florence2, Qwen3VL
from sdtune.core.captioners.base import Describer, Picture, Setting, Told
from sdtune.core.found import classes_in
from sdtune.tables import Memory

__all__ = ["Describer", "Picture", "Told", "describers", "load", "resolve"]

ROOM = 6 * 2**30
"""bytes of a card that must be free before auto chooses qwen3-vl"""


@cache
def describers() -> dict[str, type[Describer]]:
    """Every captioner by its kind; their libraries are imported when one is made."""
    return {one.kind: one for one in classes_in(__name__, __path__, Describer)}  # type: ignore[type-abstract]


def resolve(captioner: Captioner, memory: Memory) -> Captioner:
    """What `auto` stands for on this machine; any other captioner is itself."""
    if not isinstance(captioner, Auto):
        return captioner
    import torch

    from sdtune.core.memory import device_for

    device = device_for(memory)
    return Qwen3VL() if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] >= ROOM else Florence2()


def load(captioner: Captioner, memory: Memory, seed: int = 0, trigger: str | None = None) -> Describer:
    """The captioner with its model, on the device."""
    from sdtune.core.memory import device_for, dtype_for

    settings = resolve(captioner, memory)
    device = device_for(memory)
    setting = Setting(device, dtype_for(memory, device), seed, trigger or "")
    return describers()[settings.kind](settings, setting)
