"""The denoiser: noise in latents told from what a caption says they should be."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from sdtune.config import TrainLora
from sdtune.core.diffusion import Process
from sdtune.core.draws import Draws
from sdtune.core.families.sd1 import SD1
from sdtune.core.step_losses import image_losses
from sdtune.tables import Captions, Data
from tools.mini import parallel
from tools.mini.encode import EncodedSet
from tools.mini.muon import Muon
from tools.mini.stage import Pace, Stage


def build(widths: tuple[int, ...] = (64, 160, 192), text_width: int = 192) -> UNet2DConditionModel:
    """Attention from 8 x 8 down: at 16 x 16 it would cost a third of the time."""
    deep = len(widths) - 1
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * deep,
        up_block_types=("CrossAttnUpBlock2D",) * deep + ("UpBlock2D",),
        block_out_channels=widths,
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=tuple(width // 32 for width in widths),  # the number of heads, in spite of its name
    )
    return prepared(unet)


def prepared(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Ready to train: without a card, plain attention, whose backward pass is far faster there than the fused one."""
    if not torch.cuda.is_available():
        unet.set_attn_processor(AttnProcessor())
    return unet


def scheduler() -> DDIMScheduler:
    """The noise of Stable Diffusion 1."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def train(folder: Path, data: EncodedSet, pace: Pace, unet: UNet2DConditionModel) -> None:
    """Teach the denoiser, resumed where it stopped; the processes share each batch."""
    device = parallel.device()
    unet.to(device).train()
    stage = Stage(folder / "unet.pt", unet, Muon(unet.named_parameters()), pace, averaging=0.998)
    config = TrainLora(data=Data(folder=folder), captions=Captions(dropout=0.1))  # its loss, weighting and noise
    family, process = SD1(), Process.from_scheduler(scheduler())
    rank, ranks = parallel.place()
    share = pace.batch // ranks
    while not stage.done:
        draws = Draws(config.seed, stage.step, range(rank * share, (rank + 1) * share), pace.batch)
        batch = data.batch(draws, config.captions.dropout).to(device, torch.float32)
        with torch.autocast(device.type, torch.bfloat16):
            loss = image_losses(config, family, process, unet, batch, draws).mean()
        stage.learn(loss)
        if stage.due(10):
            stage.tell()
        if stage.due(50):
            stage.save()
