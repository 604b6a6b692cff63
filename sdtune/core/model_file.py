"""A base model as a single .safetensors file in the layout of its first publication."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdtune.core import hub
from sdtune.core.families import Family, families
from sdtune.core.header import Header, read_header
from sdtune.core.identity import Identity
from sdtune.core.model_folder import (
    FAILURES,
    INPAINTING_CHANNELS,
    check_configs,
    empty_part,
    family_of_folder,
    kind_of_part,
    refuse_special,
    unloadable,
)
from sdtune.errors import ModelError

if TYPE_CHECKING:
    import torch


def identify_file(path: Path) -> Identity:
    """Which model a file holds, by its tensors' names and shapes."""
    header = read_header(path, ModelError)
    fitting = [family for family in families().values() if family.recognises(header.shapes)]
    if not fitting:
        raise ModelError(f"{path}: {_what_else(header)}")
    channels_in = channels_in_file(header)
    refiner = any(key.startswith("conditioner.embedders.0.model.") for key in header.shapes)
    refuse_special(path, channels_in, 1280 if refiner else None)
    told = header.metadata.get("modelspec.prediction_type")
    prediction = "v_prediction" if told == "v" or "v_pred" in header.shapes else None
    if told in ("epsilon", "eps"):
        prediction = "epsilon"
    name = path.name.removesuffix(".safetensors")
    inpainting = channels_in == INPAINTING_CHANNELS
    return Identity(name, "file", str(path), fitting[0].name, prediction, "ztsnr" in header.shapes, inpainting)


def channels_in_file(header: Header) -> int | None:
    """How many channels a U-Net sees; None where it is none."""
    entrance = header.shapes.get("model.diffusion_model.input_blocks.0.0.weight", ())
    return entrance[1] if len(entrance) > 1 else None


def _what_else(header: Header) -> str:
    """What a file is that is no base model of a known family."""
    keys = header.shapes
    if not keys:
        return "holds no weights; download it again"
    if any(".lora_" in key or key.startswith("lora_") or ".hada_" in key or ".lokr_" in key for key in keys):
        return "a LoRA, not a base model; give the model it was made for with --model, and this file with --lora"
    if all(key.startswith(("first_stage_model.", "encoder.", "decoder.", "quant_", "post_quant_")) for key in keys):
        return "a VAE alone, not a whole model; choose a model with a denoiser and text encoders"
    if any(key.startswith(("control_model.", "controlnet_")) for key in keys):
        return "a ControlNet, not a base model; choose the model it was made for"
    if any(key in keys for key in ("emb_params", "clip_g", "clip_l")):
        return "a textual inversion, not a base model; choose the model it was made for"
    if any(key.startswith(("down_blocks.", "transformer_blocks.")) for key in keys):
        return "a denoiser alone in diffusers' layout; give the folder that has model_index.json instead"
    titles = ", ".join(family.title for family in families().values())
    return f"of no family that sdtune trains ({titles}); choose another model"


def load_file(identity: Identity, family: Family, dtype: torch.dtype, without: Collection[str] = ()) -> Any:
    """The file's diffusers pipeline, with the configs of a folder around it or of its family on the hub.

    Parts `without` which it is are None, but for a denoiser without weights.
    """
    import diffusers
    import torch

    path = Path(identity.location)
    header = read_header(path, ModelError)
    configs = configs_of_file(identity, family)
    check_configs(configs, family)
    t5 = ("text_encoder_3", "tokenizer_3") if any(".t5xxl." in key for key in header.shapes) else ()
    optional = [part for part in family.optional_parts if part not in t5]
    parts: dict[str, Any] = dict.fromkeys((*optional, *without))
    shape = {"in_channels": channels} if (channels := channels_in_file(header)) else {}
    told: dict[str, Any] = {"config": str(configs), "local_files_only": True}
    try:
        if "vae" not in without:
            parts["vae"] = diffusers.AutoencoderKL.from_single_file(
                str(path), subfolder="vae", dtype=torch.float32, **told
            )
        if family.denoiser in without:
            parts[family.denoiser] = empty_part(configs, family.denoiser, **shape)
        else:
            kind = kind_of_part(configs, family.denoiser)
            parts[family.denoiser] = kind.from_single_file(
                str(path), subfolder=family.denoiser, dtype=dtype, **told, **shape
            )
        pipe = getattr(diffusers, family.pipeline).from_single_file(str(path), dtype=dtype, **told, **parts)
    except FAILURES as problem:
        raise unloadable(path, problem) from problem
    for name, part in pipe.components.items():
        read = isinstance(part, torch.nn.Module) and name not in without
        if read and any(weight.is_meta for weight in part.parameters()):
            raise ModelError(f"{path}: weights of its {name} are missing; download it again")
    noise: dict[str, Any] = {"prediction_type": identity.prediction} if identity.prediction else {}
    if identity.zero_snr:
        noise |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if noise:
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **noise)
    return pipe


def configs_of_file(identity: Identity, family: Family) -> Path:
    """The folder whose configs and tokenizers are the file's: one around it, or its family's on the hub."""
    path = Path(identity.location)
    reference = (identity.inpainting and family.inpainting_model) or family.reference(
        read_header(path, ModelError).shapes
    )
    configs = _configs_beside(path, family) or hub.cached(reference)
    if configs is None:
        instead = (
            f"put the file into a model folder of {family.title}, or {hub.INSTEAD.replace(' or .safetensors file', '')}"
        )
        try:
            configs = hub.fetch(reference, hub.CONFIGS, instead)
        except ModelError as problem:
            raise ModelError(f"{path}: single files need their family's configs and tokenizer; {problem}") from None
    return configs


def _configs_beside(path: Path, family: Family) -> Path | None:
    """The model folder that a file lies in, or one level below, where it is of the same family."""
    for folder in path.resolve().parents[:2]:
        if (folder / "model_index.json").is_file() and family_of_folder(folder).name == family.name:
            return folder
    return None
