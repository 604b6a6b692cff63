"""`sdtune sample` beside a script of diffusers' own pipeline, as whole processes on the built-in model.

    python -m tools.bench.sampling --rounds 5 --threads 1 2

Both draw the same pictures (one prompt, one seed each, the same noise, DPM-Solver++ with Karras levels, the same
guidance) and save them as PNG. Start-up is one picture of one step; the steady state is what a picture more takes, from
the difference between few and many. Arms take turns; what is told are medians, by the clock and of processor time.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

MINI = Path(__file__).parents[2] / "sdtune" / "mini"
PROMPT = "a red apple"
STEPS, GUIDANCE, SIDE = 25, 5.0, 128
FEW, MANY = 4, 12  # pictures, whole batches of four
ARMS = ("sdtune", "diffusers, batch 1", "diffusers, batch 4")
Took = tuple[float, float]
"""seconds (by the clock, of processor time)"""


def main() -> None:
    """Print a table of all arms, and whether they have drawn the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--plain", type=Path, help="draw into this folder with diffusers, and nothing else")
    parser.add_argument("--pictures", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=1)
    asked = parser.parse_args()
    if asked.plain:
        plain_script(asked.plain, asked.pictures, asked.steps, asked.batch)
        return
    names = ("torch", "diffusers", "transformers")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print(f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {versions}")
    for threads in asked.threads:
        compare(threads, asked.rounds)


def compare(threads: int, rounds: int) -> None:
    """The table for so many threads."""
    starts: dict[str, list[Took]] = {arm: [] for arm in ARMS}
    pictures: dict[str, list[Took]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as place:
        for number in range(rounds):
            for arm in (*ARMS[number % 3 :], *ARMS[: number % 3]):
                folder = Path(place) / f"{number}" / arm.replace(", ", "-").replace(" ", "-")
                starts[arm].append(run(command(arm, folder / "start", 1, 1, threads), threads))
                few = run(command(arm, folder / "few", FEW, STEPS, threads), threads)
                many = run(command(arm, folder / "many", MANY, STEPS, threads), threads)
                clock, processor = ((most - least) / (MANY - FEW) for least, most in zip(few, many, strict=True))
                pictures[arm].append((clock, processor))
                apart = furthest(folder.parent / "sdtune" / "many", folder / "many")
                told = "" if apart is None else f"; furthest from sdtune's in any value of any picture: {apart}"
                print(f"  round {number + 1}, {arm}: {clock:.3f} s a picture{told}", flush=True)
    print(f"\n{threads} {'thread' if threads == 1 else 'threads'}, medians of {rounds} rounds, seconds:\n")
    print("| | start-up | of processor | a picture more | of processor |\n|---|---|---|---|---|")
    for arm in ARMS:
        cells = [middle(took, which) for took in (starts[arm], pictures[arm]) for which in (0, 1)]
        print(f"| {arm} | " + " | ".join(cells) + " |")
    for arm in ARMS[1:]:
        cells = [ratio(all_[ARMS[0]], all_[arm], which) for all_ in (starts, pictures) for which in (0, 1)]
        print(f"| sdtune to {arm} | " + " | ".join(cells) + " |")
    print()


def command(arm: str, folder: Path, pictures: int, steps: int, threads: int) -> list[str]:
    """What is typed."""
    drawn = ["--steps", str(steps)]
    if arm == "sdtune":
        words = ["--prompt", PROMPT, "--count", str(pictures), "--guidance", str(GUIDANCE), *drawn]
        return [
            "-m",
            "sdtune",
            "sample",
            *words,
            "--sampler",
            "dpm++2m",
            "--out",
            str(folder),
            "--memory.threads",
            str(threads),
        ]
    batch = ["--batch", arm.rpartition(" ")[2], "--pictures", str(pictures)]
    return ["-m", "tools.bench.sampling", "--plain", str(folder), *batch, *drawn]


def plain_script(folder: Path, pictures: int, steps: int, batch: int) -> None:
    """What anyone would write."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(MINI, torch_dtype=torch.float32)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    folder.mkdir(parents=True)
    shape = (pipe.unet.config.in_channels, SIDE // pipe.vae_scale_factor, SIDE // pipe.vae_scale_factor)
    for first in range(0, pictures, batch):
        seeds = range(first, min(first + batch, pictures))
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        drawn = pipe(
            [PROMPT] * len(seeds),
            height=SIDE,
            width=SIDE,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            latents=noise,
        )
        for seed, image in zip(seeds, drawn.images, strict=True):
            image.save(folder / f"{seed:05}.png")


def run(words: Sequence[str], threads: int) -> Took:
    """Run a command to its end."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    known = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, *words], check=True, env=known, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    clock, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def furthest(ours: Path, theirs: Path) -> int | None:
    """The largest difference of a value, 0-255, between pictures of two folders; None of a folder with itself."""
    import numpy
    from PIL import Image

    if ours == theirs or not ours.is_dir():
        return None
    pairs = zip(sorted(ours.glob("0*.png")), sorted(theirs.glob("*.png")), strict=True)
    values = [[numpy.asarray(Image.open(path)).astype(int) for path in pair] for pair in pairs]
    return max(int(numpy.abs(one - other).max()) for one, other in values)


def middle(took: Sequence[Took], which: int) -> str:
    """The median of one of two clocks."""
    return f"{statistics.median(one[which] for one in took):.3f}"


def ratio(ours: Sequence[Took], theirs: Sequence[Took], which: int) -> str:
    """The median of ratios within rounds."""
    return f"{statistics.median(our[which] / their[which] for our, their in zip(ours, theirs, strict=True)):.2f}"


if __name__ == "__main__":
    main()
