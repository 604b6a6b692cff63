"""Tensors of every network for every kind of layer, and what they make of weights by each network's own rule.

The rules are written out number by number, in float64, with nothing of the package's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

OUT, IN = 8, 6
LAYERS = {"linear": (OUT, IN), "conv1": (OUT, IN, 1, 1), "conv3": (OUT, IN, 3, 3)}
Rule = Callable[[Tensor], Tensor]
"""the weights [out, in, ...] -> what they become, in float64"""


@dataclass(frozen=True)
class Example:
    """A network for one layer."""

    kind: str
    tensors: Mapping[str, Tensor]
    alpha: float | None
    weight: tuple[int, ...]
    """shape of the layer's weights"""
    rule: Rule


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """The same for the same seed and shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def added(change: Tensor) -> Rule:
    """Of networks whose change does not depend on the weights."""
    return lambda weight: weight + change.reshape(weight.shape)


def multiplied(a: Tensor, b: Tensor) -> Tensor:
    """a @ b as a sum of outer products; b's further dimensions stay."""
    total = torch.zeros(a.shape[0], *b.shape[1:], dtype=torch.float64)
    for o, r in product(range(a.shape[0]), range(a.shape[1])):
        total[o] += a[o, r].double() * b[r].double()
    return total


def with_core(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Tucker's: sum over r, s of up[o, r] core[r, s] down[s, i]."""
    total = torch.zeros(up.shape[0], down.shape[1], *core.shape[2:], dtype=torch.float64)
    for o, i, r, s in product(range(len(total)), range(total.shape[1]), range(core.shape[0]), range(core.shape[1])):
        total[o, i] += up[o, r].double() * core[r, s].double() * down[s, i].double()
    return total


def kronecker(first: Tensor, second: Tensor) -> Tensor:
    """Every number of the first, times the whole second, at its place."""
    rows, columns = second.shape[:2]
    total = torch.zeros(first.shape[0] * rows, first.shape[1] * columns, *second.shape[2:], dtype=torch.float64)
    for (a, b), (c, d) in product(
        product(range(first.shape[0]), range(first.shape[1])), product(range(rows), range(columns))
    ):
        total[a * rows + c, b * columns + d] = first[a, b].double() * second[c, d].double()
    return total


def by_magnitude(direction: Rule, magnitude: Tensor, *, outputs: bool) -> Rule:
    """Each output's, or input channel's, weights brought to this length."""

    def rule(weight: Tensor) -> Tensor:
        turned = direction(weight).clone()
        for number, length in enumerate(magnitude.flatten().double()):
            place = (number,) if outputs else (slice(None), number)
            turned[place] *= length / turned[place].square().sum().sqrt()
        return turned

    return rule


def cayley(blocks: Tensor, most: float = 0.0) -> list[Tensor]:
    """The rotations of blocks [n, b, b], their skew matrices together no longer than `most`."""
    skews = [block.double() - block.double().T for block in blocks]
    norm = sum(float(skew.square().sum()) for skew in skews) ** 0.5
    factor = most / norm if 0 < most < norm else 1.0
    identity = torch.eye(blocks.shape[-1], dtype=torch.float64)
    return [(identity + factor * skew) @ torch.linalg.inv(identity - factor * skew) for skew in skews]


def turned_by(matrix: Tensor, rescale: Tensor | None = None) -> Rule:
    """matrix @ weights, then each output times its scale."""

    def rule(weight: Tensor) -> Tensor:
        turned = (matrix @ weight.flatten(1)).reshape(weight.shape)
        return turned if rescale is None else turned * rescale.double().reshape(-1, *[1] * (weight.ndim - 1))

    return rule


def butterfly(blocks: Tensor) -> Tensor:
    """The matrix of blocks [m, n, b, b]: layer i turns together outputs that lie 2^i x b / 2 apart."""
    size = blocks.shape[1] * blocks.shape[2]
    total = torch.eye(size, dtype=torch.float64)
    for layer, of_layer in enumerate(blocks):
        stride = 2**layer * blocks.shape[-1] // 2
        order = [
            start + half * stride + step
            for start in range(0, size, 2 * stride)
            for step in range(stride)
            for half in (0, 1)
        ]
        gather = torch.eye(size, dtype=torch.float64)[order]
        total = gather.T @ torch.block_diag(*cayley(of_layer)) @ gather @ total
    return total


def examples() -> dict[str, Example]:
    """All of them, by a name for people."""
    found: dict[str, Example] = {}
    for layer, shape in LAYERS.items():
        for name, (kind, tensors, alpha, rule) in _of_layer(shape).items():
            found[f"{name} of a {layer}"] = Example(kind, tensors, alpha, shape, rule)
    scale = numbers(OUT)
    found["scale of a norm"] = Example("difference", {"w_norm": scale}, None, (OUT,), added(scale.double()))
    return found


def _of_layer(shape: tuple[int, ...]) -> dict[str, tuple[str, dict[str, Tensor], float | None, Rule]]:
    kernel = shape[2:]
    ones = (1,) * len(kernel)
    flat_in = IN * (9 if kernel == (3, 3) else 1)
    down, up = numbers(4, IN, *kernel), numbers(OUT, 4, *ones, seed=1)
    lora = {"lora_down.weight": down, "lora_up.weight": up}
    of_lora = multiplied(up.reshape(OUT, 4), down)
    hada = [numbers(OUT, 3), numbers(3, flat_in), numbers(OUT, 2), numbers(2, flat_in, seed=1)]
    loha = dict(zip(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), hada, strict=True))
    of_loha = (multiplied(*hada[:2]) * multiplied(*hada[2:])).reshape(shape)
    w1, w2 = numbers(2, 3), numbers(4, 2, *kernel)
    w1_a, w1_b, w2_a, w2_b = numbers(2, 1), numbers(1, 3), numbers(4, 2), numbers(2, 2 * flat_in // IN, seed=3)
    product_w2 = multiplied(w2_a, w2_b).reshape(4, 2, *kernel)
    whole = {"lokr_w1": w1, "lokr_w2": w2}
    by_output, by_input = numbers(OUT, 1, *ones).abs() + 1, numbers(1, IN, *ones).abs() + 1
    blocks, rescale = numbers(2, 4, 4) / 5, numbers(OUT, 1, *ones) + 2
    layers = numbers(2, 4, 2, 2) / 3
    difference = numbers(*shape)
    diagonal = torch.block_diag(*cayley(blocks)).T
    held = torch.block_diag(*cayley(blocks, 0.02 * OUT)).T
    found: dict[str, tuple[str, dict[str, Tensor], float | None, Rule]] = {
        "LoRA": ("LoRA", lora, 3.0, added(of_lora * 3 / 4)),
        "LoRA without alpha": ("LoRA", lora, None, added(of_lora)),
        "LoHa": ("LoHa", loha, 1.5, added(of_loha * 1.5 / 3)),
        "LoHa without alpha": ("LoHa", loha, None, added(of_loha)),
        "LoKr, both whole": ("LoKr", whole, 7.0, added(kronecker(w1, w2))),
        "LoKr, first a product": (
            "LoKr",
            {"lokr_w1_a": w1_a, "lokr_w1_b": w1_b, "lokr_w2": w2},
            7.0,
            added(7 * kronecker(multiplied(w1_a, w1_b), w2)),
        ),
        "LoKr, second a product": (
            "LoKr",
            {"lokr_w1": w1, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b},
            7.0,
            added(7 / 2 * kronecker(w1, product_w2)),
        ),
        "LoKr, both products": (
            "LoKr",
            {"lokr_w1_a": w1_a, "lokr_w1_b": w1_b, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b},
            7.0,
            added(7 / 2 * kronecker(multiplied(w1_a, w1_b), product_w2)),
        ),
        "DoRA by outputs": (
            "DoRA",
            {**lora, "dora_scale": by_output},
            2.0,
            by_magnitude(added(of_lora / 2), by_output, outputs=True),
        ),
        "DoRA by inputs": (
            "DoRA",
            {**lora, "dora_scale": by_input},
            2.0,
            by_magnitude(added(of_lora / 2), by_input, outputs=False),
        ),
        "DoRA as a list": (
            "DoRA",
            {**lora, "dora_scale": by_output.flatten()},
            2.0,
            by_magnitude(added(of_lora / 2), by_output, outputs=True),
        ),
        "DoRA of peft": (  # in convolutions (1, out, 1, 1)
            "DoRA",
            {**lora, "lora_magnitude_vector": by_output.transpose(0, 1) if kernel else by_output.flatten()},
            2.0,
            by_magnitude(added(of_lora / 2), by_output, outputs=True),
        ),
        "DoRA of a LoHa": (
            "DoRA",
            {**loha, "dora_scale": by_input},
            None,
            by_magnitude(added(of_loha), by_input, outputs=False),
        ),
        "DoRA of a LoKr": (
            "DoRA",
            {**whole, "dora_scale": by_output},
            None,
            by_magnitude(added(kronecker(w1, w2)), by_output, outputs=True),
        ),
        "OFT": ("OFT", {"oft_blocks": blocks}, 0.0, turned_by(diagonal)),
        "OFT, rescaled": ("OFT", {"oft_blocks": blocks, "rescale": rescale}, None, turned_by(diagonal, rescale)),
        "OFT, held": ("OFT", {"oft_blocks": blocks}, 0.02, turned_by(held)),
        "OFT, hardly held": ("OFT", {"oft_blocks": blocks}, 100.0, turned_by(diagonal)),
        "butterfly OFT": ("OFT", {"oft_blocks": layers}, None, turned_by(butterfly(layers))),
        "difference": ("difference", {"diff": difference}, None, added(difference.double())),
    }
    if kernel == (3, 3):
        mid, thin = numbers(4, 4, 3, 3), numbers(4, IN, 1, 1)
        tucker = {"lora_mid.weight": mid, "lora_down.weight": thin, "lora_up.weight": up}
        of_tucker = with_core(mid, up.reshape(OUT, 4), thin.reshape(4, IN))
        found["LoRA of Tucker's form"] = "LoRA", tucker, 3.0, added(of_tucker * 3 / 4)
        cores = [numbers(3, 3, 3, 3), numbers(3, 3, 3, 3, seed=1)]
        sides = [(numbers(3, OUT, seed=n), numbers(3, IN, seed=n)) for n in (4, 5)]
        halves = [with_core(core, a.T, b) for core, (a, b) in zip(cores, sides, strict=True)]
        in_file = {f"hada_t{n + 1}": core for n, core in enumerate(cores)}
        in_file |= {
            f"hada_w{n + 1}_{end}": side for n, pair in enumerate(sides) for end, side in zip("ab", pair, strict=True)
        }
        found["LoHa of Tucker's form"] = "LoHa", in_file, 1.5, added(halves[0] * halves[1] / 2)
        core, a, b = numbers(2, 2, 3, 3), numbers(2, 4), numbers(2, 2, seed=9)
        in_file = {"lokr_w1": w1, "lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b}
        found["LoKr of Tucker's form"] = "LoKr", in_file, 7.0, added(7 / 2 * kronecker(w1, with_core(core, a.T, b)))
    return found
