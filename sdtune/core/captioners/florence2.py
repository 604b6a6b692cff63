"""Florence-2: a small model that writes captions of three lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from sdtune.core.captioners.base import Setting
from sdtune.core.captioners.models import trying
from sdtune.core.captioners.speaker import Speaker

TASKS = {"short": "<CAPTION>", "detailed": "<DETAILED_CAPTION>", "long": "<MORE_DETAILED_CAPTION>"}
"""by the length that was asked for"""


class Florence2(Speaker):
    """Captions by a task, which stands for a question."""

    kind: ClassVar[str] = "florence2"
    architecture: ClassVar[str] = "Florence2ForConditionalGeneration"
    batch_on_card: ClassVar[int] = 16

    def __init__(self, settings: Any, setting: Setting) -> None:
        super().__init__(settings, setting)
        from transformers import Florence2Processor

        if not hasattr(self.tokenizer, "image_token"):  # as in conversions that name it in the config alone
            self.tokenizer.image_token_id = self.model.config.image_token_id
            self.tokenizer.image_token = self.tokenizer.convert_ids_to_tokens(self.tokenizer.image_token_id)
        with trying(self.folder):
            self.processor = Florence2Processor(self.image_processor, self.tokenizer)

    def inputs(self, images: Sequence[Image.Image]) -> Mapping[str, torch.Tensor]:
        """Pixels, and the task's question behind the places of the image."""
        task = [TASKS[self.settings.length]] * len(images)
        given: Mapping[str, torch.Tensor] = self.processor(images=list(images), text=task, return_tensors="pt")
        return given
