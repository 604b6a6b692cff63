"""sd.cpp through its Python package: what it says of a LoRA's tensors, and what it draws."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_DRAW = Path(__file__).with_name("sdcpp_draw.py")


@dataclass(frozen=True)
class Drawn:
    """A picture of sd.cpp's, and what it says meanwhile."""

    picture: np.ndarray[Any, Any]
    """[64, 64, 3], 0 to 255"""
    applied: tuple[int, int] | None
    """of how many LoRA tensors it took how many"""
    told: tuple[str, ...]
    """its warnings and errors"""


def drawn(python: Path, model: Path, out: Path, lora: Path | None = None, strength: float = 0.8) -> Drawn:
    """One picture of 64 pixels in one step; `python` is one that has stable-diffusion-cpp-python."""
    prompt = "a photo of a cat" + (f"<lora:{lora.stem}:{strength}>" if lora else "")
    words = [python, _DRAW, model, lora.parent if lora else out.parent, prompt, out]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"{model}: sd.cpp ended with {done.returncode}: {said[-2000:]}")
    found = re.findall(r"\((\d+) / (\d+)\) LoRA tensors", said)
    applied = (int(found[-1][0]), int(found[-1][1])) if found else None
    told = [line.strip() for line in said.splitlines() if re.search(r"WARN|ERROR", line)]
    pixels = np.asarray(Image.open(out).convert("RGB"), np.float32)
    return Drawn(pixels, applied, tuple(told))
