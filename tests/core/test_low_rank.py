"""Singular values of updates: exact, the same every time, and what is cut off is what is told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdtune.core import low_rank
from sdtune.core.adapters import LoraModule
from sdtune.core.low_rank import MORE, Limits, Product, directions, singular_values, spectrum


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_values(out: int, inside: int, values: Tensor) -> Tensor:
    """A matrix of these singular values."""
    left, right = torch.linalg.qr(noise(out, len(values)))[0], torch.linalg.qr(noise(inside, len(values), seed=1))[0]
    return left * values @ right.T


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (8, 8), (3, 200), (1, 5)])
def test_a_matrix_is_the_sum_of_its_singular_directions(shape: tuple[int, int]) -> None:
    matrix = noise(*shape).double()
    found = spectrum(matrix)
    assert torch.allclose(found.product().left @ found.product().right, matrix, atol=1e-10)
    assert torch.allclose(found.values, torch.linalg.svdvals(matrix))
    assert found.norm == pytest.approx(float(torch.linalg.vector_norm(matrix)))


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (6, 30), (30, 6)])
def test_a_product_has_the_singular_values_of_what_it_makes(shape: tuple[int, int]) -> None:
    product = Product(noise(shape[0], 8).double(), noise(8, shape[1], seed=1).double())
    found = spectrum(product)
    assert torch.allclose(found.values, torch.linalg.svdvals(product.left @ product.right)[: len(found.values)])
    assert product.norm() == pytest.approx(found.norm)
    again = found.product()
    assert torch.allclose(again.left @ again.right, product.left @ product.right, atol=1e-10)


@pytest.mark.parametrize("large", [False, True])
def test_what_is_cut_off_is_what_is_told(large: bool) -> None:
    """The large one is taken apart by random directions, which miss some of it."""
    matrix = with_values(200, 300, 0.97 ** torch.arange(200)) if large else noise(24, 40)
    found = spectrum(matrix, 6)
    assert (found.rest > 0) == large
    cut = found.first(6)
    gone = torch.linalg.vector_norm(matrix.double() - cut.product().left @ cut.product().right)
    assert cut.rest == pytest.approx(float(gone), rel=1e-4)
    best = torch.linalg.vector_norm(torch.linalg.svdvals(matrix)[6:])
    assert cut.rest == pytest.approx(float(best), rel=1e-3), "about as little as can be"


def test_random_directions_find_all_of_a_low_rank() -> None:
    values = torch.tensor([5.0, 3.0, 1.0, 1e-3])
    matrix = with_values(4 * (MORE + 4), 300, values)
    found = spectrum(matrix, 4)
    assert torch.allclose(found.values[:4].float(), values, rtol=1e-4)
    assert found.rest < 1e-5


@pytest.mark.parametrize("large", [False, True])
def test_the_same_update_gives_the_same_numbers(large: bool) -> None:
    matrix = noise(200, 300) if large else noise(24, 40)
    first, second = (spectrum(matrix.clone(), 6).first(6) for _ in range(2))
    assert torch.equal(first.left, second.left)
    assert torch.equal(first.right, second.right)
    mirrored = spectrum(matrix.flip(0), 6).first(6)  # other signs would come of it, were they not settled
    assert torch.allclose(mirrored.left.flip(0).abs(), first.left.abs(), atol=1e-4)
    assert (first.left.gather(0, first.left.abs().argmax(0, keepdim=True)) > 0).all()


def test_directions_are_those_in_which_most_of_a_matrix_lies() -> None:
    matrix = with_values(200, 160, torch.cat([torch.tensor([9.0, 7.0]), torch.full((100,), 0.01)]))
    found = directions(matrix, 2)
    assert found.left.shape == (200, 2)
    assert torch.allclose(found.values.float(), torch.tensor([9.0, 7.0]), rtol=1e-4)


VALUES = torch.tensor([4.0, 3.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        (Limits(), 4),
        (Limits(rank=2), 2),
        (Limits(rank=9), 4),
        (Limits(share=1.0), 4),
        (Limits(share=0.9), 2),  # 5 / sqrt(30) is 0.913
        (Limits(share=0.92), 3),
        (Limits(share=0.01), 1),
        (Limits(ratio=2.0), 3),
        (Limits(ratio=1.1), 1),
        (Limits(rank=1, share=0.92), 1),
        (Limits(rank=3, ratio=1.4), 2),
    ],
)
def test_limits_count_by_their_formulas(limits: Limits, count: int) -> None:
    assert limits.count(spectrum(with_values(10, 12, VALUES).double())) == count


def test_rounding_is_no_rank_and_nothing_has_rank_one() -> None:
    assert Limits(rank=8).count(spectrum(with_values(10, 12, torch.tensor([1.0, 1e-9])).double())) == 1
    nothing = spectrum(torch.zeros(10, 12))
    assert Limits(share=0.5).count(nothing) == 1
    module = nothing.first(1).product().module((12,))
    assert torch.equal(module.delta(), torch.zeros(10, 12))


@pytest.mark.parametrize("inside", [(12,), (3, 2, 2), (12, 1, 1)])
def test_a_module_has_the_shapes_of_its_layer_and_both_sides_alike(inside: tuple[int, ...]) -> None:
    matrix = noise(10, 12)
    module = spectrum(matrix).first(3).product().module(inside)
    assert tuple(module.down.shape) == (3, *inside)
    assert tuple(module.up.shape) == ((10, 3) if len(inside) == 1 else (10, 3, 1, 1))
    assert module.alpha == 3
    assert torch.linalg.vector_norm(module.down) == pytest.approx(float(torch.linalg.vector_norm(module.up)))


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (8, 8), (1, 5)])
def test_singular_values_alone_are_those_of_the_whole(shape: tuple[int, int]) -> None:
    left, right = noise(shape[0], 4).double(), noise(4, shape[1], seed=1).double()
    for update in (Product(left, right), noise(*shape)):
        matrix = update.left @ update.right if isinstance(update, Product) else update.double()
        found, expected = singular_values(update), torch.linalg.svdvals(matrix)
        count = min(len(found), len(expected))
        assert torch.allclose(found[:count], expected[:count], atol=1e-6)
        assert float(found[count:].sum()) == pytest.approx(0, abs=1e-6)


def test_of_a_large_matrix_half_of_the_values_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = with_values(128, 160, torch.logspace(0, -3, 128))
    assert not spectrum(matrix, 30).rest
    monkeypatch.setattr(low_rank, "LARGE", 128)
    found = spectrum(matrix, 30)
    assert found.rest > 0
    assert torch.allclose(found.values[:30], torch.logspace(0, -3, 128).double()[:30], rtol=1e-4)


def test_a_lora_as_a_product_changes_what_it_changes() -> None:
    module = LoraModule(noise(4, 3, 3, 3), noise(8, 4, 1, 1, seed=1), -2.0)
    product = Product(*module.factors())
    assert torch.allclose(product.matrix(), module.delta(), atol=1e-6)
    assert product.shape == (8, 27)
    assert product.norm() == pytest.approx(float(torch.linalg.vector_norm(module.delta())), rel=1e-5)
