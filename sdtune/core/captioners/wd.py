"""Taggers of SmilingWolf: Danbooru's tags with their probabilities, by onnxruntime."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from sdtune.choices import captioners
from sdtune.core.captioners.base import Describer, Picture, Setting, Told
from sdtune.core.captioners.models import folder_of
from sdtune.core.captioners.speaker import INSTEAD
from sdtune.core.data.tags import is_face
from sdtune.errors import ConfigError, ModelError

MODEL, TAGS = "model.onnx", "selected_tags.csv"
MOST_PIXELS = 2048  # of a side; v3 taggers take 448
MOST_IMAGES = 64
GENERAL, CHARACTER, RATING = 0, 4, 9
"""Danbooru's categories"""


class WD(Describer):
    """Many tags, the surest first."""

    kind: ClassVar[str] = "wd"
    tags: ClassVar[bool] = True

    def __init__(self, settings: captioners.WD, setting: Setting) -> None:
        folder = folder_of(settings.model, (MODEL, TAGS), MODEL, instead=INSTEAD)
        for file in (MODEL, TAGS):
            if not (folder / file).is_file():
                raise ModelError(f"{folder}: no {file}; give a folder with {MODEL} and {TAGS}")
        self.settings = settings
        self.session = _session(folder / MODEL, setting.device)
        self.names, self.categories = _tags(folder / TAGS)
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise ModelError(f"{folder / MODEL}: takes {len(inputs)} inputs, not images alone; get a v3 tagger")
        (given,) = inputs
        if not _takes_images(given):
            told = " ".join(str(given.shape).split())[:100]
            raise ModelError(
                f"{folder / MODEL}: takes {told} of {given.type}, not images [n, side, side, 3] of tensor(float), "
                f"with a side up to {MOST_PIXELS}; get a v3 tagger"
            )
        self.input, self.side = given.name, given.shape[1]
        self.fixed = given.shape[0] if isinstance(given.shape[0], int) else None
        self.batch = self.fixed or 8

    def describe(self, pictures: Sequence[Picture], variants: int = 1) -> list[list[Told]]:  # noqa: ARG002 (one way)
        """The tags from each category's probability up."""
        pixels = np.stack([_pixels(picture.image, self.side) for picture in pictures])
        batches = [pixels[start : start + self.batch] for start in range(0, len(pixels), self.batch)]
        return [self._told(row) for batch in batches for row in self._probabilities(batch)]

    def _probabilities(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """[n, tags] of pixels [n, side, side, 3]; where the network takes more at once, the rest is black."""
        count = len(pixels)
        if self.fixed and count < self.fixed:
            pixels = np.concatenate([pixels, np.zeros((self.fixed - count, *pixels.shape[1:]), pixels.dtype)])
        try:
            found = self.session.run(None, {self.input: pixels})
        except Exception as problem:  # of onnxruntime's own kinds, which have no common name
            told = " ".join(str(problem).split())[:200]
            raise ModelError(f"{self.settings.model}: {MODEL} cannot be run ({told}); get a v3 tagger") from None
        shape: tuple[int, ...] = np.shape(found[0]) if found else ()
        if len(shape) != 2 or shape[0] != len(pixels) or found[0].dtype.kind != "f":
            told = f"{MODEL} gives {list(shape)} for {len(pixels)} images, not the probabilities of tags for each"
            raise ModelError(f"{self.settings.model}: {told}; get a v3 tagger")
        if shape[1] != len(self.names):
            told = f"{shape[1]} probabilities for the {len(self.names)} tags of {TAGS}"
            raise ModelError(f"{self.settings.model}: {told}; download both files again")
        return np.asarray(found[0][:count])

    def _told(self, probabilities: np.ndarray[Any, Any]) -> list[Told]:
        least = {GENERAL: self.settings.general, CHARACTER: self.settings.character}
        places = np.arange(len(probabilities))
        taken = [i for i in places if self.categories[i] in least and probabilities[i] >= least[self.categories[i]]]
        ratings = [i for i in places if self.categories[i] == RATING]
        if self.settings.rating and ratings:
            taken.append(max(ratings, key=lambda i: probabilities[i]))
        taken.sort(key=lambda i: -probabilities[i])
        return [Told(self._spelt(self.names[i]), float(probabilities[i])) for i in taken]

    def _spelt(self, tag: str) -> str:
        """With spaces for underscores; a face such as ^_^ or o_o is no two words."""
        return tag if self.settings.underscores or is_face(tag) else tag.replace("_", " ")


def _takes_images(given: Any) -> bool:
    """Whether an input of a network is [n, side, side, 3], its side told and sane, n told, too, or free."""
    if given.type != "tensor(float)" or len(given.shape) != 4:
        return False
    count, height, width, colours = given.shape
    square = isinstance(height, int) and height == width and 1 <= height <= MOST_PIXELS
    return square and colours == 3 and (not isinstance(count, int) or 1 <= count <= MOST_IMAGES)


def _pixels(image: Image.Image | None, side: int) -> np.ndarray[Any, Any]:
    """[side, side, 3] in blue, green, red, 0 to 255: in the middle of a white square, then scaled."""
    assert image is not None, "a picture came without its image"
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), "white")
    square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    scaled = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(scaled, dtype=np.float32)[:, :, ::-1]


def _session(model: Path, device: torch.device) -> Any:
    try:
        onnx = import_module("onnxruntime")
    except ImportError:
        raise ConfigError("captioner wd: needs onnxruntime, which is not installed; pip install onnxruntime") from None
    options = onnx.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"][device.type != "cuda" :]
    providers = [one for one in wanted if one in onnx.get_available_providers()]
    try:
        return onnx.InferenceSession(str(model), options, providers=providers)
    except Exception as problem:  # of onnxruntime's own kinds, which have no common name
        told = " ".join(str(problem).split())[:200]
        raise ModelError(f"{model}: cannot be loaded ({told}); download it again") from None


def _tags(file: Path) -> tuple[list[str], list[int]]:
    """The tags' names and categories, in the order of the model's probabilities."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [(row["name"], int(row["category"])) for row in csv.DictReader(lines)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise ModelError(f"{file}: not a table with name and category; download it again") from None
    return [name for name, _ in rows], [category for _, category in rows]
