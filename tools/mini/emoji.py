"""Noto emoji as pictures with words: what every part of the mini model learns from."""

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import resvg_py
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.mini.fetch import EMOJIBASE, NOTO, npm_json

COMPONENT, FLAGS = 2, 9  # emojibase's groups that are no pictures of things


@dataclass(frozen=True)
class Emoji:
    """One emoji and what is said of it."""

    code: str  # code points in hexadecimal, joined by "-", without the variation selector
    label: str
    tags: tuple[str, ...]

    @property
    def held_out(self) -> bool:
        """Whether it is kept from training where a stage measures on unseen pictures: about 1 in 20."""
        return hashlib.sha256(self.code.encode()).digest()[0] < 13


@dataclass(frozen=True)
class EmojiSet:
    """All emoji of a set and their pictures."""

    emoji: list[Emoji]
    pixels: Tensor  # [N, 3, size, size] uint8

    def rows(self, *, held_out: bool) -> Tensor:
        """The places of those kept from training, or of the others."""
        return torch.tensor([i for i, e in enumerate(self.emoji) if e.held_out == held_out])


def load(folder: Path, size: int = 128, limit: int | None = None) -> EmojiSet:
    """The set drawn in `folder`, drawing it there first if it is not."""
    words, pictures = folder / "emoji.json", folder / "emoji.safetensors"
    if not pictures.exists():
        folder.mkdir(parents=True, exist_ok=True)
        drawn = _draw(folder / "npm", size, limit)
        words.write_text(json.dumps([asdict(e) for e in drawn.emoji], indent=0), encoding="utf-8")
        save_file({"pixels": drawn.pixels}, pictures)
    read = json.loads(words.read_text(encoding="utf-8"))
    emoji = [Emoji(e["code"], e["label"], tuple(e["tags"])) for e in read]
    return EmojiSet(emoji, load_file(pictures)["pixels"])


def _draw(npm: Path, size: int, limit: int | None) -> EmojiSet:
    icons = npm_json(NOTO, "icons.json", npm)
    names = npm_json(NOTO, "chars.json", npm)
    emoji, pixels = [], []
    for entry in npm_json(EMOJIBASE, "en/data.json", npm):
        code = entry["hexcode"].lower().replace("-fe0f", "")
        icon = icons["icons"].get(names.get(code))
        if icon is None or entry.get("group") in (None, COMPONENT, FLAGS):
            continue
        emoji.append(Emoji(code, entry["label"], tuple(entry.get("tags", ()))))
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        pixels.append(_pixels(icon["body"], width, height, size))
        if len(emoji) == limit:
            break
    return EmojiSet(emoji, torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous())


def _pixels(body: str, width: int, height: int, size: int) -> np.ndarray:
    """[size, size, 3] of one drawing on white."""
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
