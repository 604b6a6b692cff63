"""Losses: how far the prediction is from the target, element by element."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sdtune.choices.spec import Choice, Spec

if TYPE_CHECKING:
    from torch import Tensor


class MSE(Spec):
    """Squared error (Ho et al. 2020, arXiv:2006.11239, eq. 14)."""

    kind: Literal["mse"] = "mse"

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Elementwise, the shape of both."""
        return (prediction - target) ** 2


class Huber(Spec):
    """Pseudo-Huber error: outliers pull less (Song & Dhariwal 2023, arXiv:2310.14189)."""

    kind: Literal["huber"] = "huber"
    c: float = Field(0.1, ge=1e-6, le=1e6)
    """Error at which it turns from square to straight."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Elementwise, the shape of both; close to the squared error where errors are small."""
        return 2 * self.c * (((prediction - target) ** 2 + self.c**2).sqrt() - self.c)


Loss = Annotated[MSE | Huber, Choice()]
