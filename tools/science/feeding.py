"""Does how images and captions are fed lower the held-out loss? `mini` on examples/fluent-3d, three seeds an arm.

    python -m tools.science.feeding results.jsonl [--steps 800] [--arms plain,crop] [--seeds 0,1,2]

Each line of the results is one run. The held-out loss is that of 20 images that no run sees, at 20 levels of noise
each, the same for all (mean squared error of the noise, unweighted); the drift is the squared distance to the
base's own prediction at the same noisy images under everyday prompts. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sdtune.config import TrainLora, model_settings, refine, resolve
from sdtune.core import memory, model
from sdtune.core.autoencoder import encode_images
from sdtune.core.data.conditioning import Conditioning, stack
from sdtune.core.data.folder import read_folders
from sdtune.core.data.images import open_image
from sdtune.core.data.plan import plan_for
from sdtune.core.data.seen import Seen, manifest_of, see
from sdtune.core.data.views import show
from sdtune.core.draws import generator
from sdtune.core.everyday import PROMPTS
from sdtune.core.families import family_named
from sdtune.core.feeding import feed
from sdtune.core.lora import at_strength
from sdtune.core.making import add_lora, settled
from sdtune.core.reports import Step
from sdtune.core.training import Training, accelerator_for, images_a_step

ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no caption dropout": {"captions": {"dropout": 0.0}},
    "caption dropout 0.2": {"captions": {"dropout": 0.2}},
    "crop 0.1": {"augment": {"crop": 0.1}},
    "crop 0.1 and flip": {"augment": {"crop": 0.1, "flip": True}},
    "keep-base 0.3": {"keep_base": {"weight": 0.3}},
}
LEVELS, NOISES, TOGETHER = 20, 1, 20
TRAINED, HELD_OUT = Path("examples/fluent-3d"), Path("examples/fluent-3d-held-out")


def result(work: Iterator[Any]) -> Any:
    """What a generator of reports returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def settings(folder: Path, seed: int, steps: int, arm: dict[str, Any]) -> TrainLora:
    """mini's own settings with rank 8, as README's first command, and the arm's."""
    told = {"data": {"folder": folder}, "network": {"rank": 8}, "seed": seed, "samples": {"off": True}}
    config = resolve(TrainLora, [told | {"steps": steps, "cache": {"place": "memory"}}, arm])
    return refine(config, model_settings("mini"))


def seen_of(config: TrainLora) -> list[Seen]:
    """The images of the config's folder as mini sees them."""
    examples = result(read_folders(config))
    found: list[Seen] = result(see(examples, 128, 8, config.buckets, config.augment, config.task.kind, skip_bad=False))
    return found


def run(name: str, seed: int, steps: int, measured_at: list[int]) -> Iterator[dict[str, Any]]:
    """Train one arm with one seed, and measure it on the way."""
    config = settings(TRAINED, seed, steps, ARMS[name])
    device = memory.device_for(config.memory)
    identity = model.identify("mini")
    family = family_named(identity.family)
    pipe = model.load(identity, torch.float32)
    process = family.process(pipe)
    seen = seen_of(config)
    held_out = seen_of(settings(HELD_OUT, 0, steps, {}))
    clean = torch.cat(
        [encode_images(pipe.vae, [show(open_image(one.example.path), one.versions[0][0])])[0] for one in held_out]
    )
    with torch.no_grad():
        texts = family.encode_captions(pipe, [one.example.caption for one in held_out])
        everyday = family.encode_captions(pipe, list(PROMPTS[: len(held_out)]))
    stream = plan_for(
        [one.sizes for one in seen],
        [one.example.repeats for one in seen],
        [one.example.prior for one in seen],
        batch_size=images_a_step(config),
        seed=seed,
        manifest=manifest_of(seen),
    )
    config = settled(config, family, 128, steps, images_a_step(config))
    fed = result(feed(config, family, pipe, seen, stream, [], device))
    net = getattr(pipe, family.denoiser)
    add_lora(net, config, family)
    accelerator = accelerator_for(config, "no")
    began = time.monotonic()
    yield {"step": 0, **measured(family, process, net, clean, texts, everyday), "seconds": 0.0}
    training = Training(config, accelerator, family, process, net, fed.batches, fed.lessons)
    for step in training.steps(steps):
        if isinstance(step, Step) and step.number in measured_at:
            seconds = time.monotonic() - began
            yield {"step": step.number, **measured(family, process, net, clean, texts, everyday), "seconds": seconds}
            net.train()


def measured(
    family: Any, process: Any, net: Any, clean: torch.Tensor, texts: Conditioning, everyday: Conditioning
) -> dict[str, float]:
    """The held-out loss, and the drift under everyday prompts."""
    net.eval()
    places = [
        (image, level, noise) for image in range(len(clean)) for level in range(LEVELS) for noise in range(NOISES)
    ]
    errors, drifts = [], []
    for start in range(0, len(places), TOGETHER):
        chunk = places[start : start + TOGETHER]
        index = [image for image, _, _ in chunk]
        u = torch.tensor([(level + 0.5) / LEVELS for _, level, _ in chunk])
        noise = torch.stack([torch.randn(clean.shape[1:], generator=generator("held out", *one)) for one in chunk])
        noisy = process.add_noise(clean[index], noise, u)
        told = stack([{name: value[image] for name, value in texts.items()} for image in index])
        generic = stack([{name: value[image] for name, value in everyday.items()} for image in index])
        with torch.no_grad():
            said = family.denoise(net, noisy.latents, noisy.timesteps, told)
            errors.append(((said - noisy.target) ** 2).mean(dim=(1, 2, 3)))
            now = family.denoise(net, noisy.latents, noisy.timesteps, generic)
            with at_strength(net, 0.0):
                base = family.denoise(net, noisy.latents, noisy.timesteps, generic)
            drifts.append(((now - base) ** 2).mean(dim=(1, 2, 3)))
    return {"loss": float(torch.cat(errors).mean()), "drift": float(torch.cat(drifts).mean())}


def main() -> None:
    """Run what the results do not hold yet."""
    told = argparse.ArgumentParser(description=__doc__)
    told.add_argument("results", type=Path)
    told.add_argument("--steps", type=int, default=800)
    told.add_argument("--arms", default=",".join(ARMS))
    told.add_argument("--seeds", default="0,1,2")
    asked = told.parse_args()
    lines = asked.results.read_text().splitlines() if asked.results.exists() else []
    done = {(row["arm"], row["seed"], row["steps"]) for row in map(json.loads, lines)}
    measured_at = [asked.steps // 2, asked.steps]
    for seed in map(int, asked.seeds.split(",")):
        for name in asked.arms.split(","):
            if (name, seed, asked.steps) in done:
                continue
            rows = list(run(name, seed, asked.steps, measured_at))
            line = {"arm": name, "seed": seed, "steps": asked.steps, "measured": rows}
            with asked.results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(name, seed, [round(row["loss"], 4) for row in rows], flush=True)


if __name__ == "__main__":
    main()
