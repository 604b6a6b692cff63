"""The recipe: from npm's drawings and words to a model folder, each stage resumed where it stopped."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from tools.mini import clip, emoji, encode, export, measure, parallel, tokenizer, unet, vae
from tools.mini.stage import Pace

VAE = Pace(steps=1200, batch=16, rate=2e-3, decay=0.1)
DECODER = Pace(steps=4500, batch=4, rate=1.5e-3)
CLIP = Pace(steps=760, batch=128, rate=1e-3, decay=0.5)
UNET = Pace(steps=2500, batch=128, rate=2e-3, decay=0.35)


@dataclass(frozen=True)
class Plan:
    """How large, and how long each stage trains: as the shipped model was made."""

    pictures: int | None = None  # all
    tokens: int = 2048
    vae_widths: tuple[int, ...] = (32, 64, 128, 128)
    clip_width: int = 192
    clip_layers: int = 3
    unet_widths: tuple[int, ...] = (64, 160, 192)
    vae: Pace = VAE
    decoder: Pace = DECODER
    clip: Pace = CLIP
    unet: Pace = UNET
    crop: int = 64  # pixels, for the encoder; the decoder ends on whole pictures
    drawn: int = 100  # captions to draw when measuring

    def within(self, minutes: float) -> "Plan":
        """The same by the clock, most of it for the denoiser; with larger batches where there is a card."""
        wider = 4 if torch.cuda.is_available() else 1
        shares = {"vae": 0.2, "decoder": 0.1, "clip": 0.1, "unet": 0.6}
        paces = {name: getattr(self, name) for name in shares}
        return replace(
            self,
            **{
                name: replace(pace, steps=10**6, batch=wider * pace.batch, seconds=60 * minutes * shares[name])
                for name, pace in paces.items()
            },
        )


SMOKE = Plan(
    pictures=48,
    tokens=600,
    vae_widths=(16, 16, 16, 16),
    clip_width=64,
    clip_layers=1,
    unet_widths=(32, 32, 32),
    vae=Pace(steps=3, batch=4, rate=1e-3),
    decoder=Pace(steps=3, batch=2, rate=1e-3),
    clip=Pace(steps=3, batch=16, rate=1e-3),
    unet=Pace(steps=4, batch=8, rate=1e-3),
    crop=32,
    drawn=4,
)


def run(plan: Plan, work: Path, model: Path, shipped: Path | None = None) -> dict[str, float]:
    """Every stage in order, and the figures of the model; given a shipped model, only its denoiser learns on."""
    data = emoji.load(work, limit=plan.pictures)
    further = work / "go-on" if shipped else work
    further.mkdir(exist_ok=True)
    if shipped:
        words, towers, autoencoder = _shipped(shipped)
    else:
        words = tokenizer.train(data.emoji, plan.tokens, work / "tokenizer")
        autoencoder = _autoencoder(plan, work, data)
        towers = clip.build(words, plan.clip_width, plan.clip_layers)
        clip.train(work, data, plan.clip, words, towers)
        _settle(towers, work / "clip.pt")
    encode.latents(further / "latents.safetensors", data.pixels, autoencoder)
    encode.texts(further / "text.safetensors", data.emoji, towers, words)
    parallel.spread(_unet, plan, further, shipped)
    denoiser = _settle(_denoiser(plan, shipped), further / "unet.pt")
    export.export(model, autoencoder, towers, words, denoiser)
    return measure.measure(model, data, work, plan.drawn)


def _autoencoder(plan: Plan, work: Path, data: emoji.EmojiSet) -> AutoencoderKL:
    frozen = work / "frozen.safetensors"
    autoencoder = vae.build(plan.vae_widths)
    if not frozen.exists():
        parallel.spread(_vae, plan, work)
        _settle(autoencoder, work / "vae.pt").to(parallel.device())
        vae.normalised(autoencoder, data.pixels[data.rows(held_out=False)][::8])
        save_file({name: value.cpu().contiguous() for name, value in autoencoder.state_dict().items()}, frozen)
    parallel.spread(_decoder, plan, work)
    return _settle(autoencoder, work / "decoder.pt").to(parallel.device())


def _vae(plan: Plan, work: Path) -> None:
    torch.manual_seed(0)
    vae.train(work, emoji.load(work), plan.vae, plan.crop, vae.build(plan.vae_widths))


def _decoder(plan: Plan, work: Path) -> None:
    torch.manual_seed(0)
    autoencoder = vae.build(plan.vae_widths)
    autoencoder.load_state_dict(load_file(work / "frozen.safetensors"))
    vae.train_decoder(work, emoji.load(work), plan.decoder, 2 * plan.crop, autoencoder)


def _unet(plan: Plan, work: Path, shipped: Path | None) -> None:
    torch.manual_seed(0)
    data = encode.EncodedSet(**load_file(work / "latents.safetensors"), **load_file(work / "text.safetensors"))
    unet.train(work, data, plan.unet, _denoiser(plan, shipped))


def _denoiser(plan: Plan, shipped: Path | None) -> UNet2DConditionModel:
    if shipped:
        return unet.prepared(UNet2DConditionModel.from_pretrained(shipped / "unet", dtype=torch.float32))
    return unet.build(plan.unet_widths, plan.clip_width)


def _shipped(folder: Path) -> tuple[CLIPTokenizer, CLIPModel, AutoencoderKL]:
    """What is kept of a shipped model when its denoiser learns on."""
    words = tokenizer.load(folder / "tokenizer")
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    image = CLIPVisionModelWithProjection.from_pretrained(folder / export.IMAGE_TOWER, dtype=torch.float32)
    towers = clip.build(words, text.config.hidden_size, text.config.num_hidden_layers)
    towers.text_model.load_state_dict(text.state_dict())
    towers.vision_model.load_state_dict(image.vision_model.state_dict())
    towers.visual_projection.load_state_dict(image.visual_projection.state_dict())
    towers.load_state_dict(load_file(folder / export.IMAGE_TOWER / "text_projection.safetensors"), strict=False)
    autoencoder = AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32)
    return words, towers.to(parallel.device()).eval(), autoencoder.to(parallel.device()).eval()


def _settle(module: torch.nn.Module, checkpoint: Path) -> torch.nn.Module:
    """A module with the averaged weights of its finished stage."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["average"])
    return module.eval()
