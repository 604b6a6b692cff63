"""How often the captioner mini names the subject (`python -m tools.captioning_figures`), for docs/captioning.md.

A subject counts as found where its own label of emojibase is first, or among the first five, of the whole vocabulary.
"""

import hashlib
import io
import json
import tarfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sdtune.choices import captioners
from sdtune.core.captioners import Picture, load
from sdtune.core.captioners.mini import BOOK_WEIGHT, Mini, framed_pixels
from sdtune.tables import Memory
from tools.examples.build import FLUENT, member
from tools.mini import emoji
from tools.mini.emoji import EmojiSet
from tools.mini.fetch import NOTO, npm_json, tarball

ROOT = Path(__file__).parents[1]
WORK, NPM = ROOT / "build" / "mini", ROOT / "build" / "npm"
COUNT = 200
TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
Shown = list[tuple[int, Image.Image]]
"""(place of the subject in the vocabulary, picture)"""


def main() -> None:
    """Print the table."""
    data = emoji.load(WORK)
    describer = load(captioners.Mini(), Memory(device="cpu", threads=1))
    assert isinstance(describer, Mini)
    fluent = _by_hash(fluent_pictures(data))
    sets: dict[str, Shown] = {
        "Noto, held out from CLIP and picture book": _own(data, data.rows(held_out=True)),
        "Fluent 3D, 200 by hash": fluent[:COUNT],
        "Fluent 3D, those of them that CLIP and picture book know in Noto's style": _known(data, fluent[:COUNT]),
        "Fluent 3D, the others (weights were chosen on these)": fluent[COUNT:],
        "Noto with skin tones, 200 by hash": _by_hash(toned_pictures(data))[:COUNT],
        "Noto, 200 that were trained on": _by_hash(dict(enumerate(_own(data, data.rows(held_out=False)))))[:COUNT],
    }
    found: dict[str, object] = {}
    for name, shown in sets.items():
        both, clip = (_figures(describer, shown, book) for book in (BOOK_WEIGHT, 0.0))
        found[name] = {"pictures": len(shown), "clip and picture book": both, "clip alone": clip}
    found["certainty of the 1,399"] = reliability(describer, fluent[COUNT:])
    found["speed"] = speed([image for _, image in fluent[:COUNT]])
    print(json.dumps(found, indent=2))


def fluent_pictures(data: EmojiSet) -> dict[str, tuple[int, Image.Image]]:
    """Every Fluent picture of a subject of the vocabulary, by code point."""
    places = {one.code: i for i, one in enumerate(data.emoji)}
    with tarfile.open(tarball(FLUENT, NPM)) as tar:
        files = {Path(name).stem.replace("-fe0f", ""): name for name in tar.getnames() if name.endswith(".webp")}
        return {
            code: (places[code], _on_white(member(tar, files[code]))) for code in sorted(files.keys() & places.keys())
        }


def _on_white(picture: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(picture)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def toned_pictures(data: EmojiSet) -> dict[str, tuple[int, Image.Image]]:
    """Noto's drawings of hands and people with a skin tone, of which none was trained on, by code point."""
    icons, names = (npm_json(NOTO, file, WORK / "npm") for file in ("icons.json", "chars.json"))
    places = {one.code: i for i, one in enumerate(data.emoji)}
    shown = {}
    for code, name in names.items():
        base = "-".join(part for part in code.split("-") if part not in TONES)
        if base != code and base in places and name in icons["icons"]:
            icon = icons["icons"][name]
            width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
            pixels = emoji._pixels(icon["body"], width, height, 128)
            shown[code] = (places[base], Image.fromarray(pixels))
    return shown


def _own(data: EmojiSet, rows: Tensor) -> Shown:
    return [(i, Image.fromarray(data.pixels[i].permute(1, 2, 0).numpy())) for i in rows.tolist()]


def _known(data: EmojiSet, shown: Shown) -> Shown:
    return [(i, image) for i, image in shown if not data.emoji[i].held_out]


def _by_hash(shown: dict[str, tuple[int, Image.Image]] | dict[int, tuple[int, Image.Image]]) -> Shown:
    """In an order that has nothing to do with what is shown, nor with what was held out."""
    keys = sorted(shown, key=lambda key: hashlib.sha256(f"captioning {key}".encode()).digest())
    return [shown[key] for key in keys]  # type: ignore[index]


def _figures(describer: Mini, shown: Shown, book: float) -> dict[str, float]:
    fit = torch.cat([describer.fit(framed_pixels([image]), book) for _, image in shown])
    order = fit.argsort(dim=1, descending=True)
    place = (order == torch.tensor([i for i, _ in shown])[:, None]).float().argmax(dim=1)
    return {f"top-{n}": round((place < n).float().mean().item(), 3) for n in (1, 5)}


def reliability(describer: Mini, shown: Shown) -> dict[str, str]:
    """How often a caption of a certainty is right."""
    told = [describer.describe([Picture(Path("a.png"), image)])[0][0].score for _, image in shown]
    right = [int(describer.fit(framed_pixels([image])).argmax()) == i for i, image in shown]
    bounds = (0.0, 0.2, 0.4, 0.6, 0.8, 1.01)
    rows = {}
    for low, high in pairwise(bounds):
        inside = [ok for score, ok in zip(told, right, strict=True) if low <= score < high]
        rows[f"{low} to {min(high, 1)}"] = f"{sum(inside)} of {len(inside)} right"
    return rows


def speed(images: list[Image.Image]) -> dict[str, float]:
    """Seconds to load, and pictures a second on one thread in batches."""
    start = time.perf_counter()
    describer = load(captioners.Mini(), Memory(device="cpu", threads=1))
    loaded = time.perf_counter()
    for first in range(0, len(images), describer.batch):
        describer.describe([Picture(Path("a.png"), image) for image in images[first : first + describer.batch]])
    took = time.perf_counter() - loaded
    return {"seconds to load": round(loaded - start, 2), "images a second": round(len(images) / took, 1)}


if __name__ == "__main__":
    main()
