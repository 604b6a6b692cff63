"""A base model: from a name, a folder or a file to its family and a diffusers pipeline."""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdtune.core import hub
from sdtune.core.families import Family, families, family_named
from sdtune.core.header import refuse_pickle, what_is
from sdtune.core.home import expanded
from sdtune.core.identity import Identity
from sdtune.core.model_file import MINI, identify_file, load_file
from sdtune.core.model_folder import check_weights, family_of_folder, folder_of, is_for_inpainting, load_folder
from sdtune.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["MINI", "SHORT_NAMES", "Identity", "denoiser_config", "identify", "is_here", "load", "load_denoiser"]

SHORT_NAMES: dict[str, str] = {"mini": str(MINI)} | {
    name: place for family in families().values() for name, place in family.models.items()
}
"""what --model takes besides hub names, folders and files"""


def identify(model: str) -> Identity:
    """Which model a short name, hub name, folder or .safetensors file stands for.

    Takes milliseconds for what lies on this machine; of another model on the hub the configs are fetched.
    """
    if model in SHORT_NAMES and model != "mini":
        (family,) = (family for family in families().values() if model in family.models)
        return Identity(model, "hub", SHORT_NAMES[model], family.name)
    path = expanded(Path(SHORT_NAMES.get(model, model)))
    kind = what_is(path, ModelError)
    if kind == "folder":
        name = "mini" if model == "mini" else path.resolve().name
        family, inpainting = family_of_folder(path), is_for_inpainting(path)
        return Identity(name, "folder", str(path), family.name, inpainting=inpainting)
    if kind == "file":
        return identify_file(path)
    refuse_pickle(path, ModelError)
    if not _could_be_on_hub(model):
        raise ModelError(f"{_shown(model)}: no such folder or file{_nearest(model)}")
    if not hub.could_name(model):
        raise ModelError(
            f"{_shown(model)}: no such folder or file, and no name that the hub could have{_nearest(model)}"
        )
    folder = hub.cached(model) or hub.fetch(model, hub.CONFIGS, hub.INSTEAD)
    family, inpainting = family_of_folder(folder), is_for_inpainting(folder)
    return Identity(model, "hub", model, family.name, inpainting=inpainting)


def is_here(identity: Identity) -> bool:
    """Whether a model lies on this machine; where it does not, its configs are fetched, or its want is told at once."""
    if identity.source != "hub" or hub.cached(identity.location):
        return True
    hub.fetch(identity.location, hub.CONFIGS, hub.INSTEAD)
    return False


def load(
    identity: Identity,
    dtype: torch.dtype,
    device: str | torch.device | None = None,
    *,
    without: Collection[str] = (),
) -> Any:
    """The model's diffusers pipeline, frozen, in this precision; the VAE in float32, as SDXL's fails in float16.

    Of parts `without` which it is (the denoiser, vae, text encoders) no weights are read: they are None in it, but for
    a denoiser that has its config, and weights on the meta device, as diffusers looks at it to read captions.
    """
    family = family_named(identity.family)
    pipe = _pipeline(identity, family, dtype, without)
    for name, part in pipe.components.items():
        if hasattr(part, "requires_grad_"):
            part.eval().requires_grad_(False)
            if device is not None and name not in without:
                part.to(device)
    pipe.set_progress_bar_config(disable=True)
    _must_be_finite(identity, [part for part in (family.denoiser, *_others(family)) if part not in without], pipe)
    return pipe


def load_denoiser(identity: Identity, dtype: torch.dtype) -> nn.Module:
    """The model's denoiser alone, frozen, in this precision."""
    family = family_named(identity.family)
    net: nn.Module = getattr(load(identity, dtype, without=_others(family)), family.denoiser)
    return net


def denoiser_config(identity: Identity) -> Any:
    """The config that the denoiser will have (sample_size, in_channels ...); that its weights are there is checked."""
    import torch

    family = family_named(identity.family)
    pipe = _pipeline(identity, family, torch.float32, (family.denoiser, *_others(family)))
    if folder := folder_of(identity, family):
        check_weights(folder, family.denoiser)
    return getattr(pipe, family.denoiser).config


def _others(family: Family) -> tuple[str, ...]:
    """The parts with weights beside the denoiser."""
    return ("vae", *family.text_encoders)


def _pipeline(identity: Identity, family: Family, dtype: torch.dtype, without: Collection[str]) -> Any:
    _silence_libraries()
    folder = folder_of(identity, family)
    return load_folder(folder, family, dtype, without) if folder else load_file(identity, family, dtype, without)


def _must_be_finite(identity: Identity, parts: Sequence[str], pipe: Any) -> None:
    """Stop at weights that hold NaN or infinity; 0.4 ns a weight."""
    for name in parts:
        part = getattr(pipe, name)
        for key, weight in part.named_parameters() if part is not None else ():
            if weight.is_floating_point() and weight.numel() and not all(end.isfinite() for end in weight.aminmax()):
                raise ModelError(
                    f"{identity.location}: weights of its {name} are no numbers ({key}); download it again"
                )


def _could_be_on_hub(model: str) -> bool:
    owner, _, name = model.partition("@")[0].partition("/")
    is_path = model.startswith((".", "/", "~")) or "\\" in model or Path(model).suffix == ".safetensors"
    return bool(owner and name) and "/" not in name and not is_path and what_is(Path(owner), ModelError) != "folder"


def _shown(model: str) -> str:
    """A name as a message can show it: of one line, and not too long for it."""
    name = model if model.isprintable() else ascii(model)
    return name if len(name) <= 200 else f"{name[:200]}..."


def _nearest(model: str) -> str:
    near = difflib.get_close_matches(model[:100].lower(), SHORT_NAMES, 1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; give a folder, a .safetensors file, owner/model on the hub, or one of {', '.join(SHORT_NAMES)}"


def _silence_libraries() -> None:
    """Their bars and warnings are for makers; what the user can do something about is told by sdtune itself."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "The configuration file of the unet", FutureWarning)  # of 2022, and mended
    for library in ("transformers", "diffusers"):
        log = import_module(f"{library}.utils.logging")
        log.set_verbosity_error()
        log.disable_progress_bar()
