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
        given = self.session.get_inputs()[0]
        if len(given.shape) != 4 or given.shape[3] != 3 or not isinstance(given.shape[1], int):
            raise ModelError(f"{folder / MODEL}: takes {given.shape}, not images [n, side, side, 3]; get a v3 tagger")
        self.input, self.side = given.name, given.shape[1]
        self.batch = given.shape[0] if isinstance(given.shape[0], int) else 8

    def describe(self, pictures: Sequence[Picture], variants: int = 1) -> list[list[Told]]:  # noqa: ARG002 (one way)
        """The tags from each category's probability up."""
        pixels = np.stack([_pixels(picture.image, self.side) for picture in pictures])
        batches = [pixels[start : start + self.batch] for start in range(0, len(pixels), self.batch)]
        probabilities = np.concatenate([self.session.run(None, {self.input: batch})[0] for batch in batches])
        if probabilities.shape[1] != len(self.names):
            told = f"{probabilities.shape[1]} probabilities for the {len(self.names)} tags of {TAGS}"
            raise ModelError(f"{self.settings.model}: {told}; download both files again")
        return [self._told(row) for row in probabilities]

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
