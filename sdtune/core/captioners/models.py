"""Models of transformers that read pictures: found in a folder or on the hub, safetensors alone, no code of theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError

from sdtune.core import hub
from sdtune.core.captioners.config_sizes import must_be_sane, must_fit, must_make_pixels
from sdtune.core.config_file import config_of
from sdtune.core.header import Header, read_header, refuse_pickle, what_is
from sdtune.core.model_folder import FAILURES as ALL
from sdtune.core.model_folder import unloadable
from sdtune.errors import ModelError

if TYPE_CHECKING:
    import torch

FAILURES = (*ALL, StrictDataclassError)
"""what the libraries raise at configs and weights that do not work"""
FILES = ("*.json", "*.txt", "*.jinja", "*.model", "*.safetensors")
"""what is fetched of a model"""
SAFETENSORS_AT = {
    "Salesforce/blip-image-captioning-base": "refs/pr/38",
    "CIDAS/clipseg-rd64-refined": "refs/pr/6",
}
"""models whose main revision has held only a pickle, and where the hub's own converter put safetensors"""


def folder_of(model: str, files: Sequence[str] = FILES, needs: str = "*.safetensors", *, instead: str) -> Path:
    """The folder of a model by its folder or hub name, fetched where it is not on this machine.

    `needs` is the file without which it is not whole; `instead` says what else can be done where it is not found.
    """
    path = Path(model).expanduser() if model.startswith("~/") else Path(model)
    kind = what_is(path, ModelError)
    if kind == "folder":
        return path
    if kind == "file":
        raise ModelError(f"{model}: a file; give the folder that it lies in, with its config")
    refuse_pickle(path, ModelError)
    if model.startswith((".", "/", "~")) or not hub.could_name(model):
        shown = model if model.isprintable() and len(model) <= 200 else f"{model[:200]!a}"
        raise ModelError(f"{shown}: no such folder, and no name that the hub could have; {instead}")
    other = SAFETENSORS_AT.get(model)
    names = [model, *([f"{model}@{other}"] if other else [])]
    for name in names:
        here = _cached(name)
        if here is not None and any(here.glob(needs)):
            return here
    for name in names:
        fetched = hub.fetch(name, files, instead)
        if any(fetched.glob(needs)):
            return fetched
    raise ModelError(f"{model}: has no {needs}, and pickles can run any code, so sdtune reads none; {instead}")


def _cached(name: str) -> Path | None:
    """The folder on this machine that holds what was fetched of a model, perhaps not all of it."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = name.partition("@")
    for file in ("config.json", "selected_tags.csv"):
        found = try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(found, str):
            return Path(found).parent
    return None


def load_model(kind: str, folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """A model of this class of transformers, frozen; that each weight was found is checked."""
    import torch

    _silence()
    files = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: no config.json; give the folder of a {kind.removesuffix('ForConditionalGeneration')}"
        )
    if not files:
        pickled = next((file.name for file in (*folder.glob("*.bin"), *folder.glob("*.pt"))), None)
        told = f"only a pickle ({pickled}), which can run any code" if pickled else "no weights"
        raise ModelError(f"{folder}: has {told}; get its .safetensors")
    headers = _checked(folder)
    cls = getattr(import_module("transformers"), kind)
    _must_be(cls.config_class.model_type, folder)
    try:
        with torch.device("meta"):
            must_fit(folder / "config.json", cls(cls.config_class.from_pretrained(folder)), headers)
        model, report = cls.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # told of, and refused below
            output_loading_info=True,
        )
    except FAILURES as problem:
        raise unloadable(folder, problem) from problem
    for key, given, expected in sorted(report["mismatched_keys"]):
        raise unloadable(folder, ValueError(f"{key} has shape {tuple(given)}, by the config {tuple(expected)}"))
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(f"{folder}: {len(missing)} weights are missing ({missing[0]} ...); download it again")
    return model.eval().requires_grad_(False).to(device)


def load_tokenizer(folder: Path) -> Any:
    """The model's tokenizer, padding on the left, so that what is written follows its prompt."""
    _silence()
    known = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
    if not any((folder / file).is_file() for file in known):
        raise ModelError(f"{folder}: no vocabulary of a tokenizer; get tokenizer.json, or download the model again")
    _checked(folder)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
    except FAILURES as problem:
        raise unloadable(folder, problem) from problem


def load_image_processor(folder: Path) -> Any:
    """What makes pixels of images as the model's preprocessor_config.json says, with Pillow and numpy alone."""
    _silence()
    there = [
        file for name in ("preprocessor_config.json", "processor_config.json") if (file := folder / name).is_file()
    ]
    if not there:
        raise ModelError(f"{folder}: no preprocessor_config.json; download the model again")
    for file in there:
        must_make_pixels(file)
    _checked(folder)
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    except FAILURES as problem:
        raise unloadable(folder, problem) from problem


@contextlib.contextmanager
def trying(folder: Path) -> Iterator[None]:
    """What the libraries raise at the first use of a model is told as what is wrong with its files."""
    try:
        yield
    except FAILURES as problem:
        raise unloadable(folder, problem) from problem


def _checked(folder: Path) -> list[Header]:
    """The headers of a model's weights, by which its config has sane sizes; every class of transformers reads it."""
    headers = [read_header(file, ModelError) for file in sorted(folder.glob("*.safetensors"))]
    if headers and (folder / "config.json").is_file():
        must_be_sane(folder / "config.json", headers)
    return headers


def _must_be(model_type: str, folder: Path) -> None:
    """Stop at a folder of another kind of model, which transformers would try to make this one of."""
    found = config_of(folder / "config.json").get("model_type")
    if found != model_type:
        raise ModelError(f"{folder}: a model of type {found}, not {model_type}; give the folder of one that is")


def _silence() -> None:
    """Its bars and warnings are for makers."""
    log = import_module("transformers.utils.logging")
    log.set_verbosity_error()
    log.disable_progress_bar()
