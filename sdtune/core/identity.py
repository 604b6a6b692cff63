"""Which base model it is, told without loading its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Identity:
    """A base model's name, place and family."""

    name: str
    """for people: the short name, hub name, or the folder's or file's own"""
    source: Literal["folder", "file", "hub"]
    location: str
    """path, or owner/model[@revision] on the hub"""
    family: str
    """sd1, sd2, sdxl, sd3"""
    prediction: str | None = None
    """diffusers' prediction_type where a single file says so itself"""
    zero_snr: bool = False
    """whether a single file says that its noise goes all the way to zero signal (Lin et al. 2023, arXiv:2305.08891)"""
    inpainting: bool = False
    """whether its denoiser also sees a mask and the latents of the picture that is masked: 9 channels in"""
