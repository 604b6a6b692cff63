"""The step's loss is the formula, for every prediction type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdtune.config import TrainLora, resolve
from sdtune.core.data.batches import Batch
from sdtune.core.diffusion import Prediction, Process
from sdtune.core.draws import Draws
from sdtune.core.families import family_named
from sdtune.core.training import image_losses

ALPHAS = torch.linspace(0.999, 0.005, 1000, dtype=torch.float64)


class Half(nn.Module):
    """Answers with half of what it is shown."""

    def forward(self, x_t: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (x_t / 2,)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
def test_step_loss_is_the_weighted_squared_error(prediction: Prediction) -> None:
    weighting = "constant" if prediction == "flow" else "min-snr"
    config = resolve(TrainLora, [{"data": {"folder": "x"}, "weighting": weighting}])
    process = Process(prediction, None if prediction == "flow" else ALPHAS, shift=3.0)
    x_0 = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([1.0, 2.0, 0.5])
    draws = Draws(5, 11, range(3), 3)
    batch = Batch(x_0, {"encoder_hidden_states": torch.zeros(3, 1, 1)}, weights)
    loss = image_losses(config, family_named("sd1"), process, Half(), batch, draws).mean()

    expected = torch.zeros(())
    noise = draws.normal("noise", (4, 8, 8))
    for index, u in enumerate(config.timesteps.sample(draws).tolist()):
        if prediction == "flow":
            sigma = 3 * u / (1 + 2 * u)
            alpha = 1 - sigma
        else:
            square = float(ALPHAS[int(u * 1000)])
            alpha, sigma = square**0.5, (1 - square) ** 0.5
        eps, clean = noise[index], x_0[index]
        target = {"epsilon": eps, "v": alpha * eps - sigma * clean, "flow": eps - clean}[prediction]
        error = (((alpha * clean + sigma * eps) / 2 - target) ** 2).mean()
        snr = (alpha / sigma) ** 2
        weight = {"epsilon": min(snr, 5) / snr, "v": min(snr, 5) / (snr + 1), "flow": 1.0}[prediction]
        expected += error * weight * weights[index] / 3
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_a_step_does_not_depend_on_how_its_batch_is_split() -> None:
    config = resolve(TrainLora, [{"data": {"folder": "x"}, "noise": "offset"}])
    process = Process("epsilon", ALPHAS)
    x_0 = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(2))

    def loss_of(slots: range) -> Tensor:
        part = Batch(
            x_0[slots.start : slots.stop],
            {"encoder_hidden_states": torch.zeros(len(slots), 1, 1)},
            torch.ones(len(slots)),
        )
        return image_losses(config, family_named("sd1"), process, Half(), part, Draws(5, 3, slots, 4)).mean()

    whole = loss_of(range(4))
    parts = [loss_of(range(start, start + 2)) for start in (0, 2)]
    assert float(whole) == pytest.approx(float(sum(parts)) / 2, rel=1e-6)
