"""What the captioner mini looks things up in (`python -m tools.captioning_vocabulary`), into sdtune/mini/.

vocabulary.txt: emojibase's labels (MIT), a line each. vocabulary.safetensors: 80 numbers for each drawing of Noto
Emoji (Apache-2.0) that mini's CLIP was trained on, and the directions in which they were measured: those of Fisher's
discriminant between the drawings and the same drawings moved, tinted, shaded and blurred. The held-out drawings are
left out, so that what is measured on them is measured on what was never seen.
"""

from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from sdtune.core.captioners.mini import framed_pixels, sketch
from tools.mini import emoji

ROOT = Path(__file__).parents[1]
WORK, MODEL = ROOT / "build" / "mini", ROOT / "sdtune" / "mini"
DIRECTIONS, VERSIONS, SEED = 80, 10, 0
RIDGE = 0.1  # of the mean variance within the versions of a drawing


def main() -> None:
    """Write both files; the same packages give the same files."""
    data = emoji.load(WORK)
    (MODEL / "vocabulary.txt").write_text("".join(f"{one.label}\n" for one in data.emoji), encoding="utf-8")
    rows = data.rows(held_out=False)
    images = [Image.fromarray(data.pixels[i].permute(1, 2, 0).numpy()) for i in rows.tolist()]
    pixels = torch.from_numpy(framed_pixels(images)).permute(0, 3, 1, 2).float()
    rng = torch.Generator().manual_seed(SEED)
    sketches = [sketch(pixels)] + [
        torch.cat([sketch(changed(some, rng)) for some in pixels.split(128)]) for _ in range(VERSIONS)
    ]
    projection, centre = directions(torch.stack(sketches))
    drawings = functional.normalize((torch.stack(sketches).mean(dim=0) - centre) @ projection, dim=1)
    book = {"projection": projection, "offset": centre @ projection, "drawings": drawings}
    tensors = {name: value.half().contiguous() for name, value in book.items()} | {"places": rows}
    save_file(tensors, MODEL / "vocabulary.safetensors")
    for file in sorted(MODEL.glob("vocabulary.*")):
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB")


def changed(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Drawings [n, 3, h, w] in [0, 255], each moved, scaled, tinted, shaded, highlighted and blurred, on white."""
    n = len(pixels)

    def share(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng)

    zoom = torch.eye(2).expand(n, 2, 2) / (0.8 + 0.3 * share(n, 1, 1))
    grid = functional.affine_grid(torch.cat([zoom, 0.12 * (share(n, 2, 1) - 0.5)], dim=2), list(pixels.shape), False)
    x = 255 - functional.grid_sample(255 - pixels, grid, align_corners=False)
    drawn = ((255 - x).amax(dim=1, keepdim=True) > 10).float()
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * (0.6 + 0.9 * share(n, 1, 1, 1))
    mixed = torch.eye(3) + 0.12 * torch.randn(n, 3, 3, generator=rng)
    x = torch.einsum("nij,njhw->nihw", mixed / mixed.sum(dim=2, keepdim=True), x).clamp(0, 255)
    x = 255 * (x / 255) ** (0.7 + 0.7 * share(n, 1, 1, 1))
    size = list(x.shape[2:])
    light = functional.interpolate(share(n, 1, 3, 3), size, mode="bicubic", align_corners=True)
    gloss = functional.interpolate((share(n, 1, 4, 4) > 0.85).float(), size, mode="bilinear", align_corners=True)
    x = x * (0.65 + 0.6 * light) + 60 * gloss
    blur = int(torch.randint(0, 3, (1,), generator=rng))
    x = functional.avg_pool2d(functional.pad(x, [blur] * 4, mode="replicate"), 2 * blur + 1, stride=1)
    return (x * drawn + 255 * (1 - drawn)).clamp(0, 255)


def directions(sketches: Tensor) -> tuple[Tensor, Tensor]:
    """[d, DIRECTIONS] where drawings differ most against their own versions, and the centre [d]; of [v, n, d]."""
    mean = sketches.mean(dim=0)
    centre = mean.mean(dim=0)
    within = (sketches - mean).flatten(0, 1).double()
    covariance = within.T @ within / len(within)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.double)
    values, vectors = torch.linalg.eigh(covariance + ridge)
    whitening = vectors / values.sqrt()
    _, _, between = torch.linalg.svd((mean - centre).double() @ whitening, full_matrices=False)
    return (whitening @ between[:DIRECTIONS].T).float(), centre


if __name__ == "__main__":
    main()
