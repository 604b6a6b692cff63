"""The built-in captioner: what simple drawings show, by mini's own CLIP, its picture book and measured colours.

CLIP (Radford et al. 2021, arXiv:2103.00020) says how well each subject of the vocabulary fits a picture; it is small
and knows one style. So a picture is also laid beside the drawings that CLIP was trained on: coarse colours and edge
directions (Dalal & Triggs 2005), in the directions that tell drawings apart best (Fisher 1936).
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from sdtune.choices import captioners
from sdtune.core.captioners.base import Describer, Picture, Setting, Told
from sdtune.core.captioners.models import load_model, load_tokenizer
from sdtune.mini import FOLDER

SIDE = 128  # pixels that the image tower sees
FILLED = 0.95  # of the side, as the drawings it learned from
NEAR = 12  # of 255: what differs less from the background belongs to it
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
BOOK_WEIGHT = 100.0  # of a likeness in [0, 1] against CLIP's logits; chosen on Fluent pictures that are not measured
NEAREST = 3  # drawings that stand for a subject which has none
CERTAINTY = 0.25  # of the sum's softmax, so that a score of 0.7 is right about 7 times of 10; chosen on the same
WORDINGS = ("{told}", "an emoji of {subject}", "{subject} emoji", "a drawing of {subject}")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")


class Mini(Describer):
    """A subject with its article, its colour and its background: a red apple, plain white background."""

    kind: ClassVar[str] = "mini"
    batch = 32

    def __init__(self, settings: captioners.Mini, setting: Setting) -> None:
        self.settings = settings
        self.subjects = (FOLDER / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
        book = {name: value.float() for name, value in load_file(FOLDER / "vocabulary.safetensors").items()}
        self.projection, self.offset, self.drawings = book["projection"], book["offset"], book["drawings"]
        self.places = book["places"].long()
        self.tower = load_model("CLIPVisionModelWithProjection", FOLDER / "clip_image", setting.device, torch.float32)
        self.texts = _texts(self.subjects, setting.device)
        self.undrawn, self.nearest = self._nearest_drawn()

    def describe(self, pictures: Sequence[Picture], variants: int = 1) -> list[list[Told]]:
        """The likeliest subject in a sentence, then the same in other words."""
        framed = [_framed(picture.image) for picture in pictures]
        sure, place = (CERTAINTY * self.fit(np.stack([one.pixels for one in framed]))).softmax(dim=1).max(dim=1)
        return [
            _worded(self.subjects[i], one.attributes()[: self.settings.attributes], p, variants)
            if p >= self.settings.certainty
            else []
            for i, p, one in zip(place.tolist(), sure.tolist(), framed, strict=True)
        ]

    @torch.inference_mode()
    def fit(self, pixels: np.ndarray[Any, Any], book: float = BOOK_WEIGHT) -> Tensor:
        """[n, subjects] CLIP's logits for framed pictures, and their likeness to the drawings where there is one."""
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        seen = functional.normalize(self.tower(((x / 255 - mean) / std).to(self.tower.device)).image_embeds, dim=1)
        fit: Tensor = (seen @ self.texts.T).cpu()
        likeness = functional.normalize(sketch(x) @ self.projection - self.offset, dim=1) @ self.drawings.T
        fit[:, self.places] += book * likeness.clamp(min=0)
        fit[:, self.undrawn] += book * likeness.clamp(min=0)[:, self.nearest].amax(dim=2)
        return fit

    def _nearest_drawn(self) -> tuple[Tensor, Tensor]:
        """Subjects without a drawing [m], and for each the drawings [m, NEAREST] of those with the nearest words."""
        words = functional.normalize(self.texts - self.texts.mean(dim=0), dim=1).cpu()
        undrawn = torch.tensor(sorted(set(range(len(self.subjects))) - set(self.places.tolist())))
        return undrawn, (words[undrawn] @ words[self.places].T).topk(NEAREST, dim=1).indices


@dataclass(frozen=True)
class Framed:
    """One image as the drawings are: in the middle of a white square."""

    pixels: np.ndarray[Any, Any]  # [SIDE, SIDE, 3] uint8
    subject: np.ndarray[Any, Any]  # [n, 3] uint8, the pixels that are no background
    background: tuple[int, int, int] | None
    """the one colour of the background, None where it has several"""

    def attributes(self) -> list[str]:
        """The main colour where one covers half of the subject ("" where none does), then what lies behind it."""
        names = [_colour(*colour) for colour in self.subject[:: max(1, len(self.subject) // 500)].tolist()]
        most = max(COLOURS, key=names.count)
        colour = most if names.count(most) > len(names) / 2 else ""
        behind = f"plain {_colour(*self.background)} background" if self.background else ""
        return [colour, behind]


def _framed(image: Image.Image | None) -> Framed:
    assert image is not None, "a picture came without its image"
    if max(image.size) > 4 * SIDE:
        scale = 4 * SIDE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    pixels = np.asarray(image, dtype=np.uint8)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    behind = np.median(border, axis=0).astype(np.uint8)
    plain = (_difference(border, behind) <= NEAR).mean() > 0.9
    other = _difference(pixels, behind) > NEAR
    if not plain or not other.any():
        return Framed(_in_square(pixels, behind, 1.0), pixels.reshape(-1, 3), None)
    rows, columns = np.flatnonzero(other.any(axis=1)), np.flatnonzero(other.any(axis=0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    white = np.where(other[window][..., None], pixels[window], np.uint8(255))
    colour = (int(behind[0]), int(behind[1]), int(behind[2]))
    return Framed(_in_square(white, np.full(3, 255, np.uint8), FILLED), pixels[other], colour)


def framed_pixels(images: Sequence[Image.Image]) -> np.ndarray[Any, Any]:
    """[n, SIDE, SIDE, 3] uint8, each image as the drawings are."""
    return np.stack([_framed(image).pixels for image in images])


def _difference(pixels: np.ndarray[Any, Any], colour: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = np.abs(pixels.astype(np.int16) - colour).max(axis=-1)
    return found


def _in_square(pixels: np.ndarray[Any, Any], around: np.ndarray[Any, Any], filled: float) -> np.ndarray[Any, Any]:
    height, width = pixels.shape[:2]
    side = round(max(height, width) / filled)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = around
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def sketch(x: Tensor) -> Tensor:
    """[n, 704] coarse colours and edge directions, 8 by 8, of pictures [n, 3, SIDE, SIDE] in [0, 255]."""
    colours = functional.adaptive_avg_pool2d(x / 255, 8).flatten(1) * 2 - 1
    grey = x.mean(dim=1, keepdim=True) / 255
    dx = functional.pad(grey[..., 2:] - grey[..., :-2], (1, 1))
    dy = functional.pad(grey[..., 2:, :] - grey[..., :-2, :], (0, 0, 1, 1))
    strength = (dx**2 + dy**2).sqrt()
    direction = torch.atan2(dy, dx) % torch.pi / torch.pi * 8  # of 8, without a sign
    shares = [(1 - ((direction - one + 4) % 8 - 4).abs()).clamp(min=0) for one in range(8)]
    edges = functional.adaptive_avg_pool2d(torch.cat([strength * share for share in shares], dim=1), 8)
    return torch.cat([colours, (edges / (edges.norm(dim=1, keepdim=True) + 0.05)).flatten(1)], dim=1)


@torch.inference_mode()
def _texts(subjects: Sequence[str], device: torch.device) -> Tensor:
    """[subjects, C] the text tower's unit vectors, times the logit scale."""
    tokenizer = load_tokenizer(FOLDER / "tokenizer")
    tokenizer.padding_side = "right"
    tower = load_model("CLIPTextModel", FOLDER / "text_encoder", device, torch.float32)
    learned = load_file(FOLDER / "clip_image" / "text_projection.safetensors", device=str(device))
    found = []
    for start in range(0, len(subjects), 256):
        ids = tokenizer(list(subjects[start : start + 256]), padding="longest", truncation=True, return_tensors="pt")
        found.append(tower(ids.input_ids.to(device)).pooler_output @ learned["text_projection.weight"].float().T)
    texts: Tensor = functional.normalize(torch.cat(found), dim=1) * learned["logit_scale"].float().exp()
    return texts


def _worded(subject: str, attributes: Sequence[str], sure: float, variants: int) -> list[Told]:
    words = re.sub("[“”]", "", subject).replace("’", "'").replace(": ", ", ")
    colour = attributes[0] if attributes else ""
    if colour and not any(re.search(rf"\b{one}\b", words) for one in (*COLOURS, "gold", "golden", "silver", "dark")):
        words = f"{colour} {words}"
    named = with_article(words)
    told = ", ".join([named, *(more for more in attributes[1:] if more)])
    captions = dict.fromkeys(wording.format(told=told, subject=named) for wording in WORDINGS)
    return [Told(caption, sure) for caption in list(captions)[:variants]]


def with_article(words: str) -> str:
    """The words with a or an; several things, names and times of the day have none."""
    head = re.split(r" (?:with|of|and|in|on|over|without|under|holding|showing|taking)\b|,", words)[0]
    several = re.search(r"[^sui]s$|\b(people|men|women)\b", head) and not head.endswith("lens")
    if several or words[:1].isupper() or head.endswith(("o'clock", "-thirty")):
        return words
    vowel = re.match(r"(?!uni|uk|us|eu|one)[aeiou]|hour", words)
    return f"an {words}" if vowel else f"a {words}"


def _colour(red: int, green: int, blue: int) -> str:
    """The English name of a colour; the bounds are by eye."""
    hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    if value < 0.22:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.85 else "grey"
    degrees = hue * 360
    if 10 <= degrees < 48 and value < 0.68:
        return "brown"
    if degrees >= 345 or degrees < 12:
        return "pink" if saturation < 0.5 and value > 0.7 else "red"
    named = ((38, "orange"), (68, "yellow"), (170, "green"), (255, "blue"), (300, "purple"), (345, "pink"))
    return next(name for bound, name in named if degrees < bound)
