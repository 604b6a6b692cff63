"""A base model as a folder in diffusers' layout: model_index.json and a folder for each part."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdtune.core import hub
from sdtune.core.families import Family, families
from sdtune.core.header import read_header
from sdtune.core.identity import Identity
from sdtune.earlier import RUN_SETTINGS
from sdtune.errors import ModelError

if TYPE_CHECKING:
    import torch

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
FAILURES = (OSError, ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError)
"""what the libraries raise at configs and weights that they cannot load"""
INPAINTING_CHANNELS = 9
"""that an inpainting U-Net sees: 4 of noisy latents, 1 of the mask, 4 of the latents of the masked picture"""
_LAYOUT = "a model folder has model_index.json and a folder for each part (unet, vae, text_encoder ...)"


def family_of_folder(folder: Path) -> Family:
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
    if pipeline not in (family.pipeline.replace("Pipeline", f"{kind}Pipeline") for kind in ("", "Img2Img", "Inpaint")):
        raise ModelError(
            f"{folder}: model_index.json says {pipeline}, but its {part} is that of {family.title}; "
            "mend the folder, or download the model again"
        )
    refuse_special(folder, config.get("in_channels"), config.get("cross_attention_dim"))
    return family


def is_for_inpainting(folder: Path) -> bool:
    """Whether the denoiser of a folder of a known family sees a mask and a masked picture, too."""
    config = folder / "unet" / "config.json"
    return config.is_file() and _json(config).get("in_channels") == INPAINTING_CHANNELS


def refuse_special(place: Path, channels_in: object, caption_width: object) -> None:
    """Stop at a model of a known family that is made neither to draw pictures from captions nor to inpaint."""
    if channels_in in (5, 7, 8):
        what = {5: "that follows depths", 7: "that enlarges pictures", 8: "that edits by instructions"}[channels_in]
        raise ModelError(f"{place}: a model {what} ({channels_in} channels in); train on its base model")
    if caption_width == 1280:
        raise ModelError(f"{place}: the SDXL refiner, which draws no pictures of its own; use the SDXL base model")


def _parts(folder: Path) -> dict[str, list[str]]:
    """{part: [library, class]} of what a folder's model_index.json names."""
    file = folder / "model_index.json"
    if not file.is_file():
        if (folder / RUN_SETTINGS).is_file():
            raise ModelError(f"{folder}: a run, whose LoRA is no base model; give the model that it was trained on")
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


def weight_files(folder: Path, part: str) -> tuple[str | None, list[Path]]:
    """A part's variant ("fp16" where there is no other) and its files; an empty list where it has none."""
    for variant in (None, "fp16"):
        infix = f".{variant}" if variant else ""
        for stem in ("diffusion_pytorch_model", "model"):
            index = folder / part / f"{stem}.safetensors.index{infix}.json"
            if index.is_file():
                told = _json(index).get("weight_map")
                if not isinstance(told, dict) or not all(isinstance(shard, str) for shard in told.values()):
                    raise ModelError(f"{index}: does not tell which file has which weight; download it again")
                files = [folder / part / Path(shard).name for shard in sorted(set(told.values()))]
            else:
                files = [folder / part / f"{stem}{infix}.safetensors"]
            if files and all(file.is_file() for file in files):
                return variant, files
    return None, []


def _needed(family: Family) -> tuple[str, ...]:
    return (family.denoiser, "vae", *(part for part in family.text_encoders if part not in family.optional_parts))


def on_this_machine(name: str, family: Family) -> Path:
    """The folder of a model from the hub, fetched where it is not whole."""
    folder = hub.cached(name) or hub.fetch(name, hub.CONFIGS, hub.INSTEAD)
    parts = [part for part in (*_needed(family), *family.text_encoders) if part in _parts(folder)]
    for suffix in (".safetensors", ".fp16.safetensors"):
        missing = [part for part in dict.fromkeys(parts) if not weight_files(folder, part)[1]]
        if not missing:
            break
        stems = [f"{part}/{stem}" for part in missing for stem in ("diffusion_pytorch_model", "model")]
        shards = [f"{stem}-?????-of-?????{suffix}" for stem in stems]
        folder = hub.fetch(name, (*hub.CONFIGS, *(stem + suffix for stem in stems), *shards), hub.INSTEAD)
    return folder


def folder_of(identity: Identity, family: Family) -> Path | None:
    """The folder that a model is, fetched where it is of the hub and not here; None of a single file."""
    if identity.source == "hub":
        return on_this_machine(identity.location, family)
    return Path(identity.location) if identity.source == "folder" else None


def check_configs(folder: Path, family: Family) -> None:
    """Stop where a config is missing or names a wrong class; missing vocabularies the libraries would make up."""
    _json(folder / "scheduler" / "scheduler_config.json")
    _json(folder / "vae" / "config.json")
    for encoder in family.text_encoders:
        tokenizer = encoder.replace("text_encoder", "tokenizer")
        known = any((folder / tokenizer / file).is_file() for file in ("vocab.json", "tokenizer.json", "spiece.model"))
        if tokenizer not in family.optional_parts and not known:
            raise ModelError(f"{folder}: {tokenizer} has no vocabulary; get {tokenizer}/*, or download the model again")
    _check_kinds(folder, family, _parts(folder))


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


def check_weights(folder: Path, part: str) -> str | None:
    """The variant of a part's weights; stops where there are none, or their files are no safetensors."""
    variant, files = weight_files(folder, part)
    if not files:
        pickled = [file.name for file in (folder / part).glob("*.bin")]
        told = f"only a pickle ({pickled[0]}), which can run any code" if pickled else "no weights"
        raise ModelError(f"{folder}: {part} has {told}; get {part}/*.safetensors")
    for file in files:
        read_header(file, ModelError)
    return variant


def load_folder(folder: Path, family: Family, dtype: torch.dtype, without: Collection[str] = ()) -> Any:
    """The folder's diffusers pipeline; parts `without` which it is are None, but for a denoiser without weights."""
    import diffusers
    import torch

    check_configs(folder, family)
    index = _parts(folder)
    parts: dict[str, Any] = dict.fromkeys((*family.optional_parts, *without))
    for part in (family.denoiser, "vae", *family.text_encoders):
        if part in without or (part in family.optional_parts and not weight_files(folder, part)[1]):
            continue
        variant = check_weights(folder, part)
        parts[part] = _load_part(folder, part, index, variant, torch.float32 if part == "vae" else dtype)
        if part == "text_encoder_3":
            del parts["tokenizer_3"]
    if family.denoiser in without:
        parts[family.denoiser] = empty_part(folder, family.denoiser)
    options = {"requires_safety_checker": False} if "safety_checker" in parts else {}
    if family.name == "sdxl":
        options["add_watermarker"] = False
    try:
        return getattr(diffusers, family.pipeline).from_pretrained(folder, local_files_only=True, **parts, **options)
    except FAILURES as problem:
        raise unloadable(folder, problem) from problem


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
    except FAILURES as problem:
        raise unloadable(folder / part, problem) from problem
    for key, given, expected in sorted(report["mismatched_keys"]):
        misfit = ValueError(f"{key} has shape {tuple(given)}, by the config {tuple(expected)}")
        raise unloadable(folder / part, misfit)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        told = f"a weight is missing ({missing[0]})"
        if len(missing) > 1:
            told = f"{len(missing)} weights are missing ({missing[0]} ...)"
        raise ModelError(f"{folder / part}: {told}; download it again")
    return module


def empty_part(folder: Path, part: str, **changes: Any) -> Any:
    """A part of diffusers' by its config alone, with `changes` to it: its weights are on the meta device."""
    from accelerate import init_empty_weights

    kind = kind_of_part(folder, part)
    try:
        with init_empty_weights():
            return kind.from_config(kind.load_config(folder, subfolder=part, local_files_only=True), **changes)
    except FAILURES as problem:
        raise unloadable(folder / part, problem) from problem


def kind_of_part(folder: Path, part: str) -> Any:
    """The class that model_index.json names for a part, once `check_configs` has found it sound."""
    library, kind = _parts(folder)[part]
    return getattr(import_module(library), kind)


def unloadable(place: Path, problem: Exception) -> Exception:
    """The error for what a library said of configs or weights; memory that ran out stays what it is."""
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
