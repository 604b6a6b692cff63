"""LoRAs of any rank, alpha and network for the modules of tiny models, and files of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdtune.core import lora_file
from sdtune.core.adapters import Adapter, LoraModule, adapters
from sdtune.core.applied import Applied
from sdtune.core.blocks import Strength
from sdtune.core.lora import Lora
from sdtune.core.lora_reports import Written
from sdtune.core.lora_writer import write
from tests.core.loras import trained


@cache
def like(family: str) -> Lora:
    """A LoRA of all that training can change."""
    return trained(family)[0]


def lora(family: str, rank: int = 4, alpha: float = 2.0, seed: int = 0, **more: Any) -> Lora:
    """A plain one of random numbers."""
    drawn = torch.Generator().manual_seed(seed)
    modules: dict[str, Adapter] = {}
    for name, one in like(family).modules.items():
        assert isinstance(one, LoraModule)
        down = torch.randn(rank, *one.down.shape[1:], generator=drawn)
        up = torch.randn(one.up.shape[0], rank, *one.up.shape[2:], generator=drawn)
        modules[name] = LoraModule(0.1 * down, 0.1 * up, alpha)
    return Lora(modules, family, **({"metadata": {"modelspec.title": f"lora {seed}"}} | more))


def loha(family: str, rank: int = 2, seed: int = 9) -> Lora:
    """The same as a LoHa, of convolutions in one dimension."""
    drawn = torch.Generator().manual_seed(seed)
    modules = {}
    for name, one in like(family).modules.items():
        out, inside = one.shape
        roles = {
            **dict.fromkeys(("hada_w1_a", "hada_w2_a"), (out, rank)),
            **dict.fromkeys(("hada_w1_b", "hada_w2_b"), (rank, inside)),
        }
        numbers = {role: 0.3 * torch.randn(shape, generator=drawn) for role, shape in roles.items()}
        modules[name] = adapters()["LoHa"].from_tensors(numbers, 1.0)
    return Lora(modules, family, {"modelspec.title": "loha"})


def applied(path: Path, of: Lora, strength: float = 1.0, blocks: Mapping[str, float] | None = None) -> Applied:
    """A file of it in full precision, as it is used at a strength."""
    if not path.exists():
        write(path, of, dtype="fp32")
    return Applied(path, lora_file.read(path), Strength(strength, blocks or {}))


def updates(of: Lora | Path) -> dict[str, Tensor]:
    """What it adds to each module."""
    found = lora_file.read(of) if isinstance(of, Path) else of
    return {name: module.delta() for name, module in found.modules.items()}


def summed(loras: list[Applied]) -> dict[str, Tensor]:
    """What they add together."""
    total: dict[str, Tensor] = {}
    for one in loras:
        for name, delta in updates(one.lora).items():
            total[name] = total.get(name, torch.zeros(())) + one.strength(name) * delta
    return total


def agree(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], within: float = 1e-5) -> None:
    """Equal but for a share of their size."""
    assert mine.keys() == theirs.keys()
    for name, one in theirs.items():
        apart = torch.linalg.vector_norm(mine[name] - one)
        assert apart <= within * torch.linalg.vector_norm(one), f"{name}: {apart}"


def apart(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Norm of the difference over all modules, by that of theirs."""
    difference = torch.cat([(mine[name] - one).flatten() for name, one in theirs.items()])
    return float(difference.norm() / torch.cat([one.flatten() for one in theirs.values()]).norm())


def told(work: Iterator[Any]) -> Written:
    """What work says in its end."""
    *_, last = work
    assert isinstance(last, Written)
    return last


def lines(work: Callable[[], Iterator[Any]]) -> list[str]:
    """All that it says in words."""
    return [one.text for one in work() if hasattr(one, "text")]
