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


MINI = Path(__file__).parents[1] / "mini"
"""folder of the built-in model"""


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
        return "a LoRA, not a base model; give the model that it was made for"
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
    """The file's diffusers pipeline, with configs that fit it (see configs_of_file).

    Parts `without` which it is are None, but for a denoiser without weights.
    """
    import diffusers
    import torch

    path = Path(identity.location)
    header = read_header(path, ModelError)
    refuse_packed(path)
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


def refuse_packed(path: Path) -> None:
    """Stop at weights with scales or tables beside them, which diffusers would read as if these were not there."""
    from sdtune.core.weights import Stored

    kinds = " and ".join(sorted({one.kind for one in Stored(path).packed.values()}))
    if kinds:
        todo = "choose it in float16 or bfloat16, or `sdtune merge` LoRAs into it, which unpacks it"
        raise ModelError(
            f"{path}: its weights are packed ({kinds} with scales), and only merge reads such files; {todo}"
        )


def configs_of_file(identity: Identity, family: Family) -> Path:
    """The folder whose configs and tokenizers are the file's, fetched from the hub where none is here."""
    if here := configs_here(identity, family):
        return here
    instead = hub.INSTEAD.replace(" or .safetensors file", "")
    instead = f"put the file into a model folder of {family.title}, or {instead}"
    try:
        return hub.fetch(_reference(identity, family), hub.CONFIGS, instead)
    except ModelError as problem:
        told = f"single files need their family's configs and tokenizer; {problem}"
        raise ModelError(f"{identity.location}: {told}") from None


def configs_here(identity: Identity, family: Family) -> Path | None:
    """Those on this machine: around the file, of the built-in model where it is one like that, or of the hub's."""
    path = Path(identity.location)
    return _configs_beside(path, family) or _configs_built_in(path, family) or hub.cached(_reference(identity, family))


def _reference(identity: Identity, family: Family) -> str:
    """The model on the hub whose configs are like the file's."""
    shapes = read_header(Path(identity.location), ModelError).shapes
    return (identity.inpainting and family.inpainting_model) or family.reference(shapes)


def _configs_beside(path: Path, family: Family) -> Path | None:
    """The model folder that a file lies in, or one level below, where it is of the same family."""
    for folder in path.resolve().parents[:2]:
        if (folder / "model_index.json").is_file() and family_of_folder(folder).name == family.name:
            return folder
    return None


def _configs_built_in(path: Path, family: Family) -> Path | None:
    """The built-in model's folder, where every tensor of the file is there in the same shape, and the reverse."""
    from sdtune.core.weights import FileWeights, FolderWeights

    if family_of_folder(MINI).name != family.name:
        return None
    return MINI if FileWeights(path, family).shapes == FolderWeights(MINI, family).shapes else None
