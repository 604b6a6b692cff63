"""Captioners that write: the likeliest words first, further captions drawn at random."""

from __future__ import annotations

import contextlib
import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from sdtune.core.captioners.base import Describer, Picture, Setting, Told
from sdtune.core.captioners.models import folder_of, load_image_processor, load_model, load_tokenizer, trying
from sdtune.core.data.captions import clean

INSTEAD = "give its folder as --captioner.model, or choose --captioner mini, which needs no network"
"""what else can be done where a model cannot be fetched"""


class Speaker(Describer):
    """A model of transformers that writes a caption."""

    architecture: ClassVar[str]
    """transformers' class"""
    batch_on_card: ClassVar[int]
    """pictures that fit into one call on a card that holds the model"""

    def __init__(self, settings: Any, setting: Setting) -> None:
        folder = folder_of(settings.model, instead=INSTEAD)
        self.settings = settings
        self.seed = setting.seed
        self.image_processor = load_image_processor(folder)
        self.tokenizer = load_tokenizer(folder)
        self.model = load_model(self.architecture, folder, setting.device, setting.dtype)
        self.batch = self.batch_on_card if setting.device.type == "cuda" else 1
        self.folder, self.works = folder, False

    @abstractmethod
    def inputs(self, images: Sequence[Image.Image]) -> Mapping[str, torch.Tensor]:
        """What the model is given for these images."""

    def words(self, tokens: torch.Tensor, prompt: int) -> list[str]:  # noqa: ARG002 (qwen3-vl leaves the prompt out)
        """The captions in these tokens [n, length]; `prompt` is how many of them the model was given."""
        return list(self.tokenizer.batch_decode(tokens, skip_special_tokens=True))

    @torch.inference_mode()
    def describe(self, pictures: Sequence[Picture], variants: int = 1) -> list[list[Told]]:
        """Each picture's likeliest caption, then others without doubles."""
        images = [picture.image for picture in pictures]
        assert all(image is not None for image in images), "a picture came without its image"
        beams = getattr(self.settings, "beams", 1)
        with contextlib.nullcontext() if self.works else trying(self.folder):
            found = [[caption] for caption in self._write(images, do_sample=False, num_beams=beams)]
        self.works = True
        if variants > 1:
            for captions, picture in zip(found, pictures, strict=True):
                captions += self._drawn(picture, variants - 1)
        return [[Told(one) for one in dict.fromkeys(captions) if one] for captions in found]

    def _drawn(self, picture: Picture, count: int) -> list[str]:
        """Captions at random that depend on the seed and the file's name, not on its neighbours."""
        cards = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cards):
            torch.manual_seed(int.from_bytes(hashlib.sha256(f"{self.seed} {picture.path.name}".encode()).digest()[:7]))
            hotter = {"do_sample": True, "num_beams": 1, "temperature": self.settings.temperature, "top_p": 0.95}
            return self._write([picture.image], num_return_sequences=count, **hotter)

    def _write(self, images: Sequence[Any], **how: Any) -> list[str]:
        inputs = {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in self.inputs(images).items()
        }
        longest = self.settings.max_new_tokens
        tokens = self.model.generate(**inputs, max_new_tokens=longest, **self._plain(how), **how)
        prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        return [clean(caption) for caption in self.words(tokens, prompt)]

    def _plain(self, how: Mapping[str, Any]) -> dict[str, Any]:
        """The model's own settings for drawing at random, out of the way where nothing is."""
        return {} if how["do_sample"] else {"temperature": None, "top_p": None, "top_k": None}
