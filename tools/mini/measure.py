"""What the shipped model can do, in figures that its card quotes, and pictures to look at."""

import json
import statistics
import time
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from sdtune.choices.samplers import DPMpp2M
from tools.mini import vae
from tools.mini.clip import pixel_values
from tools.mini.emoji import EmojiSet
from tools.mini.export import IMAGE_TOWER
from tools.mini.lite0 import Features

STEPS, GUIDANCE, SEED = 20, 4.0, 0
PROMPTS = (
    *("a red apple", "a cat", "a green frog", "a pizza", "a blue car", "a rocket", "a smiling face", "a red heart"),
    *("a tree", "a house", "a guitar", "a fish", "a slice of cake", "a dog", "an umbrella", "a yellow star"),
)


def measure(model: Path, data: EmojiSet, work: Path, captions: int = 100) -> dict[str, float]:
    """Every figure on the card; pictures go to `work`."""
    pipe = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    pipe.scheduler = DPMpp2M().build(pipe.scheduler)  # as `sdtune sample` draws where nothing else is said
    pipe.to("cuda" if torch.cuda.is_available() else "cpu").set_progress_bar_config(disable=True)
    sheet(draw(pipe, list(PROMPTS))).save(work / "prompts.png")
    figures = speed(pipe) | reconstruction(pipe, data) | retrieval(pipe, model, data)
    figures |= generation(pipe, model, data, work, captions)
    figures["parameters"] = sum(p.numel() for m in (pipe.vae, pipe.text_encoder, pipe.unet) for p in m.parameters())
    figures["bytes"] = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
    (work / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def draw(pipe: StableDiffusionPipeline, prompts: list[str], batch: int = 25, steps: int = STEPS) -> Tensor:
    """[N, 3, h, w] in [0, 255], each prompt from noise of its own that depends on its place alone."""
    drawn = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        rngs = [torch.Generator().manual_seed(SEED + start + i) for i in range(len(part))]
        images = pipe(part, num_inference_steps=steps, guidance_scale=GUIDANCE, generator=rngs, output_type="pt").images
        drawn.append(images.cpu() * 255)
    return torch.cat(drawn)


def reconstruction(pipe: StableDiffusionPipeline, data: EmojiSet) -> dict[str, float]:
    """Decibels of pictures that the autoencoder never saw, and of some that it did."""
    decibels = {name: vae.psnr(pipe.vae, data.pixels[rows]) for name, rows in _splits(data, 200).items()}
    return {f"psnr_{name}": round(values.mean().item(), 2) for name, values in decibels.items()}


@torch.no_grad()
def retrieval(pipe: StableDiffusionPipeline, model: Path, data: EmojiSet) -> dict[str, float]:
    """Share of labels whose nearest picture is their own, among pictures the two towers saw and among others."""
    projection = (
        load_file(model / IMAGE_TOWER / "text_projection.safetensors")["text_projection.weight"].float().to(pipe.device)
    )
    figures: dict[str, float] = {}
    for name, rows in _splits(data, 200).items():
        labels = [data.emoji[i].label for i in rows.tolist()]
        ids = pipe.tokenizer(labels, padding="max_length", truncation=True, return_tensors="pt").input_ids
        text = functional.normalize(pipe.text_encoder(ids.to(pipe.device)).pooler_output @ projection.T, dim=1).cpu()
        found = (image_features(model, data.pixels[rows]) @ text.T).argmax(dim=0)
        share = (found == torch.arange(len(rows))).float().mean().item()
        figures |= {f"retrieval_{name}": round(share, 3), f"retrieval_{name}_among": len(rows)}
    return figures


@torch.no_grad()
def image_features(model: Path, pixels: Tensor) -> Tensor:
    """[N, C] unit vectors of the model's own image tower."""
    tower = CLIPVisionModelWithProjection.from_pretrained(model / IMAGE_TOWER, dtype=torch.float32)
    return torch.cat([functional.normalize(tower(pixel_values(x)).image_embeds, dim=1) for x in pixels.split(64)])


def generation(
    pipe: StableDiffusionPipeline, model: Path, data: EmojiSet, work: Path, captions: int
) -> dict[str, float]:
    """Whether what a label draws is nearest to its own emoji of all, as two judges see it."""
    rows = torch.randperm(len(data.emoji), generator=torch.Generator().manual_seed(SEED))[:captions]
    drawn = draw(pipe, [data.emoji[i].label for i in rows.tolist()])
    side_by_side = torch.stack([data.pixels[rows].float(), drawn], dim=1).flatten(0, 1)
    sheet(side_by_side[:128], 16).save(work / "labels.png")
    judge = Features()
    known = work / "lite0.safetensors"
    if not known.exists():
        save_file({"features": judge(data.pixels)}, known)
    figures = _ranked("lite0", judge(drawn), load_file(known)["features"], rows)
    figures |= _ranked("own", image_features(model, drawn), image_features(model, data.pixels), rows)
    return figures | {"captions": captions, "steps": STEPS, "guidance": GUIDANCE}


def _ranked(judge: str, drawn: Tensor, known: Tensor, rows: Tensor) -> dict[str, float]:
    order = (drawn @ known.T).argsort(dim=1, descending=True)
    place = (order == rows[:, None]).float().argmax(dim=1)
    return {f"{judge}_top{n}": round((place < n).float().mean().item(), 3) for n in (1, 5)}


def speed(pipe: StableDiffusionPipeline, times: int = 5) -> dict[str, float]:
    """Seconds to draw one picture, the median of several."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        draw(pipe, ["a red apple"])
        seconds.append(time.perf_counter() - start)
    return {"seconds_a_picture": round(statistics.median(seconds), 2), "threads": torch.get_num_threads()}


def sheet(pixels: Tensor, columns: int = 8) -> Image.Image:
    """Pictures in rows on one."""
    n, _, h, w = pixels.shape
    rows = -(-n // columns)
    padded = torch.cat([pixels, pixels.new_full((rows * columns - n, 3, h, w), 255.0)])
    grid = padded.view(rows, columns, 3, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, 3)
    return Image.fromarray(grid.round().clamp(0, 255).byte().numpy())


def _splits(data: EmojiSet, most: int) -> dict[str, Tensor]:
    """Pictures that every stage saw, and pictures that autoencoder and towers never saw, evenly out of the set."""
    rows = {"seen": data.rows(held_out=False), "held_out": data.rows(held_out=True)}
    return {name: r[torch.linspace(0, len(r) - 1, min(most, len(r))).long()] for name, r in rows.items()}
