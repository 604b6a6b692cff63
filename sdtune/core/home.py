"""Home: folders that settings give by ~, as a shell would have given them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sdtune.choices.spec import Spec

if TYPE_CHECKING:
    from sdtune.config import TrainLora

Settings = TypeVar("Settings", bound=Spec)


def from_home(config: TrainLora) -> TrainLora:
    """The same settings, with ~ at the front of the cache's and the data's folders spelt out."""
    data, cache = config.data, config.cache
    if cache.folder:
        cache = cache.model_copy(update={"folder": expanded(cache.folder)})
    if data.folder:
        data = data.model_copy(update={"folder": expanded(data.folder)})
    if data.folders:
        folders = tuple(one.model_copy(update={"path": expanded(one.path)}) for one in data.folders)
        data = data.model_copy(update={"folders": folders})
    changed: dict[str, Spec] = {"data": data} if data != config.data else {}
    changed |= {"cache": cache} if cache != config.cache else {}
    return config.model_copy(update=changed)


def paths_from_home(settings: Settings) -> Settings:
    """The same settings, with ~ spelt out at the front of every path in them."""
    paths = {name: expanded(value) for name, value in settings if isinstance(value, Path)}
    return settings.model_copy(update={name: path for name, path in paths.items() if path != getattr(settings, name)})


def expanded(place: Path) -> Path:
    """With ~ at its front spelt out, where it can be."""
    try:
        return place.expanduser()
    except RuntimeError:  # a ~name of nobody on this machine
        return place
