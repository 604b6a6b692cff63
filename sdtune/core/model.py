"""A base model: from a name, a folder or a file to its family and a diffusers pipeline."""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdtune.core import hub
from sdtune.core.families import Family, families, family_named
from sdtune.core.header import Header, read_header, refuse_pickle, what_is
from sdtune.errors import ModelError

if TYPE_CHECKING:
    import torch

MINI = Path(__file__).parents[1] / "mini"
SHORT_NAMES: dict[str, str] = {"mini": str(MINI)} | {
    name: place for family in families().values() for name, place in family.models.items()
}
"""what --model takes besides hub names, folders and files"""
_INSTEAD = "give a local folder or .safetensors file, or use --model mini"
_KINDS = {
    "unet": ("UNet", "a U-Net"),
    "transformer": ("SD3Transformer", "a transformer"),
    "vae": ("Autoencoder", "an autoencoder"),
    "text_encoder": ("CLIPText", "a text encoder"),
    "text_encoder_2": ("CLIPText", "a text encoder"),
    "text_encoder_3": ("T5", "a T5"),
    "tokenizer": ("CLIPTokenizer", "a tokenizer of CLIP"),
    "tokenizer_2": ("CLIPTokenizer", "a tokenizer of CLIP"),
    "tokenizer_3": ("T5Tokenizer", "a tokenizer of T5"),
}
"""{part: (how its class's name begins, what that is)}"""
_FAILURES = (OSError, ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError)
"""what the libraries raise at configs and weights that they cannot load"""
_LAYOUT = "a model folder has model_index.json and a folder for each part (unet, vae, text_encoder ...)"


@dataclass(frozen=True)
class Identity:
    """Which base model it is, told without loading its weights."""

    name: str
    """for people: the short name, hub name, or the folder's or file's own"""
    source: Literal["folder", "file", "hub"]
    location: str
    """path, or owner/model[@revision] on the hub"""
    family: str
    """sd1, sd2, sdxl, sd3"""
    prediction: str | None = None
    """diffusers' prediction_type where a single file says so itself"""
    zero_snr: bool = False
    """whether a single file says that its noise goes all the way to zero signal (Lin et al. 2023, arXiv:2305.08891)"""


def identify(model: str) -> Identity:
    """Which model a short name, hub name, folder or .safetensors file stands for.

    Takes milliseconds for what lies on this machine; of another model on the hub the configs are fetched.
    """
    if model in SHORT_NAMES and model != "mini":
        (family,) = (family for family in families().values() if model in family.models)
        return Identity(model, "hub", SHORT_NAMES[model], family.name)
    path = _expanded(SHORT_NAMES.get(model, model))
    kind = what_is(path, ModelError)
    if kind == "folder":
        name = "mini" if model == "mini" else path.resolve().name
        return Identity(name, "folder", str(path), _family_of_folder(path).name)
    if kind == "file":
        return _identify_file(path)
    refuse_pickle(path, ModelError)
    if not _could_be_on_hub(model):
        raise ModelError(f"{_shown(model)}: no such folder or file{_nearest(model)}")
    if not hub.could_name(model):
        raise ModelError(
            f"{_shown(model)}: no such folder or file, and no name that the hub could have{_nearest(model)}"
        )
    folder = hub.cached(model) or hub.fetch(model, hub.CONFIGS, _INSTEAD)
    return Identity(model, "hub", model, _family_of_folder(folder).name)


def load(identity: Identity, dtype: torch.dtype, device: str | torch.device | None = None) -> Any:
    """The model's diffusers pipeline, frozen, in this precision; the VAE in float32, as SDXL's fails in float16."""
    _silence_libraries()
    family = family_named(identity.family)
    if identity.source == "file":
        pipe = _load_file(identity, family, dtype)
    elif identity.source == "folder":
        pipe = _load_folder(Path(identity.location), family, dtype)
    else:
        pipe = _load_folder(_on_this_machine(identity.location, family), family, dtype)
    for part in pipe.components.values():
        if hasattr(part, "requires_grad_"):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    _must_be_finite(identity, family, pipe)
    return pipe if device is None else pipe.to(device)


def _must_be_finite(identity: Identity, family: Family, pipe: Any) -> None:
    """Stop at weights that hold NaN or infinity; 0.4 ns a weight."""
    for name in (family.denoiser, "vae", *family.text_encoders):
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


def _expanded(place: str) -> Path:
    try:
        return Path(place).expanduser()
    except RuntimeError:  # a ~name of nobody on this machine
        return Path(place)


def _shown(model: str) -> str:
    """A name as a message can show it: of one line, and not too long for it."""
    name = model if model.isprintable() else ascii(model)
    return name if len(name) <= 200 else f"{name[:200]}..."


def _nearest(model: str) -> str:
    near = difflib.get_close_matches(model[:100].lower(), SHORT_NAMES, 1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; give a folder, a .safetensors file, owner/model on the hub, or one of {', '.join(SHORT_NAMES)}"


# ---- folders in diffusers' layout


def _family_of_folder(folder: Path) -> Family:
    """The family that a folder's configs tell of, where they agree and nothing is missing that cannot be fetched."""
    index = _parts(folder)
    for part in ("unet", "transformer"):
        if part in index:
            config = _json(folder / part / "config.json")
            break
    else:
        raise ModelError(f"{folder}: model_index.json names no unet or transformer; {_LAYOUT}")
    fitting = [family for family in families().values() if family.denoiser == part and family.recognises_config(config)]
    titles = ", ".join(family.title for family in families().values())
    if not fitting:
        raise ModelError(f"{folder}: its {part} is of no family that sdtune trains ({titles}); choose another model")
    family = fitting[0]
    pipeline = str(_json(folder / "model_index.json").get("_class_name"))
    if pipeline not in (family.pipeline, family.pipeline.replace("Pipeline", "Img2ImgPipeline")):
        raise ModelError(
            f"{folder}: model_index.json says {pipeline}, but its {part} is that of {family.title}; "
            "mend the folder, or download the model again"
        )
    _refuse_special(folder, config.get("in_channels"), config.get("cross_attention_dim"))
    return family


def _refuse_special(place: Path, channels_in: object, caption_width: object) -> None:
    if channels_in in (8, 9):
        raise ModelError(
            f"{place}: an inpainting or editing model ({channels_in} channels in); train on its base model"
        )
    if caption_width == 1280:
        raise ModelError(f"{place}: the SDXL refiner, which draws no pictures of its own; use the SDXL base model")


def _parts(folder: Path) -> dict[str, list[str]]:
    """{part: [library, class]} of what a folder's model_index.json names."""
    file = folder / "model_index.json"
    if not file.is_file():
        singles = sorted(file.name for file in folder.glob("*.safetensors"))
        remedy = f"for a single file give {folder / singles[0]}" if singles else _LAYOUT
        raise ModelError(f"{folder}: no model_index.json; {remedy}")
    return {
        part: value
        for part, value in _json(file).items()
        if isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value)
    }


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ModelError(f"{file.parents[1]}: {file.parent.name}/{file.name} is missing; download the model again")
    try:
        told = json.loads(file.read_bytes()) if file.stat().st_size < 2**20 else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise ModelError(f"{file}: not a config in JSON; download the model again")
    return told


def _weights(folder: Path, part: str) -> tuple[str | None, list[Path]]:
    """A part's variant ("fp16" where there is no other) and its files; an empty list where it has none."""
    for variant in (None, "fp16"):
        infix = f".{variant}" if variant else ""
        for stem in ("diffusion_pytorch_model", "model"):
            index = folder / part / f"{stem}.safetensors.index{infix}.json"
            if index.is_file():
                shards = sorted(set(_json(index).get("weight_map", {}).values()))
                files = [folder / part / Path(str(shard)).name for shard in shards]
            else:
                files = [folder / part / f"{stem}{infix}.safetensors"]
            if files and all(file.is_file() for file in files):
                return variant, files
    return None, []


def _needed(family: Family) -> tuple[str, ...]:
    return (family.denoiser, "vae", *(part for part in family.text_encoders if part not in family.optional_parts))


def _on_this_machine(name: str, family: Family) -> Path:
    """The folder of a model from the hub, fetched where it is not whole."""
    folder = hub.cached(name) or hub.fetch(name, hub.CONFIGS, _INSTEAD)
    parts = [part for part in (*_needed(family), *family.text_encoders) if part in _parts(folder)]
    for suffix in (".safetensors", ".fp16.safetensors"):
        missing = [part for part in dict.fromkeys(parts) if not _weights(folder, part)[1]]
        if not missing:
            break
        stems = [f"{part}/{stem}" for part in missing for stem in ("diffusion_pytorch_model", "model")]
        shards = [f"{stem}-?????-of-?????{suffix}" for stem in stems]
        folder = hub.fetch(name, (*hub.CONFIGS, *(stem + suffix for stem in stems), *shards), _INSTEAD)
    return folder


def _check_configs(folder: Path, family: Family) -> None:
    """Stop where a config is missing; of a missing vocabulary the libraries would make up one of three words."""
    _json(folder / "scheduler" / "scheduler_config.json")
    _json(folder / "vae" / "config.json")
    for encoder in family.text_encoders:
        tokenizer = encoder.replace("text_encoder", "tokenizer")
        known = any((folder / tokenizer / file).is_file() for file in ("vocab.json", "tokenizer.json", "spiece.model"))
        if tokenizer not in family.optional_parts and not known:
            raise ModelError(f"{folder}: {tokenizer} has no vocabulary; get {tokenizer}/*, or download the model again")


def _check_kinds(folder: Path, family: Family, index: Mapping[str, list[str]]) -> None:
    """Stop where model_index.json names a class that is not of the part's kind, or none."""
    remedy = "mend model_index.json, or download the model again"
    tokenizers = [part.replace("text_encoder", "tokenizer") for part in family.text_encoders]
    for part in (family.denoiser, "vae", "scheduler", *family.text_encoders, *tokenizers):
        if part not in index:
            if part in family.optional_parts:
                continue
            raise ModelError(f"{folder}: model_index.json names no {part}; {remedy}")
        library, kind = index[part]
        if library not in ("diffusers", "transformers"):
            raise ModelError(f"{folder}: {part} needs code of its own ({library}.{kind}), which sdtune does not run")
        begins, what = _KINDS.get(part, ("", "a scheduler"))
        if not kind.startswith(begins) or (part == "scheduler" and "Scheduler" not in kind):
            raise ModelError(f"{folder}: {part} is of class {kind}, not {what}; {remedy}")
        if not hasattr(import_module(library), kind):
            raise ModelError(f"{folder}: {part} is of class {kind}, which {library} does not have; {remedy}")


def _load_folder(folder: Path, family: Family, dtype: torch.dtype) -> Any:
    import diffusers
    import torch

    _check_configs(folder, family)
    index = _parts(folder)
    _check_kinds(folder, family, index)
    parts: dict[str, Any] = dict.fromkeys(family.optional_parts)
    for part in (family.denoiser, "vae", *family.text_encoders):
        variant, files = _weights(folder, part)
        if not files and part in family.optional_parts:
            continue
        if not files:
            pickled = [file.name for file in (folder / part).glob("*.bin")]
            told = f"only a pickle ({pickled[0]}), which can run any code" if pickled else "no weights"
            raise ModelError(f"{folder}: {part} has {told}; get {part}/*.safetensors")
        for file in files:
            read_header(file, ModelError)
        parts[part] = _load_part(folder, part, index, variant, torch.float32 if part == "vae" else dtype)
        if part == "text_encoder_3":
            del parts["tokenizer_3"]
    options = {"requires_safety_checker": False} if "safety_checker" in parts else {}
    if family.name == "sdxl":
        options["add_watermarker"] = False
    try:
        return getattr(diffusers, family.pipeline).from_pretrained(folder, local_files_only=True, **parts, **options)
    except _FAILURES as problem:
        raise _unloadable(folder, problem) from problem


def _load_part(folder: Path, part: str, index: Mapping[str, Any], variant: str | None, dtype: torch.dtype) -> Any:
    """One part with its weights; that each weight was found is checked, as the libraries would make up what is not."""
    library, kind = index[part]
    options = {"ignore_mismatched_sizes": True} if library == "transformers" else {}  # told of, and refused below
    try:
        module, report = getattr(import_module(library), kind).from_pretrained(
            folder,
            subfolder=part,
            variant=variant,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except _FAILURES as problem:
        raise _unloadable(folder / part, problem) from problem
    for key, given, expected in sorted(report["mismatched_keys"]):
        misfit = ValueError(f"{key} has shape {tuple(given)}, by the config {tuple(expected)}")
        raise _unloadable(folder / part, misfit)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        told = f"a weight is missing ({missing[0]})"
        if len(missing) > 1:
            told = f"{len(missing)} weights are missing ({missing[0]} ...)"
        raise ModelError(f"{folder / part}: {told}; download it again")
    return module


def _unloadable(place: Path, problem: Exception) -> Exception:
    import torch

    if isinstance(problem, torch.OutOfMemoryError):
        return problem
    speaks = not isinstance(problem, LookupError | AttributeError | ArithmeticError | AssertionError)
    told = _first_sentence(str(problem)) if speaks else ""
    remedy = "its configs and weights do not fit each other, so download it again"
    return ModelError(f"{place}: cannot be loaded{f' ({told})' if told else ''}; {remedy}")


def _first_sentence(told: str) -> str:
    """What a library says first, for the rest is advice to programmers; longer than 200 letters, up to a word's end."""
    sentence = re.split(r"(?<=[^.])[.!] ", " ".join(told.split()), maxsplit=1)[0].rstrip(".! ")
    return sentence if len(sentence) <= 200 else sentence[:200].rpartition(" ")[0] + " ..."


# ---- single files in the original layout


def _identify_file(path: Path) -> Identity:
    header = read_header(path, ModelError)
    fitting = [family for family in families().values() if family.recognises(header.shapes)]
    if not fitting:
        raise ModelError(f"{path}: {_what_else(header)}")
    entrance = header.shapes.get("model.diffusion_model.input_blocks.0.0.weight", (0, 0))
    refiner = any(key.startswith("conditioner.embedders.0.model.") for key in header.shapes)
    _refuse_special(path, entrance[1] if len(entrance) > 1 else None, 1280 if refiner else None)
    told = header.metadata.get("modelspec.prediction_type")
    prediction = "v_prediction" if told == "v" or "v_pred" in header.shapes else None
    if told in ("epsilon", "eps"):
        prediction = "epsilon"
    name = path.name.removesuffix(".safetensors")
    return Identity(name, "file", str(path), fitting[0].name, prediction, "ztsnr" in header.shapes)


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


def _load_file(identity: Identity, family: Family, dtype: torch.dtype) -> Any:
    import diffusers
    import torch

    path = Path(identity.location)
    reference = family.reference(read_header(path, ModelError).shapes)
    configs = _configs_beside(path, family) or hub.cached(reference)
    if configs is None:
        instead = (
            f"put the file into a model folder of {family.title}, or {_INSTEAD.replace(' or .safetensors file', '')}"
        )
        try:
            configs = hub.fetch(reference, hub.CONFIGS, instead)
        except ModelError as problem:
            raise ModelError(f"{path}: single files need their family's configs and tokenizer; {problem}") from None
    _check_configs(configs, family)
    missing = {part: None for part in family.optional_parts if part not in ("text_encoder_3", "tokenizer_3")}
    try:
        vae = diffusers.AutoencoderKL.from_single_file(
            str(path), config=str(configs), subfolder="vae", dtype=torch.float32, local_files_only=True
        )
        pipe = getattr(diffusers, family.pipeline).from_single_file(
            str(path), config=str(configs), dtype=dtype, local_files_only=True, vae=vae, **missing
        )
    except _FAILURES as problem:
        raise _unloadable(path, problem) from problem
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module) and any(weight.is_meta for weight in part.parameters()):
            raise ModelError(f"{path}: weights of its {name} are missing; download it again")
    told: dict[str, Any] = {"prediction_type": identity.prediction} if identity.prediction else {}
    if identity.zero_snr:
        told |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if told:
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **told)
    return pipe


def _configs_beside(path: Path, family: Family) -> Path | None:
    """The model folder that a file lies in, or one level below, where it is of the same family."""
    for folder in path.resolve().parents[:2]:
        if (folder / "model_index.json").is_file() and _family_of_folder(folder).name == family.name:
            return folder
    return None


def _silence_libraries() -> None:
    """Their bars and warnings are for makers; what the user can do something about is told by sdtune itself."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for library in ("transformers", "diffusers"):
        log = import_module(f"{library}.utils.logging")
        log.set_verbosity_error()
        log.disable_progress_bar()
