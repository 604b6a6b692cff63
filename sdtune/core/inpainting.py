"""Inpainting: which places of a picture are to be drawn anew, and how the denoiser is told of the rest.

Masks are 255 where the picture is to be drawn anew and 0 where it is known. Half of them are wide strokes, the others
strokes and boxes, as in LaMa's training (Suvorov et al. 2022, arXiv:2109.07161, sec. 2.3).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Generator, Tensor

from sdtune.core.autoencoder import encode_images, pixels_a_latent, scaling
from sdtune.core.draws import generator
from sdtune.core.families import family_named
from sdtune.core.identity import Identity
from sdtune.errors import ConfigError

GREY = (128, 128, 128)  # of bytes the nearest to 0 in [-1, 1]
_LEAST, _MOST = 0.1, 0.5  # of the picture; the last piece may go beyond
_SKETCH = (128, 128)  # pixels in which covered area is counted, so that a mask is the same at every size

Piece = tuple[float, list[tuple[float, float]]]
"""(width of a stroke, its points), in parts of the picture's sides; a box has no width, and two corners"""


def check_task(task: str, identity: Identity, title: str) -> None:
    """Stop at a task that the model is not made for; `title` is that of its family."""
    if task == "inpainting" and not identity.inpainting:
        made_for_it = family_named(identity.family).inpainting_model
        remedy = f"as --model {made_for_it}" if made_for_it else "which no model of its family has"
        raise ConfigError(
            f"--task inpainting: {identity.name} ({title}) draws whole pictures; it needs a model with 9 channels in, "
            f"{remedy}"
        )
    if task != "inpainting" and identity.inpainting:
        raise ConfigError(
            f"--task {task}: {identity.name} ({title}) is an inpainting model; train it with --task inpainting"
        )


def masks_of(sha256: str, size: tuple[int, int], count: int, full: float) -> list[Image.Image]:
    """The masks of the image with this hash, mode L, of size (width, height).

    The share `full` of them covers all of it: of one image as many as that is, rounded down or up by its hash.
    """
    start = float(torch.rand((), generator=generator("inpainting", sha256), dtype=torch.float64))
    whole = [math.floor(start + (number + 1) * full) > math.floor(start + number * full) for number in range(count)]
    return [
        Image.new("L", size, 255) if covers else _irregular(generator("inpainting", sha256, number), size)
        for number, covers in enumerate(whole)
    ]


def masked(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The image with mid-grey where it is to be drawn anew."""
    seen = image.copy()
    seen.paste(GREY, (0, 0), mask)
    return seen


def mask_latent(mask: Image.Image, down: int) -> Tensor:
    """[1, h, w] of 0 and 1: of each latent pixel the nearest of its down x down pixels, as diffusers' pipelines do."""
    pixels = torch.frombuffer(bytearray(mask.tobytes()), dtype=torch.uint8).view(1, 1, mask.height, mask.width)
    size = (mask.height // down, mask.width // down)
    return (torch.nn.functional.interpolate(pixels.float(), size=size)[0] >= 127.5).float()


def anew_latent(mask: Image.Image, down: int) -> Tensor:
    """[1, h, w] of 0 and 1: 1 where any of a latent's pixels is to be drawn anew, so that none of them is left out."""
    pixels = torch.frombuffer(bytearray(mask.tobytes()), dtype=torch.uint8).view(1, mask.height, mask.width)
    return (torch.nn.functional.max_pool2d(pixels.float(), down) >= 127.5).float()


def is_told_of_holes(net: Any, channels: int) -> bool:
    """Whether a denoiser of latents with so many channels is one for inpainting, which sees mask and picture."""
    return bool(net.config.in_channels == 2 * channels + 1)


def holes(vae: Any, image: Image.Image, mask: Image.Image) -> Tensor:
    """What the denoiser is told where a part of a picture is to be drawn anew, [1 + C, h, w]."""
    mean, _ = encode_images(vae, [masked(image, mask)])
    return torch.cat([anew_latent(mask, pixels_a_latent(vae)), mean[0]])


def all_anew(vae: Any, size: tuple[int, int]) -> Tensor:
    """What the denoiser is told where all of a picture of (width, height) pixels is to be drawn, [1 + C, h, w]."""
    width, height = size
    with torch.no_grad():
        grey = vae.encode(torch.zeros(1, 3, height, width, device=vae.device)).latent_dist.mean
    scale, shift = scaling(vae)
    side = pixels_a_latent(vae)
    return torch.cat([torch.ones(1, height // side, width // side), ((grey[0] - shift) * scale).float().cpu()])


def _irregular(draws: Generator, size: tuple[int, int]) -> Image.Image:
    """Pieces until enough is covered."""
    wanted = _between(draws, _LEAST, _MOST)
    boxes = _between(draws, 0, 1) < 0.5
    sketch, mask = Image.new("L", _SKETCH), Image.new("L", size)
    while _covered(sketch) < wanted:
        piece = _box(draws) if boxes and _between(draws, 0, 1) < 0.5 else _stroke(draws)
        for picture in (sketch, mask):
            _draw(picture, piece)
    return mask


def _stroke(draws: Generator) -> Piece:
    """A chain of up to 6 segments, each turning a little."""
    width = _between(draws, 0.04, 0.2)
    x, y, angle = _between(draws, 0, 1), _between(draws, 0, 1), _between(draws, 0, 2 * math.pi)
    points = [(x, y)]
    for _ in range(1 + int(_between(draws, 0, 6))):
        angle += _between(draws, -1, 1)
        length = _between(draws, 0.05, 0.25)
        x, y = x + length * math.cos(angle), y + length * math.sin(angle)
        points.append((x, y))
    return width, points


def _box(draws: Generator) -> Piece:
    width, height = _between(draws, 0.1, 0.45), _between(draws, 0.1, 0.45)
    left, top = _between(draws, 0, 1 - width), _between(draws, 0, 1 - height)
    return 0, [(left, top), (left + width, top + height)]


def _draw(picture: Image.Image, piece: Piece) -> None:
    width, points = piece
    places = [(x * picture.width, y * picture.height) for x, y in points]
    pencil = ImageDraw.Draw(picture)
    if not width:
        pencil.rectangle([places[0], places[1]], 255)
        return
    pixels = max(1, round(width * math.sqrt(picture.width * picture.height)))
    pencil.line(places, 255, pixels)
    for x, y in places:  # round ends and joints
        pencil.ellipse([x - pixels / 2, y - pixels / 2, x + pixels / 2, y + pixels / 2], 255)


def _covered(mask: Image.Image) -> float:
    return mask.histogram()[255] / (mask.width * mask.height)


def _between(draws: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=draws, dtype=torch.float64))
