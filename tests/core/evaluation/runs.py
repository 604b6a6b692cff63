"""Run folders as trainings leave them, written by hand: settings, list of data, LoRAs; and pictures to learn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from sdtune.config import TrainLora, resolve
from sdtune.core import lora_file
from sdtune.core.lora_file import Lora, LoraModule
from sdtune.core.reports import Note, Skipped
from sdtune.core.run_folder import RunFolder
from sdtune.layers import to_toml

QUERY = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "brown")


def lora(
    path: Path, step: int | None = None, value: float = 1.0, family: str = "sd1", width: int = 8, **facts: str
) -> Path:
    """A LoRA that tells by its weights from those of other values."""
    told = {} if step is None else {"ss_steps": str(step)}
    path.parent.mkdir(parents=True, exist_ok=True)
    module = LoraModule(torch.full((1, width), value), torch.ones(width, 1), 1.0)
    lora_file.write(path, Lora({QUERY: module}, family, told | facts))
    return path


def picture(path: Path, number: int, side: int = 64) -> Path:
    """One that is unlike those of other numbers."""
    image = Image.new("RGB", (side, side), COLOURS[number % 8])
    draw = ImageDraw.Draw(image)
    for line in range(8):  # the bits of its number as bars, which a perceptual hash tells apart
        if (number * 37 + 11) >> line & 1:
            box = (
                line % 4 * side // 4,
                line // 4 * side // 2,
                line % 4 * side // 4 + side // 5,
                line // 4 * side // 2 + 25,
            )
            draw.rectangle(box, fill=COLOURS[(number + line + 3) % 8])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def pictures(folder: Path, captions: Sequence[str | None], first: int = 0) -> Path:
    """A data folder, with captions beside the pictures."""
    for number, caption in enumerate(captions, first):
        picture(folder / f"{number:02}.png", number)
        if caption is not None:
            (folder / f"{number:02}.txt").write_text(caption, encoding="utf-8")
    return folder


def run(
    place: Path,
    folder: Path,
    texts: Sequence[str],
    *,
    held_out: Sequence[int] = (),
    steps: Sequence[int] = (),
    best: int | None = None,
    end: int | None = 100,
    value: float = 1.0,
    priors: Sequence[int] = (),
    width: int = 8,
    **tables: Any,
) -> RunFolder:
    """A run that was trained on pictures(folder, texts), which are made where they are not there."""
    if not folder.exists():
        pictures(folder, texts)
    config = resolve(TrainLora, [{"model": "mini", "data": {"folder": str(folder)}}, tables])
    files = sorted(folder.glob("*.png"))
    images = [
        {
            "file": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "captions": [caption],
            "repeats": 1,
            "weight": 1.0,
            "prior": number in priors,
            "held_out": number in held_out,
        }
        for number, (file, caption) in enumerate(zip(files, texts, strict=True))
    ]
    made = RunFolder(place, folder.name).create(to_toml(config), json.dumps({"name": folder.name, "images": images}))
    for step in steps:
        lora(made.partial(step), step, value * step, width=width)
    if best:
        lora(made.best, best, value * best, width=width)
    if end:
        lora(made.lora, end, value * end, width=width)
        made.finish({"steps": end, "why": "steps", "best": best})
    return made


def heard(work: Generator[Any, None, Any]) -> tuple[Any, list[str]]:
    """(what comes back, what was told)."""
    told: list[str] = []
    while True:
        try:
            report = next(work)
        except StopIteration as end:
            return end.value, told
        if isinstance(report, Note):
            told.append(report.text)
        elif isinstance(report, Skipped):
            told.append(f"{report.path}: {report.reason}")
