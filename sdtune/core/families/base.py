"""What every model family says of itself: which parts it has, how it reads captions, how it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from sdtune.core.diffusion import Noisy, Process


class Family(ABC):
    """One family of models; it holds no weights: they stay in diffusers' pipeline, which is passed in."""

    name: ClassVar[str]
    """short name in messages and metadata: sd1, sd2, sdxl, sd3"""
    title: ClassVar[str]
    """name in full: Stable Diffusion 1.x"""
    pipeline: ClassVar[str]
    """diffusers' class for drawing: StableDiffusionPipeline"""
    denoiser: ClassVar[str] = "unet"
    """the pipeline's part that is trained"""
    kohya_prefixes: ClassVar[dict[str, str]]
    """pipeline part -> the prefix of its LoRA keys in kohya's form: {"unet": "lora_unet", "text_encoder": "lora_te"}"""
    lora_form: ClassVar[str] = "kohya"
    """the form in which LoRAs of this family load in the most programs: kohya or diffusers"""
    architecture: ClassVar[str]
    """modelspec.architecture of a base model of this family"""
    base_version: ClassVar[str]
    """ss_base_model_version, as kohya's programs write it"""
    resolution: ClassVar[int]
    """pixels of the side of a square image that the released models were trained on"""
    defaults: ClassVar[dict[str, Any]] = {}
    """settings of train-lora that differ from the classes' own defaults"""

    @abstractmethod
    def recognises(self, keys: Collection[str], shapes: dict[str, tuple[int, ...]]) -> bool:
        """Whether a checkpoint in the original single-file layout with these tensors is of this family."""

    @abstractmethod
    def recognises_lora(self, keys: Collection[str], shapes: dict[str, tuple[int, ...]]) -> bool:
        """Whether a LoRA file with these tensors, in any form, is of this family."""

    @abstractmethod
    def lora_targets(self, layers: str) -> str:
        """Regular expression over the denoiser's module names: layers is "attention" or "attention+ff"."""

    @abstractmethod
    def encode_captions(self, pipe: Any, captions: Sequence[str]) -> dict[str, Tensor]:
        """What the denoiser is told of each caption, by its own argument names: {name: [n, ...]}."""

    def condition_on_size(
        self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]
    ) -> dict[str, Tensor]:
        """What the denoiser is told of one image's (width, height), crop corner (left, top) and size shown."""
        return {}

    @abstractmethod
    def denoise(self, net: nn.Module, noisy: Noisy, conditioning: dict[str, Tensor]) -> Tensor:
        """The denoiser's prediction for noisy latents, [B, C, h, w]."""

    def process(self, pipe: Any) -> Process:
        """The noise process that the base model was trained in."""
        return Process.from_scheduler(pipe.scheduler)
