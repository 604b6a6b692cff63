"""Layers of tables, and how they become one frozen settings object: defaults <- preset <- preset <- flags."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sdtune.choices.problems import oddities, problems
from sdtune.choices.spec import Spec, kinds_of, table_of
from sdtune.earlier import NEWEST, newest_of_all, settings_in
from sdtune.errors import ConfigError, nearest

Config = TypeVar("Config", bound=Spec)
Tables = dict[str, Any]
PRESET_BYTES = 2**20
OF_ONE_START = ("resume", "allow_changes", "dry_run", "probe", "out")
"""settings of TrainLora that say how a run is begun, and are no part of it: run.toml lacks them"""


def presets_folder() -> Path:
    """Where the shipped presets lie: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent / "presets"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "presets"


def preset_names() -> list[str]:
    """The shipped presets, by name."""
    return sorted(path.stem for path in presets_folder().glob("*.toml"))


def read_preset(name: str) -> Preset:
    """The tables of a shipped preset (by name) or of a TOML file (by path)."""
    if not name.strip():
        raise ConfigError("--preset: is empty; give a TOML file, or one of " + ", ".join(preset_names()))
    by_path = name.endswith(".toml") or os.sep in name
    path = Path(name) if by_path else presets_folder() / f"{name}.toml"
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{name}: is not a file; give a TOML file of settings")
        if path.stat().st_size > PRESET_BYTES:
            raise ConfigError(f"{name}: over 1 MB, which is no preset; give a TOML file of settings")
        return Preset(name, tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except FileNotFoundError:
        near = nearest(name.removesuffix(".toml"), preset_names())
        known = f"did you mean {near}?" if near else f"give a TOML file, or one of {', '.join(preset_names())}"
        raise ConfigError(f"{name}: no such preset; {known}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: not TOML, since it is not text in UTF-8; give a TOML file of settings") from None
    except (ValueError, RecursionError) as error:  # tomllib's own error names the line
        raise ConfigError(f"{name}: not valid TOML: {str(error)[:200]}; mend that line") from None
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror}); give a TOML file of settings") from None


class Preset(Tables):
    """Tables that know where they came from."""

    def __init__(self, name: str, tables: Tables) -> None:
        super().__init__(tables)
        self.name = name


def resolve(spec: type[Config], layers: Iterable[Tables]) -> Config:
    """One settings object out of layers of tables; later layers win, and every problem is told at once.

    Where they name a run to resume, its settings lie under all of them.
    """
    return _resolved(spec, with_run(list(layers)))


def with_run(layers: Sequence[Tables]) -> list[Tables]:
    """The layers, over those of the run whose folder `resume` names."""
    named = next((layer["resume"] for layer in reversed(layers) if "resume" in layer), None)
    if named == NEWEST and not any("data" in layer for layer in layers):
        named = newest_of_all()
        layers = [*layers, {"resume": named}]
    if not isinstance(named, str) or named == NEWEST or not named.strip():
        return list(layers)
    return laid_over(settings_in(named), layers)


def laid_over(settings: Path, layers: Sequence[Tables]) -> list[Tables]:
    """The layers over the settings of a run, whose steps are not wanted where the layers give the passes alone."""
    told = read_preset(str(settings))
    if "data" not in told:
        raise ConfigError(f"{settings}: is damaged, since it names no data; begin a new run")
    counted = any("passes" in layer for layer in layers) and not any("steps" in layer for layer in layers)
    out = (*OF_ONE_START, "steps") if counted else OF_ONE_START
    return [Preset(str(settings), {name: value for name, value in told.items() if name not in out}), *layers]


def _resolved(spec: type[Config], layers: Sequence[Tables]) -> Config:
    tables: Tables = {name: {} for name, field in spec.model_fields.items() if field.is_required() and table_of(field)}
    for layer in layers:
        tables = merge(spec, tables, layer)
    found = list(oddities(spec, tables))
    try:
        config = spec.model_validate(tables)
    except ValidationError as error:
        odd = {path for path, _ in found}
        found += [(path, line) for path, line in problems(spec, error) if path not in odd]
    if found:
        raise ConfigError(*(f"{_source(layers, path)}{line}" for path, line in found))
    return config


def _source(layers: Sequence[Tables], path: Sequence[str]) -> str:
    """The name of the preset that had the last word on a setting, to begin a line with."""
    for layer in reversed(layers):
        value: Any = layer
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if value is not None:
            return f"{layer.name}: " if isinstance(layer, Preset) else ""
    return ""


def refine(config: Config, *layers: Tables) -> Config:
    """The config with layers laid under what the user set, over the classes' defaults; later layers win."""
    return _resolved(type(config), [*layers, config.model_dump(exclude_unset=True)])


def merge(spec: type[Spec] | None, base: Tables, layer: Tables) -> Tables:
    """base with layer over it, table by table; a table whose kind changes starts afresh."""
    merged = dict(base)
    for name, value in layer.items():
        field = spec.model_fields.get(name) if spec else None
        kinds = kinds_of(field) if field else {}
        if kinds and isinstance(value, str):
            value = {"kind": value}
        below = merged.get(name)
        if isinstance(value, dict) and isinstance(below, dict):
            usual = getattr(field.default, "kind", None) if field else None
            changed = bool(kinds) and "kind" in value and value["kind"] != below.get("kind", usual)
            value = value if changed else merge(table_of(field) if field else None, below, value)
        merged[name] = value
    return merged


def to_toml(config: Spec, without: Collection[str] = ()) -> str:
    """The settings as TOML, itself a preset; what is not set, or named in `without`, is left out."""
    import tomli_w

    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True, exclude=set(without)))
