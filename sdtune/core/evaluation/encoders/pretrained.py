"""Encoders of the hub, or of a folder: models of transformers, fed as their own preprocessor_config.json says."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from sdtune.core.captioners.models import load_image_processor, load_model, load_tokenizer, trying
from sdtune.core.evaluation.encoders.tower import CPU, TRIAL, Given, Tower
from sdtune.errors import ModelError

LONGEST = 16  # times as long as wide: a shorter side of 224 px then makes a longer one of 3584


class Pretrained(Tower):
    """A model whose kind its config.json tells."""

    title: ClassVar[str]
    usual: ClassVar[str]
    """what its short name stands for on the hub"""
    kinds: ClassVar[Mapping[str, str]]
    """{model_type of config.json: class of transformers}"""

    def __init__(self, model: str, model_type: str, folder: Path, device: torch.device) -> None:
        """`model` is its name as it was given."""
        self.label = f"{self.title} ({_shown(model)})"
        self.image_processor = load_image_processor(folder)
        if self.reads_texts:
            self.tokenizer = _tokenizer(folder)
            self.tokenizer.padding_side = "right"
        self.model = load_model(self.kinds[model_type], folder, CPU, torch.float32)
        with trying(folder):
            told = self.image_processor.to_dict()
            self.resize = _resize(told)
            self._must_make_one_size(folder)
            super().__init__(device, (self.model,), json.dumps(told, sort_keys=True, default=str))

    @abstractmethod
    def see(self, given: Given) -> Tensor:
        """[n, d] the network's features."""

    def given(self, image: Image.Image) -> Given:
        """As its own processor makes it."""
        return dict(self.image_processor(_middle(image), return_tensors="pt"))

    def _must_make_one_size(self, folder: Path) -> None:
        """Stop at a processor whose pictures no batch could be made of."""
        wide, high = (self.given(Image.new("RGB", size)) for size in (TRIAL, TRIAL[::-1]))
        if any(one.shape != high[name].shape for name, one in wide.items()):
            file = folder / "preprocessor_config.json"
            raise ModelError(f"{file}: does not make pictures of one size; download the model again")


def _tokenizer(folder: Path) -> Any:
    """What makes numbers of texts; some need a library that sdtune does without, as those of SigLIP 1."""
    try:
        return load_tokenizer(folder)
    except ImportError as problem:
        needed = next((one for one in ("sentencepiece", "tiktoken", "protobuf") if one in str(problem).lower()), None)
        remedy = f"pip install {needed}" if needed else "install the library that it names"
        told = f"its tokenizer needs {needed or 'a library'}, which is not installed"
        raise ModelError(f"{folder}: {told}; {remedy}, or use --encoder siglip2 or clip") from None


def _middle(image: Image.Image) -> Image.Image:
    """The image, or of a very long one its middle: processors that crop to it enlarge all of it before."""
    short = min(image.size)
    width, height = (min(side, LONGEST * short) for side in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _shown(model: str) -> str:
    """Its name on the hub, or that of its folder, without what a terminal or a page would act upon."""
    name = Path(model).expanduser().resolve().name if Path(model).expanduser().is_dir() else model
    return "".join(letter for letter in name if letter.isprintable())[:100]


def _resize(told: Mapping[str, Any]) -> str:
    """How a processor makes the square, in words."""
    size, crop = told.get("size") or {}, told.get("crop_size") or {}
    if "max_num_patches" in told:
        square = f"resized to at most {told['max_num_patches']} patches of {told.get('patch_size')} px"
    elif size.get("shortest_edge"):
        square = f"shorter side to {size['shortest_edge']} px"
    else:
        square = f"the whole picture squashed to {size.get('width')} x {size.get('height')} px"
    if told.get("do_center_crop"):
        square += f", then the middle {crop.get('width')} x {crop.get('height')}"
    kind = Image.Resampling(int(told["resample"])).name.lower()
    return f"{square}, {kind} with antialiasing, 8 bits (Pillow), as the model's own processor does"
