"""The training loop, fed out of a cache, beside bare steps on one batch that is there already: `mini`, on the CPU.

    python -m tools.bench.feeding steps --images 64 5000 --batch-sizes 4 1 --rounds 40
    python -m tools.bench.feeding start DATASET --model mini --cache FOLDER
    python -m tools.bench.feeding encode --images 200

`steps`: the same denoiser, loss, clipping and optimizer, in rounds that take turns; what lies in the cache are random
latents and captions. `start`: the phases of one run of `train-lora` up to its first steps, and its memory. `encode`:
images a second, with the next ones decoded meanwhile and without.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy
import psutil
import torch
from PIL import Image

from sdtune.config import TrainLora, model_settings, refine, resolve
from sdtune.core import model
from sdtune.core.data import encode
from sdtune.core.data.ahead import ahead
from sdtune.core.data.batches import Batches
from sdtune.core.data.buckets import bucket_for
from sdtune.core.data.cache import Store, key_of
from sdtune.core.data.conditioning import Told
from sdtune.core.data.encode import Encoded, Version
from sdtune.core.data.folder import Example
from sdtune.core.data.plan import plan_for
from sdtune.core.data.seen import Seen
from sdtune.core.data.views import views_of
from sdtune.core.diffusion import Process
from sdtune.core.draws import Draws
from sdtune.core.families import Family, family_named
from sdtune.core.making import add_lora, settled
from sdtune.core.reports import Progress, Step
from sdtune.core.step_losses import image_losses
from sdtune.core.train_lora import train_lora
from sdtune.core.training import Training, accelerator_for, images_a_step
from sdtune.tables import Augment, Masking

SETTLE = 1  # step of a turn that is not counted; each later one makes another ahead, as in a run
ENDLESS = 10**7
MB = 1e6


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked = parser.add_subparsers(required=True)
    steps = asked.add_parser("steps")
    steps.add_argument("--images", type=int, nargs="+", default=[64])
    steps.add_argument("--batch-sizes", type=int, nargs="+", default=[4])
    steps.add_argument("--rounds", type=int, default=20)
    steps.add_argument("--steps", type=int, default=6)
    steps.set_defaults(work=measure_steps)
    start = asked.add_parser("start")
    start.add_argument("folder", type=Path)
    start.add_argument("--model", default="mini")
    start.add_argument("--cache", type=Path, required=True)
    start.add_argument("--steps", type=int, default=100)
    start.set_defaults(work=measure_start)
    encoding = asked.add_parser("encode")
    encoding.add_argument("--images", type=int, default=200)
    encoding.add_argument("--size", type=int, nargs=2, default=(1500, 1000))
    encoding.add_argument("--rounds", type=int, default=5)
    encoding.set_defaults(work=measure_encoding)
    told = parser.parse_args()
    torch.set_num_threads(1)
    told.work(told)


def measure_steps(asked: argparse.Namespace) -> None:
    """Wall and CPU milliseconds a step of each arm, and medians of their ratios to the bare step of the same round."""
    with tempfile.TemporaryDirectory() as place:
        for batch_size in asked.batch_sizes:
            arms = _arms(asked.images, batch_size, Path(place))
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
            for number in range(asked.rounds):
                turns = list(arms)
                first = number % len(turns)
                for name in turns[first:] + turns[:first]:
                    found[name].append(_timed(arms[name], asked.steps))
            for name, rounds in found.items():
                print(f"batch {batch_size}, {name}: {_compared(rounds, found['bare'])}", flush=True)


def _compared(rounds: Sequence[tuple[float, float]], bare: Sequence[tuple[float, float]]) -> str:
    """Medians of one arm, and of its ratios to the bare steps of the same rounds with their quartiles."""
    told = []
    for which, kind in enumerate(("by the clock", "of CPU")):
        ratios = [one[which] / other[which] for one, other in zip(rounds, bare, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        median = statistics.median(one[which] for one in rounds)
        told.append(f"{median:.1f} ms {kind}, {middle:.3f} times bare ({low:.3f} to {high:.3f})")
    return "; ".join(told)


def measure_start(asked: argparse.Namespace) -> None:
    """When each phase of a training begins, and the memory of its process."""
    told = {"data": {"folder": asked.folder}, "model": asked.model, "steps": asked.steps, "samples": {"off": True}}
    began, cpu, me, phase = time.monotonic(), time.process_time(), psutil.Process(), ""

    def tell(text: str) -> None:
        now = f"{time.monotonic() - began:7.1f} s, {time.process_time() - cpu:7.1f} s of CPU"
        print(f"{now}, {me.memory_info().rss / MB:5.0f} MB: {text}", flush=True)

    with tempfile.TemporaryDirectory() as place:
        more = {"cache": {"folder": asked.cache}, "out": Path(place) / "run", "network": {"rank": 8}, "batch_size": 4}
        for report in train_lora(resolve(TrainLora, [told | more])):
            if isinstance(report, Progress):
                if report.phase != phase:
                    phase = report.phase
                    tell(phase)
            elif isinstance(report, Step):
                if report.number == 1 or report.number % max(1, asked.steps // 5) == 0:
                    tell(f"step {report.number}")
            else:
                tell(f"{report}"[:120])
    print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


def measure_encoding(asked: argparse.Namespace) -> None:
    """Images a second through the autoencoder of `mini`, the next decoded meanwhile or not."""
    identity = model.identify("mini")
    family = family_named(identity.family)
    pipe = model.load(identity, torch.float32, without=(family.denoiser,))
    with tempfile.TemporaryDirectory() as place:
        seen = _photos(Path(place), asked.images, tuple(asked.size))
        ratios = []
        for number in range(asked.rounds):
            speeds = []
            for way in (ahead, _in_turn):
                with patch.object(encode, "ahead", way):
                    began = time.monotonic()
                    for _ in encode.encode_images_of(seen, family, pipe.vae, Store(None, 2**30), Masking(), None):
                        pass
                    speeds.append(len(seen) / (time.monotonic() - began))
            ratios.append(speeds[0] / speeds[1])
            print(f"round {number + 1}: ahead {speeds[0]:.1f}, in turn {speeds[1]:.1f} images/s", flush=True)
        print(f"decoding ahead has {statistics.median(ratios):.2f} times the speed (median)")


def _in_turn(make: Callable[[Any], Any], given: Iterable[Any], **_: Any) -> Iterator[Any]:
    """What `ahead` does, without a thread."""
    return map(make, given)


def _arms(sizes: list[int], batch_size: int, place: Path) -> dict[str, Iterator[object]]:
    """Endless steps of each kind, all with the same denoiser."""
    told = {"data": {"folder": place}, "network": {"rank": 8}, "batch_size": batch_size}
    config = refine(resolve(TrainLora, [told]), model_settings("mini"))
    identity = model.identify("mini")
    family = family_named(identity.family)
    process = family.process(model.load(identity, torch.float32))
    config = settled(config, family, 128, ENDLESS, images_a_step(config))
    net: Any = model.load_denoiser(identity, torch.float32)
    net.train()
    add_lora(net, config, family)
    accelerator = accelerator_for(config, "no")
    arms: dict[str, Iterator[object]] = {}
    for count in sizes:
        for room, name in ((2**40, "in memory"), (0, "on disk")):
            store = Store(place / f"{batch_size}-{count}" if room == 0 else None, room)
            batches = _batches(config, count, store, net)
            if not arms:
                arms = {one: _bare(config, family, process, net, batches) for one in ("bare", "bare again")}
            arms[f"{count} {name}"] = Training(config, accelerator, family, process, net, batches).steps(ENDLESS)
    return arms


def _batches(config: TrainLora, count: int, store: Store, net: Any) -> Batches:
    """So many images of 128 x 128 with a caption each, as random numbers in the store."""
    random = torch.Generator().manual_seed(0)
    images, keys = [], {}
    for caption in ["", *(f"picture {number}" for number in range(count))]:
        keys[caption] = key_of("caption", caption)
        told = torch.randn(77, net.config.cross_attention_dim, generator=random)
        store.put(keys[caption], {"encoder_hidden_states": told})
        if caption:
            latents = key_of("latents", caption)
            drawn = torch.randn(2, net.config.in_channels, 16, 16, generator=random)
            store.put(latents, {"mean": drawn[0], "std": drawn[1].abs() / 10})
            version = Version(latents, None, (), {}, "")
            images.append(Encoded(caption, ((version,),), ((128, 128),), (caption,)))
    sizes = [one.sizes for one in images]
    stream = plan_for(
        sizes, [1] * count, [False] * count, batch_size=config.batch_size, seed=config.seed, manifest="bench"
    )
    return Batches(images, stream, store, config.captions, seed=config.seed, told=Told(keys, store))


def _bare(config: TrainLora, family: Family, process: Process, net: Any, batches: Batches) -> Iterator[float]:
    """Steps as anyone would write them, again and again on one batch."""
    draws = Draws(config.seed, 0, range(config.batch_size), config.batch_size)
    (batch, _), *_ = batches.at(0, draws)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    rate = config.optimizer.rate(config.batch_size)
    optimizer = config.optimizer.build([{"params": trained, "lr": rate}], rate)
    while True:
        loss = image_losses(config, family, process, net, batch, draws).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item()


def _timed(steps: Iterator[object], count: int) -> tuple[float, float]:
    """Milliseconds a step by the clock and of the process's CPU."""
    for _ in range(SETTLE):
        next(steps)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(steps)
    return (time.perf_counter() - wall) / count * 1e3, (time.process_time() - cpu) / count * 1e3


def _photos(folder: Path, count: int, size: tuple[int, int]) -> list[Seen]:
    """JPEGs of noise at all sizes, as `mini` sees them."""
    random = numpy.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=numpy.uint8))
    picture = numpy.asarray(coarse.resize(size, Image.Resampling.BICUBIC))
    bucket = bucket_for(*size, 128)
    assert bucket, "they are large enough"
    seen = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        Image.fromarray(numpy.roll(picture, 37 * number, axis=1)).save(path, quality=90)
        digest = sha256(path.read_bytes()).hexdigest()
        example = Example(path, ("a photo",), *size, sha256=digest)
        seen.append(Seen(example, (views_of(*size, digest, bucket, Augment()),)))
    return seen


if __name__ == "__main__":
    main()
