"""Noises: what is mixed into the latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sdtune.choices.spec import Choice, Spec

if TYPE_CHECKING:
    from torch import Tensor

    from sdtune.core.draws import Draws


class Gaussian(Spec):
    """Independent normal numbers."""

    kind: Literal["gaussian"] = "gaussian"

    def sample(self, latents: Tensor, draws: Draws) -> Tensor:
        """Noise of the shape, device and dtype of the latents, [B, C, h, w]."""
        return draws.normal("noise", tuple(latents.shape[1:])).to(latents)


class Offset(Spec):
    """Normal numbers and a common shift a channel, for darker darks and brighter brights (Guttenberg 2023)."""

    kind: Literal["offset"] = "offset"
    strength: float = Field(0.05, ge=1e-6, le=1)
    """Standard deviation of the shift."""

    def sample(self, latents: Tensor, draws: Draws) -> Tensor:
        """Noise of the shape, device and dtype of the latents, [B, C, h, w]."""
        channels = latents.shape[1]
        noise = draws.normal("noise", tuple(latents.shape[1:]))
        return (noise + self.strength * draws.normal("noise offset", (channels, 1, 1))).to(latents)


Noise = Annotated[Gaussian | Offset, Choice()]
