"""A picture as a PNG that says how it was made, under a name that was free."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdtune import __version__
from sdtune.config import Sample
from sdtune.core.run_folder import must_be_writable, write_atomically
from sdtune.errors import ConfigError, OutputError, SdtuneError


def parameters(config: Sample, prompt: str, seed: int, size: tuple[int, int], model_name: str, sampler: str) -> str:
    """The text that A1111 writes into its pictures and that others read: prompt, negative, settings."""
    settings = {
        "Steps": config.steps,
        "Sampler": sampler,
        "CFG scale": f"{config.guidance:g}",
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model": model_name,
        "Version": f"sdtune {__version__}",
    }
    lines = [prompt]
    if config.negative:
        lines.append(f"Negative prompt: {config.negative}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in settings.items())])


def save_png(path: Path, image: Image.Image, text: str) -> None:
    """The picture with its parameters, whole or not at all."""
    info = PngInfo()
    info.add_itxt("parameters", text) if not text.isascii() else info.add_text("parameters", text)
    try:
        write_atomically(path, lambda place: image.save(place, pnginfo=info))
    except OSError as error:
        raise SdtuneError(
            f"{path}: cannot be written ({error.strerror}); free space, or choose another --out"
        ) from None


class Names:
    """Free names for pictures: 00001-0-a-red-apple.png, never one that exists."""

    def __init__(self, config: Sample) -> None:
        pictures = len(config.prompt) * config.count
        self.single = config.out if config.out.suffix.lower() == ".png" else None
        if self.single and pictures > 1:
            raise ConfigError(f"--out {config.out}: names one picture, but {pictures} are asked for; give a folder")
        self.folder = config.out.parent if self.single else config.out
        try:
            if self.single and (self.single.exists() or self.single.is_symlink()):
                raise OutputError(f"{self.single}: exists already; give another name with --out")
            if self.folder.is_symlink() and not self.folder.exists():
                raise OutputError(f"{self.folder}: a link that leads nowhere; give another place with --out")
            if self.folder.exists() and not self.folder.is_dir():
                raise OutputError(f"{self.folder}: is a file; give a folder, or a name that ends in .png, with --out")
        except OSError as error:
            told = str(config.out)[:200]
            raise OutputError(f"{told}: cannot be written ({error.strerror}); give another place with --out") from None
        must_be_writable(self.folder)
        found = (re.match(r"(?:grid-)?(\d{5})", path.name) for path in self.folder.glob("*.png"))
        self.number = max((int(number[1]) for number in found if number), default=0)

    def next(self, prompt: str, seed: int) -> Path:
        """The name of the next picture."""
        if self.single:
            return self.single
        self.number += 1
        words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-")
        return self.folder / f"{self.number:05d}-{seed}{'-' * bool(words)}{words}.png"

    def grid(self) -> Path:
        """The name of the sheet of all."""
        self.number += 1
        return self.folder / f"grid-{self.number:05d}.png"
