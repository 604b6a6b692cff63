"""What was learned: how far a training has moved each block of layers, and whether that is next to nothing or too far.

The update of a module is s B A with s = alpha / rank; its size is the Frobenius norm, by that of the weights below it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from sdtune.core.blocks import block_of
from sdtune.core.reports import Updated, Validated

# Measured on mini with examples/fluent-3d, rank 16: the most that a block has changed, and the loss on the 16 images of
# examples/fluent-3d-held-out by that of the base, at 10 noise levels (the same for images that were trained).
#   lr x steps     block    held out  trained
#   1e-6 x 100     0.001 %  1.00      1.00
#   1e-5 x 200     0.03 %   0.99      0.99
#   1e-4 x 200     0.7 %    0.71      0.70
#   3e-3 x 50      5 %      0.45      0.44
#   3e-3 x 200     8 %      0.42      0.34
#   3e-3 x 800     25 %     0.64      0.14     over-fitted, but not by its strength
#   1e-2 x 200     39 %     0.42      0.33
#   3e-2 x 200     480 %    0.78      0.84     broken
#   1e-1 x 100     1700 %   4.03      4.43
LEAST = 0.0005
"""of a block's weights; where none has changed by as much, next to nothing is learned"""
MOST = 1.0
"""a block that has changed by more is drowned by what was added to it"""
BETTER = 2.0
"""standard errors by which a held-out loss is less than the base's for sure"""
DEAD = 0.1
"""of the modules; one of SD3's is always dead, as nothing reads what its last block makes of the text"""
NAMED = 3
"""blocks in a line"""


def update_norms(parts: Mapping[str, nn.Module], adapter_name: str = "default") -> list[Updated]:
    """How much each block of these has changed, in the order in which they are run; {part of the pipeline: module}."""
    blocks: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for part, net in parts.items():
        for path, layer in net.named_modules():
            if isinstance(layer, LoraLayer) and adapter_name in layer.lora_A:
                blocks[block_of(f"{part}.{path}")].append((added(layer, adapter_name), _below(layer)))
    updates = []
    for block, norms in blocks.items():
        ours, base = (math.hypot(*kind) for kind in zip(*norms, strict=True))
        dead = sum(own == 0 for own, _ in norms)
        updates.append(Updated(block, ours / base if base else float(ours > 0), len(norms), dead))
    return updates


def told(updates: Sequence[Updated], validated: Validated | None = None) -> list[str]:
    """A line for each thing that the user should know of it: nothing learned, too much, or parts that were left out."""
    if not updates:
        return []
    strongest = max(updates, key=lambda one: one.relative)
    measured = _measured(validated)
    if strongest.relative < LEAST and not _is_better(validated):
        how = "nothing" if strongest.relative == 0 else f"{_percent(strongest.relative)} at most"
        what = "nothing" if strongest.relative == 0 else "next to nothing"
        return [
            f"the LoRA changes the model's weights by {how}: it has learned {what}{measured}; raise --lr or --steps"
        ]
    lines = []
    drowned = sorted((one for one in updates if one.relative > MOST), key=lambda one: -one.relative)
    if drowned:
        named = ", ".join(f"{one.block} by {_percent(one.relative)}" for one in drowned[:NAMED])
        more = f" and {len(drowned) - NAMED} more" if len(drowned) > NAMED else ""
        what = f"the LoRA changes blocks by more than their own weights ({named}{more}), so that little is left of them"
        lines.append(f"{what}{measured}; lower --lr or --alpha")
    dead, of = sum(one.dead for one in updates), sum(one.modules for one in updates)
    if dead > DEAD * of:
        most = sorted((one for one in updates if one.dead), key=lambda one: -one.dead)
        named = ", ".join(one.block for one in most[:NAMED]) + (", ..." if len(most) > NAMED else "")
        lines.append(f"{dead} of {of} modules of the LoRA learned nothing (in {named}); no gradient has reached them")
    return lines


def _is_better(validated: Validated | None) -> bool:
    """Whether images that were held out are surely better known than by the base."""
    found = validated.held_out if validated else None
    return found is not None and found.relative + BETTER * found.relative_error < 1


def _measured(validated: Validated | None) -> str:
    if validated is None:
        return ""
    change = validated.held_out.relative - 1
    return f" (the loss on held-out images is {change:+.1%} against the base)".replace("%", " %")


def _percent(share: float) -> str:
    return f"{100 * share:.1g} %" if share < 0.01 else f"{100 * share:.0f} %"


def added(layer: LoraLayer, adapter_name: str = "default") -> float:
    """|s B A|, of which |B A|^2 = tr(B^T B A A^T) needs nothing larger than rank x rank."""
    down, up = (_flat(one[adapter_name].weight) for one in (layer.lora_A, layer.lora_B))
    square = float(((up.T @ up) * (down @ down.T)).sum())
    return abs(float(layer.scaling[adapter_name])) * math.sqrt(max(square, 0.0))


def _flat(weight: Tensor) -> Tensor:
    return weight.detach().flatten(1).double()


def _below(layer: LoraLayer) -> float:
    """The norm of the frozen weights, which may be packed."""
    weight = dequantize_module_weight(layer.get_base_layer()).detach()
    return float(torch.linalg.vector_norm(weight, dtype=torch.float32))
