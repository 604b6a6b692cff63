"""How far a merged model is from its base with the LoRAs beside it: in each layer, and in the denoiser's prediction."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from sdtune.core import model
from sdtune.core.applied import Applied
from sdtune.core.families import Family, family_named
from sdtune.core.identity import Identity
from sdtune.core.lora import Lora, load_all
from sdtune.core.model_file import identify_file
from sdtune.core.weights import open_weights

ROWS = 8
"""random inputs to a layer"""
SIDE = 16
"""of the latents that a denoiser is shown"""
TIMESTEP = 500.0
CAPTION = "a photo of a cat"


def layer_difference(base: Tensor, updates: Sequence[tuple[float, Tensor]], merged: Tensor) -> float:
    """Of a layer's answers to random inputs: by the merged weight, and by the base's with its updates beside it.

    All flat, [out, in]; the largest difference by the largest answer.
    """
    x = torch.randn(ROWS, base.shape[1], generator=Generator().manual_seed(0))
    exact = x @ base.T
    for strength, update in updates:
        exact += strength * (x @ update.T)
    return relative(x @ merged.float().T, exact)


def relative(found: Tensor, exact: Tensor) -> float:
    """The largest difference by the largest answer."""
    largest = float(exact.abs().max())
    apart = float((found - exact).abs().max())
    return apart / largest if largest else apart


def prediction_difference(identity: Identity, applied: Sequence[Applied], out: Path, device: torch.device) -> float:
    """Of the denoiser's predictions for one noisy latent and caption, both in float32."""
    family = family_named(identity.family)
    applied = [replace(one, lora=_acting(one)) for one in applied]
    pipe = _base(identity, family, applied)
    load_all(pipe, applied)
    exact = _prediction(pipe, family, device)
    del pipe
    gc.collect()
    return relative(_prediction(_merged(identity, family, applied, out), family, device), exact)


def _acting(one: Applied) -> Lora:
    """The LoRA without what is not merged, as its strength there is zero."""
    modules = {name: adapter for name, adapter in one.lora.modules.items() if one.strength(name)}
    biases = {name: values for name, values in one.lora.biases.items() if one.strength(name)}
    return replace(one.lora, modules=modules, biases=biases)


def _base(identity: Identity, family: Family, applied: Sequence[Applied]) -> Any:
    """In float32, without the parts that say nothing here: the VAE, and a third text encoder that is not changed."""
    changed = {name.partition(".")[0] for one in applied for name in (*one.lora.modules, *one.lora.biases)}
    unread = [part for part in family.text_encoders if part not in family.clips and part not in changed]
    return model.load(identity, torch.float32, without=("vae", *unread))


def _merged(identity: Identity, family: Family, applied: Sequence[Applied], out: Path) -> Any:
    """The merged model, likewise; a single file's weights in the base's place, since configs may not lie beside it."""
    if out.is_dir():
        return _base(Identity(out.name, "folder", str(out), family.name), family, applied)
    pipe = _base(identity, family, applied)
    weights = open_weights(identify_file(out))
    for part in (family.denoiser, *family.text_encoders):
        net = getattr(pipe, part)
        for name, weight in net.named_parameters() if isinstance(net, nn.Module) else ():
            key = next((key for key in (f"{part}.{name}", f"{part}.text_model.{name}") if key in weights.shapes), None)
            assert key, f"{out} lacks {part}.{name}"
            weight.data.copy_(weights.read(key))
    return pipe


@torch.no_grad()
def _prediction(pipe: Any, family: Family, device: torch.device) -> Tensor:
    """[1, C, h, w]"""
    for part in (family.denoiser, *family.text_encoders):
        if getattr(pipe, part) is not None:
            getattr(pipe, part).to(device)
    net = getattr(pipe, family.denoiser)
    channels = net.config.out_channels
    draws = Generator().manual_seed(0)
    noisy = torch.randn(1, channels, SIDE, SIDE, generator=draws)
    square = (family.resolution, family.resolution)
    sizes = family.condition_on_size(square, (0, 0), square)
    told = family.encode_captions(pipe, [CAPTION]) | {name: value[None] for name, value in sizes.items()}
    if net.config.in_channels > channels:
        told["inpainting"] = torch.randn(1, net.config.in_channels - channels, SIDE, SIDE, generator=draws)
    told = {name: value.to(device) for name, value in told.items()}
    return family.denoise(net, noisy.to(device), torch.tensor([TIMESTEP], device=device), told).cpu()
