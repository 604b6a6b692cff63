"""A whole Stable Diffusion 1.5 of random numbers on disk, and what sd.cpp makes of it with a LoRA."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sdtune.core import lora_file, original
from sdtune.core import lora_names as names
from sdtune.core.families import family_named
from tools.interop import sdcpp
from tools.interop.outcome import STRENGTH
from tools.interop.released import Released
from tools.interop.subject import Trained


def base(folder: Path, tokenizer: Path) -> Path:
    """The model as a folder, in half precision: 2 GB."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    usual = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(torch.float16)
        parts = Released("sd1").parts("cpu")
    finally:
        torch.set_default_dtype(usual)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    pipe = StableDiffusionPipeline(
        **parts,
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def as_file(folder: Path, path: Path) -> Path:
    """The same as one file in the original layout."""
    weights = {}
    for part in ("unet", "vae", "text_encoder"):
        for key, value in load_file(next((folder / part).glob("*.safetensors"))).items():
            module, _, kind = f"{part}.{key}".rpartition(".")
            weights[f"{names.from_dotted(module) or module}.{kind}"] = value
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    pieces = original.pieces(family_named("sd1"), shapes)
    save_file({one.key: original.joined(one, weights.__getitem__).contiguous() for one in pieces}, path)
    return path


def through_sdcpp(folder: Path, python: Path, tokenizer: Path) -> dict[str, object]:
    """What sd.cpp takes of a LoRA, and how far apart it draws with that beside the base and merged into it."""
    single = as_file(base(folder / "base", tokenizer), folder / "base.safetensors")
    lora = folder / "lora.safetensors"
    lora_file.write(lora, Trained("sd1", Released("sd1").parts()).lora)
    merged = folder / "merged.safetensors"
    sdtune("merge", single, f"{lora}:{STRENGTH}", "--out", merged)
    plain = sdcpp.drawn(python, single, folder / "base.png")
    beside = sdcpp.drawn(python, single, folder / "beside.png", lora, STRENGTH)
    inside = sdcpp.drawn(python, merged, folder / "merged.png")
    return {
        "LoRA tensors applied": beside.applied,
        "base and base with LoRA, mean of 255": float(np.abs(plain.picture - beside.picture).mean()),
        "base with LoRA and merged, mean of 255": float(np.abs(beside.picture - inside.picture).mean()),
        "told": sorted({*beside.told, *inside.told}),
    }


def sdtune(*words: str | Path) -> None:
    """One of its commands, as people give it."""
    subprocess.run([sys.executable, "-m", "sdtune", *map(str, words)], check=True)
