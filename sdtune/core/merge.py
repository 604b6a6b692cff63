"""LoRAs put into a base model, or several of them made one: which of the two, by what is given."""

from __future__ import annotations

from sdtune.choices.blends import Concat
from sdtune.core import applied as naming
from sdtune.core import model
from sdtune.core.applied import Applied
from sdtune.core.families import families
from sdtune.core.header import read_header, what_is
from sdtune.core.identity import Identity
from sdtune.core.merge_loras import merge_loras
from sdtune.core.merge_model import merge_model
from sdtune.core.reports import Telling, Warned
from sdtune.earlier import RUNS
from sdtune.errors import ConfigError, LoraError
from sdtune.lora_config import Merge

TOLD = "its name"
"""what messages say to check of a LoRA that is not there"""


def merge(config: Merge) -> Telling[None]:
    """Writes what the first of the given says: a model where it is one, else a LoRA."""
    if not all(text.strip() for text in config.given):
        raise ConfigError("merge: one of the names is empty; give a base model and LoRAs, or LoRAs alone")
    base = _base(config.given[0])
    loras = config.given[1:] if base else config.given
    for text in loras:
        if base and _is_model(text):
            raise ConfigError(f"{text}: a second base model; give one, and LoRAs behind it")
        if not base and text != loras[0] and _is_model(text):
            raise ConfigError(f"{text}: a base model behind a LoRA; give the base model first")
    if base and not loras:
        raise ConfigError(f"{config.given[0]}: a base model alone; give LoRAs to put into it behind it")
    if base:
        _check_of_model(config)
    elif config.verify:
        raise ConfigError("--verify: is for a base model with LoRAs in it; leave it out, or give a base model first")
    applied: list[Applied] = [naming.read(text, TOLD) for text in loras]
    for line in (line for one in applied for line in one.idle()):
        yield Warned(line)
    if base:
        yield from merge_model(config, base, applied)
    else:
        yield from merge_loras(config, applied)


def _base(text: str) -> Identity | None:
    """The base model that is given first; None where it is a LoRA."""
    one = naming.named(text)
    if naming.exists(one):
        if not _is_model(text):
            return None
        if one.usual is not None or one.blocks is not None:
            raise ConfigError(f"{text}: a base model has no strength; give LoRAs behind it with theirs")
        return model.identify(text)
    short = text.partition(":")[0]
    if short in model.SHORT_NAMES and short != text:
        raise ConfigError(f"{text}: a base model has no strength; give LoRAs behind it with theirs")
    in_runs = one.place.parts[:1] == RUNS.parts
    if one.usual is not None or one.blocks is not None or in_runs or one.place.suffix == ".safetensors":
        raise LoraError(f"{one.place}: no such base model, LoRA file or run folder; check its name")
    return model.identify(text)


def _is_model(text: str) -> bool:
    """Whether a name means a whole model: by the folder's index, or by the tensors of the file."""
    place = naming.named(text).place
    kind = what_is(place, LoraError)
    if kind == "folder":
        return (place / "model_index.json").is_file()
    if kind == "file":
        shapes = read_header(place, LoraError).shapes
        return any(family.recognises(shapes) for family in families().values())
    return text.partition(":")[0] in model.SHORT_NAMES


def _check_of_model(config: Merge) -> None:
    """Stop at settings of LoRAs alone."""
    set_ = {
        "--method": config.method != Concat(),
        "--rank": config.rank is not None,
        "--form": config.form != "auto",
        "--model": config.model is not None,
    }
    if wrong := [flag for flag, given in set_.items() if given]:
        raise ConfigError(f"{wrong[0]}: is for LoRAs alone, and a base model is given; leave it out, or the base model")
