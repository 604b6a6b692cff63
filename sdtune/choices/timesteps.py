"""Timesteps: at which noise level each image is trained; u in [0, 1), 0 is clean and 1 is noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sdtune.choices.spec import Choice, Spec

if TYPE_CHECKING:
    from torch import Tensor

    from sdtune.core.draws import Draws

GOLDEN = 0.6180339887498949  # its multiples fill [0, 1) evenly at every length (Weyl sequence)


class Stratified(Spec):
    """Uniform and evenly spread: images that follow each other see far apart levels, so the loss curve is calmer."""

    kind: Literal["stratified"] = "stratified"

    def sample(self, draws: Draws) -> Tensor:
        """u in [0, 1), shape [n]: multiples of the golden ratio by the image's number in the run, shifted by seed."""
        return (draws.constant("timestep") + draws.numbers() * GOLDEN) % 1.0


class Uniform(Spec):
    """Each level equally often, drawn independently."""

    kind: Literal["uniform"] = "uniform"

    def sample(self, draws: Draws) -> Tensor:
        """u in [0, 1), shape [n]."""
        return draws.uniform("timestep")


class LogitNormal(Spec):
    """Middle levels more often: u = sigmoid(N(mean, std)) (Esser et al. 2024, arXiv:2403.03206, sec. 3.1)."""

    kind: Literal["logit-normal"] = "logit-normal"
    mean: float = Field(0.0, ge=-100, le=100)
    """Centre of the normal; above 0 leans to noise."""
    std: float = Field(1.0, ge=1e-3, le=100)
    """Width of the normal."""

    def sample(self, draws: Draws) -> Tensor:
        """u in [0, 1), shape [n]."""
        return (self.mean + self.std * draws.normal("timestep", ()).double()).sigmoid().clamp(max=1 - 1e-7)


Timesteps = Annotated[Stratified | Uniform | LogitNormal, Choice()]
