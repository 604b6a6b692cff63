"""What a LoRA's weights tell: how much each module adds and in how many directions, and whether its hashes hold.

The size of an update is its Frobenius norm, its effective rank exp(entropy) of the squared singular values' shares (Roy
& Vetterli 2007, "The effective rank", of squares as they sum to the norm's).
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sdtune.core.adapters import Adapter
from sdtune.core.adapters.lokr import LokrModule
from sdtune.core.lora_facts import by_block
from sdtune.core.lora_metadata import OF_WEIGHTS
from sdtune.core.lora_problems import OF_NOTHING, File, of_hashes, of_weights
from sdtune.core.lora_reader import read
from sdtune.core.lora_reports import BlockFacts
from sdtune.core.lora_updates import update_of
from sdtune.core.low_rank import singular_values
from sdtune.core.reports import Progress, Telling

TIMES = 20.0
"""a module whose numbers are larger than the median module's by more is exploding; of 2 rates that training gives to
text encoders and denoisers, the larger is seldom over 10 times the other"""
CHUNK = 2**20


@dataclass(frozen=True)
class Weight:
    """Of one module."""

    norm: float
    largest: float
    effective: float
    numbers: int
    """that its update has"""

    @property
    def each(self) -> float:
        """Root of the mean square of the update's numbers, which layers of all sizes have alike."""
        return self.norm / math.sqrt(self.numbers)


@dataclass(frozen=True)
class Weighed:
    """What was found."""

    blocks: tuple[BlockFacts, ...]
    hashes: Mapping[str, str]
    hash_holds: bool | None
    problems: tuple[str, ...]


def weigh(file: File, blocks: Sequence[BlockFacts]) -> Telling[Weighed]:
    """Reads the whole file; modules whose change depends on the base are left out, and told."""
    lora = read(file.path)
    weights: dict[str, Weight] = {}
    for number, (name, adapter) in enumerate(lora.modules.items(), 1):
        if not adapter.needs_base:
            weights[name] = weight_of(adapter)
        yield Progress("modules", number, len(lora.modules))
    dead = [name for name, one in weights.items() if one.norm == 0]
    living = [one.each for one in weights.values() if one.norm]
    usual = statistics.median(living) if living else 0.0
    exploding = [name for name, one in weights.items() if one.each > TIMES * usual]
    hashes = computed_hashes(file.path)
    problems = [*of_weights(dead, exploding, len(lora.modules), TIMES)]
    said = {name: told for name in OF_WEIGHTS if (told := file.metadata.get(name, "").removeprefix("0x").lower())}
    wrong = [name for name, told in said.items() if told != hashes["SHA-256 of the weights"]]
    if changed := [name for name in wrong if said[name] != OF_NOTHING]:
        problems.append(of_hashes(file, changed))
    if len(weights) < len(lora.modules):
        left = len(lora.modules) - len(weights)
        problems.append(f"what {left} modules add depends on the model's weights, so that no norm is told of them")
    return Weighed(_blocks(blocks, weights, dead, exploding), hashes, not wrong if said else None, tuple(problems))


def weight_of(adapter: Adapter) -> Weight:
    """How much a module adds at strength 1."""
    if isinstance(adapter, LokrModule) and (two := adapter.matrices()):  # each value of one by each of the other
        values = torch.outer(*(singular_values(one) for one in two)).flatten()
    else:
        values = singular_values(update_of(adapter, None))
    squares = values.square()
    norm = math.sqrt(float(squares.sum()))
    shares = squares[squares > 0] / squares.sum()
    effective = math.exp(-float((shares * shares.log()).sum())) if norm else 0.0
    return Weight(norm, float(values.max()), effective, math.prod(adapter.shape))


def computed_hashes(path: Path) -> dict[str, str]:
    """As sites of models look them up: AutoV2 is of the file, AutoV3 of what stands behind its header.

    AutoV3 is also what A1111 and kohya's programs keep as sshs_model_hash.
    """
    whole, behind = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as file:
        start = file.read(8)
        header = file.read(int.from_bytes(start, "little"))
        whole.update(start + header)
        while chunk := file.read(CHUNK):
            whole.update(chunk)
            behind.update(chunk)
    return {
        "AutoV2": whole.hexdigest()[:10].upper(),
        "AutoV3": behind.hexdigest()[:12].upper(),
        "SHA-256": whole.hexdigest(),
        "SHA-256 of the weights": behind.hexdigest(),
    }


def _blocks(
    blocks: Sequence[BlockFacts], weights: Mapping[str, Weight], dead: Sequence[str], exploding: Sequence[str]
) -> tuple[BlockFacts, ...]:
    """The blocks with what their modules weigh."""
    found = {block: [weights[name] for name in names] for block, names in by_block(weights).items()}
    still, loud = by_block(dead), by_block(exploding)
    return tuple(
        replace(
            one,
            norm=math.hypot(*(weight.norm for weight in ours)),
            largest=max(weight.largest for weight in ours),
            effective=statistics.fmean(weight.effective for weight in ours),
            dead=tuple(still.get(one.block, ())),
            exploding=tuple(loud.get(one.block, ())),
        )
        if (ours := found.get(one.block))
        else one
        for one in blocks
    )
