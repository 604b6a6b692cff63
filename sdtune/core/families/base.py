"""What every model family says of itself: which parts it has, how it reads captions, how it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sdtune.core.diffusion import Process

Shapes = Mapping[str, tuple[int, ...]]
"""What a safetensors header tells of the tensors: {key: shape}"""


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
    text_encoders: ClassVar[tuple[str, ...]]
    """the pipeline's parts that read captions"""
    optional_parts: ClassVar[tuple[str, ...]] = ()
    """parts that a pipeline of this family may lack"""
    kohya_prefixes: ClassVar[dict[str, str]]
    """pipeline part -> the prefix of its LoRA keys in kohya's form: {"unet": "lora_unet", "text_encoder": "lora_te"}"""
    numbered_blocks: ClassVar[bool] = False
    """whether kohya's form names the U-Net's blocks by the numbers of the first publication, as it does for SDXL"""
    lora_form: ClassVar[str] = "kohya"
    """the form in which LoRAs of this family load in the most programs: kohya or diffusers"""
    base_version: ClassVar[str]
    """ss_base_model_version, as kohya's programs write it"""
    marks: ClassVar[tuple[str, ...]]
    """what ss_base_model_version or modelspec.architecture start with in the metadata of LoRA files"""
    models: ClassVar[dict[str, str]]
    """short names of released models, and where the hub keeps them"""
    inpainting_model: ClassVar[str | None] = None
    """where the hub keeps the released model with 9 channels in"""
    resolution: ClassVar[int]
    """pixels of the side of a square image that the released models were trained on"""
    predictions: ClassVar[frozenset[str]] = frozenset({"epsilon", "v"})
    """what models of this family may predict"""
    alpha_share: ClassVar[float] = 0.5
    """alpha over rank where no alpha is given"""
    defaults: ClassVar[dict[str, Any]] = {}
    """settings of train-lora that differ from the classes' own defaults"""

    @abstractmethod
    def recognises_config(self, config: Mapping[str, Any]) -> bool:
        """Whether a denoiser's config.json in diffusers' layout is of this family."""

    @abstractmethod
    def recognises(self, shapes: Shapes) -> bool:
        """Whether a checkpoint in the original single-file layout with these tensors is of this family."""

    def reference(self, shapes: Shapes) -> str:  # noqa: ARG002 (sd3 looks at them)
        """The released model whose configs and tokenizers fit a checkpoint in the original layout."""
        return next(iter(self.models.values()))

    @abstractmethod
    def recognises_lora(self, shapes: Shapes) -> bool:
        """Whether a LoRA with these tensors, named by part and diffusers' module names, is surely of this family."""

    def version(self, prediction: str) -> str:  # noqa: ARG002 (sd1 and sd2 look at it)
        """ss_base_model_version of a base model with this prediction type."""
        return self.base_version

    @abstractmethod
    def architecture(self, prediction: str) -> str:
        """modelspec.architecture of a base model of this family with this prediction type."""

    @abstractmethod
    def lora_targets(self, layers: str) -> str:
        """Regular expression over the denoiser's module names: layers as in networks.LoRA."""

    @property
    def clips(self) -> tuple[str, ...]:
        """Those of the text encoders that are CLIP's, which read captions in chunks of 75 tokens."""
        return self.text_encoders

    @abstractmethod
    def encode_captions(
        self,
        pipe: Any,
        captions: Sequence[str],
        *,
        chunks: int = 1,
        clip_skip: int | None = None,
        weighted: bool = False,
        breaks: bool = False,
    ) -> dict[str, Tensor]:
        """What the denoiser is told of each caption, by its own argument names: {name: [n, ...]}.

        Every caption is read in `chunks`, empty ones at its end; it must not need more (`count_chunks`). `clip_skip` is
        the layer counted from the last, 1, where the family reads one or another; `weighted`: (word:1.3) weighs words;
        `breaks`: it does, and BREAK ends a chunk. Gradients flow where the caller lets them.
        """

    def count_tokens(
        self, pipe: Any, captions: Sequence[str], *, weighted: bool = False, breaks: bool = False
    ) -> list[int]:
        """Tokens of each caption, without marks of begin and end, for the reader that needs most."""
        return [max(counts) for counts in zip(*self._lengths(pipe, captions, weighted, breaks), strict=True)]

    def count_chunks(
        self, pipe: Any, captions: Sequence[str], *, weighted: bool = False, breaks: bool = False
    ) -> list[int]:
        """Chunks that each caption needs, 1 or more."""
        from sdtune.core.families import clip

        readers = [
            [
                len(clip.chunked(clip.tokens_of(tokenizer, caption, weighted=weighted, breaks=breaks)))
                for caption in captions
            ]
            for tokenizer in self._tokenizers(pipe)
        ]
        return [max(counts) for counts in zip(*readers, strict=True)]

    def most_tokens(self, pipe: Any) -> int | None:  # noqa: ARG002 (sd3 looks at it)
        """Tokens of a caption that can be read at all, however many the chunks; None: any number."""
        return None

    def check_clip_skip(self, pipe: Any, clip_skip: int | None) -> None:  # noqa: ARG002 (sd1 looks at it)
        """Stop at a layer that is not read, or not there."""
        if clip_skip is not None:
            raise ConfigError(
                f"{clip_skip_told(clip_skip)}: {self.title} reads texts from one layer alone; leave it out"
            )

    def unread_layers(self, part: str, clip_skip: int | None) -> int:  # noqa: ARG002 (sd1 and sdxl look at them)
        """How many of a CLIP's last layers say nothing to the denoiser."""
        return 0

    def _tokenizers(self, pipe: Any) -> list[Any]:
        """CLIP's, each beside its encoder."""
        return [getattr(pipe, part.replace("text_encoder", "tokenizer")) for part in self.clips]

    def _lengths(self, pipe: Any, captions: Sequence[str], weighted: bool, breaks: bool) -> list[list[int]]:
        """Tokens of each caption, by reader."""
        from sdtune.core.families import clip

        return [
            [len(clip.tokens_of(tokenizer, caption, weighted=weighted, breaks=breaks)) for caption in captions]
            for tokenizer in self._tokenizers(pipe)
        ]

    def condition_on_size(
        self,
        original: tuple[int, int],  # noqa: ARG002 (sdxl looks at them)
        crop: tuple[int, int],  # noqa: ARG002
        target: tuple[int, int],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """What the denoiser is told of one image's (width, height), crop corner (left, top) and size shown."""
        return {}

    @abstractmethod
    def denoise(self, net: nn.Module, x_t: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """The denoiser's prediction [B, C, h, w] for noisy latents of the same shape at timesteps [B]."""

    def process(self, pipe: Any) -> Process:
        """The noise process that the base model was trained in."""
        from sdtune.core.diffusion import Process

        return Process.from_scheduler(pipe.scheduler)


def clip_skip_told(layer: int) -> str:
    """The setting as messages call it, by its names in sampling and in training."""
    return f"--clip-skip {layer} (in a training --text.clip-skip)"
