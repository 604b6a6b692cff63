"""`sdtune prepare` beside a plain Pillow loop that opens, turns, resizes and saves, on 12-megapixel JPEGs.

    python -m tools.bench.prepare --images 500 --rounds 5

Both run on one core and save the same sizes in the same form; what counts is the CPU time of all processes, which other
work on the machine hardly changes. `prepare` hashes, measures, compares and reports beside that.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from PIL import Image, ImageFilter, ImageOps

from sdtune.core.data.buckets import bucket_for
from sdtune.core.intake.one import SAVED

SIZE = (4000, 3000)


def main() -> None:
    """Print images a second and core of both, round by round, and the median of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--form", default="png", choices=sorted(SAVED))
    parser.add_argument("--plain", type=Path, help="run the plain loop on this folder, and nothing else")
    asked = parser.parse_args()
    if asked.plain:
        plain_loop(asked.plain, asked.form)
        return
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        make_photos(photos, asked.images)
        share = max(1, asked.images // asked.rounds)
        files = sorted(photos.iterdir())
        ratios = []
        for number in range(asked.rounds):
            part = Path(place) / f"part-{number}"
            part.mkdir()
            for file in files[number * share : (number + 1) * share]:
                (part / file.name).hardlink_to(file)
            plain = cpu_seconds(
                [sys.executable, "-m", "tools.bench.prepare", "--plain", str(part), "--form", asked.form]
            )
            command = ["-m", "sdtune", "prepare", str(part), "--out", str(Path(place) / "out")]
            ours = cpu_seconds([sys.executable, *command, "--workers", "1", "--format", asked.form])
            shutil.rmtree(Path(place) / "out")
            ratios.append(plain / ours)
            speeds = f"plain {share / plain:.2f}, prepare {share / ours:.2f} images/s and core"
            print(f"round {number + 1}: {speeds}, {plain / ours:.2f} times", flush=True)
        print(f"{asked.form}: prepare has {statistics.median(ratios):.2f} times the speed of the plain loop (median)")


def make_photos(folder: Path, count: int) -> None:
    """Pictures with the detail of photographs: noise of all sizes, with edges, turned by EXIF as phones do."""
    folder.mkdir()
    rng = numpy.random.default_rng(0)
    width, height = SIZE
    base = numpy.zeros((height, width, 3), dtype=numpy.float32)
    for level in range(1, 9):
        small = rng.normal(size=(height >> level, width >> level, 3)).astype(numpy.float32)
        layers = [Image.fromarray(small[..., colour]).resize(SIZE, Image.Resampling.BICUBIC) for colour in range(3)]
        base += 2.0**level * numpy.stack([numpy.asarray(layer) for layer in layers], axis=-1)
    base = (base - base.min()) / numpy.ptp(base) * 255
    exif = Image.Exif()
    for number in range(count):
        shifted = numpy.roll(base, (number * 137, number * 211), axis=(0, 1))
        image = Image.fromarray(shifted.astype(numpy.uint8)).filter(ImageFilter.SHARPEN)
        exif[0x0112] = (1, 6, 8, 1)[number % 4]
        image.save(folder / f"{number:04d}.jpg", quality=90, exif=exif)


def plain_loop(folder: Path, form: str) -> None:
    """What anyone would write."""
    suffix, settings = SAVED[form]
    out = folder.with_name(f"{folder.name}-plain")
    out.mkdir()
    for path in sorted(folder.iterdir()):
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        bucket = bucket_for(image.width, image.height, 1024)
        scale = max(bucket[0] / image.width, bucket[1] / image.height)
        size = (round(image.width * scale), round(image.height * scale))
        image.resize(size, Image.Resampling.LANCZOS).save(out / f"{path.stem}{suffix}", **settings)
    shutil.rmtree(out)


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a command and all its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
