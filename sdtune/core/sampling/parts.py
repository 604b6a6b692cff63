"""A model part by part, as pictures are drawn: what reads prompts first, and then what draws.

Of a model that is small, all is loaded at once, which takes less time than twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdtune.core import model
from sdtune.core.data.conditioning import let_go
from sdtune.core.families import family_named
from sdtune.core.identity import Identity
from sdtune.core.model_file import configs_of_file
from sdtune.core.model_folder import empty_part, folder_of, weight_files

if TYPE_CHECKING:
    import torch

SMALL = 10**9
"""bytes of weights that are loaded at once"""


def reader(identity: Identity, dtype: torch.dtype) -> Any:
    """The model's pipeline with its text encoders, tokenizers and scheduler, frozen, in this precision.

    The denoiser and the VAE have their configs, and no weights: those are on the meta device, but for a small model's.
    """
    if _bytes(identity) <= SMALL:
        return model.load(identity, dtype)
    family = family_named(identity.family)
    pipe = model.load(identity, dtype, without=(family.denoiser, "vae"))
    pipe.vae = empty_part(folder_of(identity, family) or configs_of_file(identity, family), "vae")
    return pipe


def drawer(pipe: Any, identity: Identity, dtype: torch.dtype) -> Any:
    """The pipeline of `reader` with its denoiser and its VAE, frozen, the VAE in float32; the text encoders are gone.

    Tokenizers stay.
    """
    family = family_named(identity.family)
    let_go(family, pipe)
    if any(weight.is_meta for weight in getattr(pipe, family.denoiser).parameters()):
        tokenizers = [part.replace("text_encoder", "tokenizer") for part in family.text_encoders]
        loaded = model.load(identity, dtype, without=(*family.text_encoders, *tokenizers))
        setattr(pipe, family.denoiser, getattr(loaded, family.denoiser))
        pipe.vae = loaded.vae
    return pipe


def _bytes(identity: Identity) -> int:
    """Of its weights on the disk."""
    family = family_named(identity.family)
    folder = folder_of(identity, family)
    if folder is None:
        return Path(identity.location).stat().st_size
    parts = (family.denoiser, "vae", *family.text_encoders)
    return sum(file.stat().st_size for part in parts for file in weight_files(folder, part)[1])
