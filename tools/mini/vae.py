"""The autoencoder: 128 px pictures as 16 x 16 latents of four channels, and back."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from tools.mini import parallel
from tools.mini.emoji import EmojiSet
from tools.mini.muon import Muon
from tools.mini.stage import Pace, Stage


def build(widths: tuple[int, ...] = (32, 64, 128, 128)) -> AutoencoderKL:
    """Stable Diffusion's autoencoder, small."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=128,
        scaling_factor=1.0,
    )
    vae.quant_conv.bias.data[4:] = -6.0  # log variance: hardly any noise, so that the decoder has something to go by
    return vae


def train(folder: Path, data: EmojiSet, pace: Pace, crop: int, vae: AutoencoderKL) -> None:
    """Teach encoder and decoder on crops, resumed where they stopped."""
    _train(folder / "vae.pt", data, pace, crop, vae)


def train_decoder(folder: Path, data: EmojiSet, pace: Pace, crop: int, vae: AutoencoderKL) -> None:
    """Teach the decoder alone: the latents stay as they are, so the denoiser can learn from them meanwhile."""
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    _train(folder / "decoder.pt", data, pace, crop, vae)


def _train(path: Path, data: EmojiSet, pace: Pace, crop: int, vae: AutoencoderKL) -> None:
    seen, unseen = (data.pixels[data.rows(held_out=held_out)] for held_out in (False, True))
    device = parallel.device()
    vae.to(device).train()
    stage = Stage(path, vae, Muon(vae.named_parameters()), pace, averaging=0.999)
    rank, ranks = parallel.place()
    while not stage.done:
        rng = torch.Generator().manual_seed(stage.step * ranks + rank)
        x = crops(seen, pace.batch // ranks, crop, rng).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample
        stage.learn(difference(y.float(), x) + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel())
        if stage.due(50):
            stage.tell()
        if stage.due(200):
            stage.save()
            with stage.averaged():
                stage.tell(psnr=psnr(vae, unseen[:24]).mean().item())


def crops(pixels: Tensor, batch: int, size: int, rng: torch.Generator) -> Tensor:
    """[batch, 3, size, size] in [-1, 1] out of pictures, those with more to see preferred, in changed colours."""
    n, _, height, width = pixels.shape
    rows = torch.randint(n, (2 * batch,), generator=rng).tolist()
    tops = torch.randint(height - size + 1, (2 * batch,), generator=rng).tolist()
    lefts = torch.randint(width - size + 1, (2 * batch,), generator=rng).tolist()
    places = zip(rows, tops, lefts, strict=True)
    cut = torch.stack([pixels[r, :, top : top + size, left : left + size] for r, top, left in places]).float()
    seen = cut[cut.std(dim=(1, 2, 3)).argsort(descending=True)[:batch]] / 127.5 - 1
    return torch.stack([_changed(x, rng) for x in seen])


def _changed(x: Tensor, rng: torch.Generator) -> Tensor:
    """Flipped, its colours swapped or shaded softly, so that other styles decode as well."""
    flip, turn, swap, shade = torch.rand(4, generator=rng).tolist()
    x = x.flip(2) if flip < 0.5 else x
    x = x.transpose(1, 2) if turn < 0.25 else x
    x = x[torch.randperm(3, generator=rng)] if swap < 0.3 else x
    if shade < 0.3:
        light = torch.rand(1, 3, 3, 3, generator=rng) * 0.8 + 0.4
        light = functional.interpolate(light, x.shape[1:], mode="bilinear", align_corners=True)[0]
        x = ((x + 1) * light - 1).clamp(-1, 1)
    return x


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Absolute and squared error of colours, and half the absolute error of their slopes."""
    d = a - b
    slopes = d.diff(dim=2).abs().mean() + d.diff(dim=3).abs().mean()
    return d.abs().mean() + 2 * d.square().mean() + 0.5 * slopes


@torch.no_grad()
def normalised(vae: AutoencoderKL, pixels: Tensor) -> AutoencoderKL:
    """The same autoencoder with latents of mean 0 and deviation 1 a channel, folded into its 1 x 1 convolutions."""
    latents = torch.cat([vae.encode(_in_range(x, vae)).latent_dist.mean for x in pixels.split(32)])
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    inward, outward = vae.quant_conv, vae.post_quant_conv
    outward.bias += outward.weight[:, :, 0, 0] @ mean
    outward.weight *= std.view(1, -1, 1, 1)
    inward.weight[:4] /= std.view(-1, 1, 1, 1)
    inward.bias[:4] = (inward.bias[:4] - mean) / std
    inward.bias[4:] -= 2 * std.log()  # what follows is the logarithm of the variance
    return vae


@torch.no_grad()
def psnr(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Decibels of each picture's reconstruction, [N]."""
    decibels = []
    for part in pixels.split(16):
        x = _in_range(part, vae)
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        decibels.append(10 * torch.log10(4 / (x - y).square().mean(dim=(1, 2, 3))).cpu())
    return torch.cat(decibels)


def _in_range(pixels: Tensor, vae: AutoencoderKL) -> Tensor:
    return pixels.to(vae.device).float() / 127.5 - 1
