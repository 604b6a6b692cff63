"""Pictures as latents and captions as embeddings, computed once for the denoiser."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from sdtune.core.data.batches import Batch
from sdtune.core.draws import Draws, generator
from tools.mini.captions import captions
from tools.mini.emoji import Emoji


@dataclass(frozen=True)
class EncodedSet:
    """Every emoji as the denoiser sees it."""

    mean: Tensor  # [N, 4, h, w]
    std: Tensor  # [N, 4, h, w]
    text: Tensor  # [N, captions, 77, C] half precision
    empty: Tensor  # [77, C] the caption of nothing, for guidance

    def batch(self, draws: Draws, dropout: float) -> Batch:
        """Each image once an epoch, latents drawn anew, one of its captions, `dropout` of them empty."""
        rows = torch.tensor([self._row(draws.seed, int(number)) for number in draws.numbers()])
        latents = self.mean[rows] + self.std[rows] * draws.normal("vae", tuple(self.mean.shape[1:]))
        text = self.text[rows, (draws.uniform("caption") * self.text.shape[1]).long()].float()
        text[draws.uniform("caption dropout") < dropout] = self.empty.float()
        return Batch(latents, {"encoder_hidden_states": text}, torch.ones(len(rows)))

    def _row(self, seed: int, number: int) -> int:
        epoch, place = divmod(number, len(self.mean))
        return int(_order(seed, epoch, len(self.mean))[place])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> Tensor:
    return torch.randperm(images, generator=generator(seed, "order", epoch))


@torch.no_grad()
def latents(path: Path, pixels: Tensor, vae: AutoencoderKL) -> dict[str, Tensor]:
    """Mean and deviation of every picture's latents, kept in `path`."""
    if not path.exists():
        with torch.autocast(vae.device.type, torch.bfloat16):
            posteriors = [vae.encode(x.to(vae.device).float() / 127.5 - 1).latent_dist for x in pixels.split(32)]
        parts = {part: torch.cat([getattr(p, part).float() for p in posteriors]) for part in ("mean", "std")}
        save_file({name: tensor.cpu().contiguous() for name, tensor in parts.items()}, path)
    stored: dict[str, Tensor] = load_file(path)
    return stored


@torch.no_grad()
def texts(
    path: Path, emoji: list[Emoji], clip: CLIPModel, words: CLIPTokenizer, variants: int = 8
) -> dict[str, Tensor]:
    """Every emoji's captions as embeddings, and those of the empty caption, kept in `path`."""
    if not path.exists():
        with torch.autocast(clip.device.type, torch.bfloat16):
            said = [embed(clip, words, captions(e, variants)).half().cpu() for e in emoji]
            empty = embed(clip, words, [""])[0].half().cpu()
        save_file({"text": torch.stack(said), "empty": empty.contiguous()}, path)
    stored: dict[str, Tensor] = load_file(path)
    return stored


def embed(clip: CLIPModel, words: CLIPTokenizer, said: list[str]) -> Tensor:
    """[B, 77, C] as the denoiser's cross-attention reads them."""
    ids = words(said, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    states: Tensor = clip.text_model(ids.to(clip.device)).last_hidden_state
    return states
