"""Stable Diffusion 2.x: as 1.x, but through OpenCLIP ViT-H/14 (1024 wide); 2-base predicts epsilon, 768 predicts v."""

from __future__ import annotations

from sdtune.core.families.sd1 import SD1


class SD2(SD1):
    name = "sd2"
    title = "Stable Diffusion 2.x"
    base_version = "sd_v2"
    reference = "sd21"
    resolution = 768
    caption_width = 1024
    linear_projections = True

    def architecture(self, prediction: str) -> str:
        return "stable-diffusion-v2-768-v" if prediction == "v" else "stable-diffusion-v2-512"
