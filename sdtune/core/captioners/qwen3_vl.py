"""Qwen3-VL: captions by instruction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image

from sdtune.core.captioners.base import Setting
from sdtune.core.captioners.models import trying
from sdtune.core.captioners.speaker import Speaker

_PLACE = "<|image_pad|>"
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, where the model's folder has no template of its own"""


class Qwen3VL(Speaker):
    """Follows an instruction."""

    kind: ClassVar[str] = "qwen3-vl"
    architecture: ClassVar[str] = "Qwen3VLForConditionalGeneration"
    batch_on_card: ClassVar[int] = 4

    def __init__(self, settings: Any, setting: Setting) -> None:
        super().__init__(settings, setting)
        with trying(self.folder):
            template = self.tokenizer.chat_template or _template_beside(self.folder)
            asked = [{"type": "image"}, {"type": "text", "text": settings.prompt}]
            self.chat = self._chat([{"role": "user", "content": asked}], template)
            size = dict(self.image_processor.size)
            size["longest_edge"] = max(min(size["longest_edge"], settings.max_pixels), size["shortest_edge"])
            self.image_processor.size = size

    def _chat(self, messages: Sequence[Mapping[str, Any]], template: str) -> str:
        from jinja2 import TemplateError

        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False, add_generation_prompt=True
                )
            )
        except TemplateError as problem:
            raise ValueError(f"its chat template: {problem}") from None

    def inputs(self, images: Sequence[Image.Image]) -> Mapping[str, torch.Tensor]:
        """Patches, and the chat with one place a merged patch; transformers' own processor wants torchvision."""
        patches = self.image_processor(list(images), return_tensors="pt")
        places = patches.image_grid_thw.prod(dim=1) // self.image_processor.merge_size**2
        chats = [self.chat.replace(_PLACE, _PLACE * int(n), 1) for n in places]
        text = self.tokenizer(chats, padding=True, return_tensors="pt", add_special_tokens=False)
        return {
            "input_ids": text.input_ids,
            "attention_mask": text.attention_mask,
            "mm_token_type_ids": (text.input_ids == self.model.config.image_token_id).int(),
            "pixel_values": patches.pixel_values,
            "image_grid_thw": patches.image_grid_thw,
        }

    def words(self, tokens: torch.Tensor, prompt: int) -> list[str]:
        """What follows the chat."""
        return super().words(tokens[:, prompt:], 0)


def _template_beside(folder: Path) -> str:
    file = folder / "chat_template.json"
    return str(json.loads(file.read_text(encoding="utf-8"))["chat_template"]) if file.is_file() else _CHAT
