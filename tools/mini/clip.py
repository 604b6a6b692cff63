"""Two towers that put a picture and its caption in the same place (Radford et al. 2021, arXiv:2103.00020)."""

import math
import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from tools.mini import parallel
from tools.mini.captions import caption
from tools.mini.emoji import EmojiSet
from tools.mini.muon import Muon
from tools.mini.stage import Pace, Stage

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
LARGEST_SCALE = math.log(100)


def build(words: CLIPTokenizer, width: int = 192, layers: int = 3) -> CLIPModel:
    """CLIP, small; its text tower becomes the denoiser's text encoder."""
    heads = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 32}
    marks = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    text = {"vocab_size": len(words), "max_position_embeddings": 77, "num_hidden_layers": layers, **heads, **marks}
    image = {"image_size": 128, "patch_size": 16, "num_hidden_layers": layers, **heads}
    config = CLIPConfig(text_config=text, vision_config=image, projection_dim=width)
    return CLIPModel._from_config(config, attn_implementation="eager")  # twice as fast backwards on a CPU


def pixel_values(pixels: Tensor) -> Tensor:
    """uint8 or [0, 255] pictures as the image tower takes them."""
    mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


def token_ids(words: CLIPTokenizer, captions: list[str]) -> Tensor:
    """[B, longest]: what follows the end mark is not seen by it, so short batches need no 77 tokens."""
    ids: Tensor = words(captions, padding="longest", truncation=True, return_tensors="pt").input_ids
    return ids


def augmented(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Moved, scaled, tinted and softly shaded; never mirrored, for left is not right in words."""
    n = len(pixels)
    x = pixels.float()
    scale = 1 + 0.25 * (torch.rand(n, 1, 1, generator=rng) - 0.3)
    shift = 0.2 * (torch.rand(n, 2, 1, generator=rng) - 0.5)
    theta = torch.cat([torch.eye(2).expand(n, 2, 2) * scale, shift], dim=2)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    x = 255 - functional.grid_sample(255 - x, grid, align_corners=False)
    corners = torch.rand(n, 1, 3, 3, generator=rng)
    light = functional.interpolate(corners, x.shape[2:], mode="bilinear", align_corners=True)
    tint = 1 + 0.15 * (torch.rand(n, 3, 1, 1, generator=rng) - 0.5)
    return (x * (1.1 - 0.3 * light) * tint).clamp(0, 255)


def agreement(model: CLIPModel, pixels: Tensor, ids: Tensor) -> Tensor:
    """[B, B] how well each picture (row) and each caption (column) go together."""
    image = functional.normalize(model.get_image_features(pixels).pooler_output, dim=-1)
    text = functional.normalize(model.get_text_features(ids).pooler_output, dim=-1)
    scores: Tensor = image @ text.T * model.logit_scale.clamp(max=LARGEST_SCALE).exp()
    return scores


@torch.no_grad()
def retrieval(model: CLIPModel, words: CLIPTokenizer, data: EmojiSet, rows: Tensor) -> float:
    """Share of labels whose nearest picture among these is their own."""
    ids = token_ids(words, [data.emoji[i].label for i in rows.tolist()])
    scores = agreement(model, pixel_values(data.pixels[rows]).to(model.device), ids.to(model.device))
    return (scores.argmax(dim=0).cpu() == torch.arange(len(rows))).float().mean().item()


def train(folder: Path, data: EmojiSet, pace: Pace, words: CLIPTokenizer, model: CLIPModel) -> None:
    """Teach both towers, resumed where they stopped."""
    seen, unseen = data.rows(held_out=False), data.rows(held_out=True)
    device = parallel.device()
    model.to(device).train()
    stage = Stage(folder / "clip.pt", model, Muon(model.named_parameters(), weight_decay=0.1), pace, averaging=0.999)
    while not stage.done:
        rng, pick = torch.Generator().manual_seed(stage.step), random.Random(stage.step)
        rows = seen[torch.randperm(len(seen), generator=rng)[: pace.batch]]
        ids = token_ids(words, [caption(data.emoji[i], pick) for i in rows.tolist()]).to(device)
        x = pixel_values(augmented(data.pixels[rows], rng)).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = agreement(model, x, ids).float()
        own = torch.arange(len(rows), device=device)
        stage.learn((functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2)
        if stage.due(20):
            stage.tell()
        if stage.due(100):
            stage.save()
            with stage.averaged():
                few = {"seen": seen[:200], "unseen": unseen}
                stage.tell(**{name: retrieval(model, words, data, rows) for name, rows in few.items()})
