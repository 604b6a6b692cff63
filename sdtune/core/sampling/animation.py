"""Animations: the pictures of an axis one after another and back, without an end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from sdtune.core.run_folder import write_atomically
from sdtune.core.sampling.axes import Axis
from sdtune.core.sampling.layout import Shown, label_of
from sdtune.core.sheet import SMALLEST, font_of, opened, size_of, wrapped
from sdtune.errors import OutputError

FRAME, HOLD = 100, 800  # milliseconds of a frame, and of the first and the last
LARGEST = {
    ".webp": 1024,
    ".gif": 640,
}  # pixels of the longer side; all frames of a GIF are held, each at a byte a pixel
HOW: dict[str, dict[str, Any]] = {
    ".webp": {"format": "WEBP", "quality": 90, "method": 4},
    ".gif": {"format": "GIF", "optimize": False},
}
EVEN = 2  # video programs want even sides


class Film(Image.Image):
    """Frames as Pillow takes those of an animated picture: one at a time, each made when it is asked for."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[str], size: tuple[int, int]) -> None:
        super().__init__()
        self._paths, self._labels, self._frame = paths, labels, -1
        self._mode, self._size = "RGB", size
        self.n_frames = len(paths)
        self.is_animated = self.n_frames > 1
        self.seek(0)

    def seek(self, frame: int) -> None:
        """Show another frame."""
        if frame >= self.n_frames:
            raise EOFError
        if frame != self._frame:
            self.im = _frame(self._paths[frame], self._labels[frame], self.size).im
            self._frame = frame

    def tell(self) -> int:
        """The number of the frame that is shown, from 0."""
        return self._frame


def write_animation(pictures: Sequence[Shown], axis: Axis, out: Path) -> None:
    """The pictures of one prompt and seed, .webp or .gif, with the value written in a corner."""
    kind = out.suffix.lower()
    if kind not in HOW:
        raise OutputError(f"{out}: animations are .webp or .gif files; give --out a name that ends so")
    there = sorted((one for one in pictures if size_of(one.path)), key=lambda one: one.cell)
    if not there:
        raise OutputError(f"{out}: none of its pictures can be read any more; draw them again with --overwrite")
    shown = [*there, *reversed(there[1:-1])]
    film = Film(
        [one.path for one in shown],
        [label_of(axis, one.cell[0]) for one in shown],
        _size(there[0].path, LARGEST[kind]),
    )
    ends = {0, len(there) - 1}
    times = [HOLD if place in ends else FRAME for place in range(len(shown))]
    write_atomically(out, lambda path: film.save(path, save_all=True, duration=times, loop=0, **HOW[kind]))


def _size(path: Path, largest: int) -> tuple[int, int]:
    """Of all frames, in even numbers of pixels."""
    width, height = size_of(path) or (SMALLEST, SMALLEST)
    scale = min(max(1, -(-SMALLEST // width)), largest / max(width, height))
    return tuple(max(EVEN, int(side * scale) // EVEN * EVEN) for side in (width, height))  # type: ignore[return-value]


def _frame(path: Path, label: str, size: tuple[int, int]) -> Image.Image:
    """A picture with its value in the lower left corner, light on dark."""
    picture = opened(path) or Image.new("RGB", size)
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    letters = max(12, min(size) // 22)
    font, edge = font_of(letters), letters // 2
    (line, *_) = wrapped(label, font, size[0] - 4 * edge, 1)
    pen = ImageDraw.Draw(picture, "RGBA")
    base = size[1] - 2 * edge - letters // 4
    box = (edge, base - letters - edge // 2, 3 * edge + font.getlength(line), base + letters // 4 + edge // 2 + 1)
    pen.rounded_rectangle(box, edge, (0, 0, 0, 170))
    pen.text((2 * edge, base), line, (255, 255, 255, 255), font, anchor="ls")
    return picture
