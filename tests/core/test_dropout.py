"""What is left out for an image depends on its step and slot alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sdtune.core.draws import Draws
from sdtune.core.dropout import Dropout, Shown, by_counter


def left_out(
    slots: range, *, step: int = 0, seed: int = 0, name: str = "a", rows: int = 1, p: float = 0.5
) -> torch.Tensor:
    """What becomes of ones."""
    shown = Shown(Draws(seed, step, slots, 8))
    return Dropout(p, name, shown)(torch.ones(len(slots) * rows, 6, 16))


@pytest.mark.parametrize("rows", [1, 3])
def test_splitting_a_batch_changes_nothing(rows: int) -> None:
    whole = left_out(range(8), rows=rows)
    for size in (1, 2, 4):
        parts = [left_out(range(start, start + size), rows=rows) for start in range(0, 8, size)]
        assert torch.equal(torch.cat(parts), whole)


def test_every_seed_layer_step_and_slot_has_its_own() -> None:
    drawn = [left_out(range(1)), left_out(range(1), seed=1), left_out(range(1), name="b"), left_out(range(1), step=1)]
    drawn += [*left_out(range(1, 3))[:, None], *left_out(range(3, 4), rows=2)[:, None]]
    assert len({one.numpy().tobytes() for one in drawn}) == len(drawn)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_is_left_out_and_the_mean_stays(p: float) -> None:
    found = torch.cat([left_out(range(8), step=step, p=p) for step in range(20)])
    share = float((found == 0).float().mean())
    assert abs(share - p) < 5 * (p * (1 - p) / found.numel()) ** 0.5
    assert torch.allclose(found[found > 0], torch.tensor(1 / (1 - p)))


def test_a_pass_that_is_computed_again_leaves_out_the_same_and_global_draws_are_not_touched() -> None:
    before = torch.random.get_rng_state()
    layer = Dropout(0.5, "a", Shown(Draws(0, 0, range(2), 2)))
    x = torch.ones(2, 50, requires_grad=True)
    again = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False)
    again.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, again.detach())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_it_stands_where_something_was_left_out_and_nowhere_else() -> None:
    shown = Shown()
    net = nn.Sequential(nn.Dropout(0.3), nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.0), nn.Dropout(0.2)))
    by_counter({"net": net}, shown)
    found = [one for one in net.modules() if isinstance(one, Dropout)]
    assert [(one.p, one.name) for one in found] == [(0.3, "net.0"), (0.2, "net.2.1")]
    assert sum(isinstance(one, nn.Dropout) for one in net.modules()) == 1
    assert torch.equal(net.eval()(torch.ones(3, 2)), net[1](torch.ones(3, 2)))
    with pytest.raises(AssertionError, match="images of a step"):
        net.train()(torch.ones(3, 2))
