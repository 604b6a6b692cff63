"""The average of weights is what its sentence says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Parameter

from sdtune.core.ema import Average


@given(st.floats(0, 0.9999), st.lists(st.floats(-10, 10), min_size=1, max_size=30))
def test_each_step_counts_as_the_formula_says(decay: float, weights: list[float]) -> None:
    weight = Parameter(torch.tensor([3.0]))
    average = Average({"a": weight}, decay)
    expected = 3.0
    for number, value in enumerate(weights):
        weight.data.fill_(value)
        average.add()
        share = min(decay, (1 + number) / (10 + number))
        expected = share * expected + (1 - share) * value
    assert float(average.tensors["a"]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert average.count == len(weights)


def test_it_is_apart_from_the_weights_and_comes_back_as_it_was() -> None:
    weight = Parameter(torch.ones(3, dtype=torch.bfloat16))
    average = Average({"a": weight}, 0.9)
    weight.data.fill_(2)
    assert average.tensors["a"].tolist() == [1, 1, 1]
    assert average.tensors["a"].dtype == torch.float32
    average.add()
    kept, count = {name: one.clone() for name, one in average.tensors.items()}, average.count
    average.add()
    after = average.tensors["a"].clone()
    average.load(kept, count)
    average.add()
    assert torch.equal(average.tensors["a"], after)
