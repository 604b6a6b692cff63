"""The README's table of presets, made from the files: python -m tools.presets_table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sdtune.config import TrainLora, preset_names, presets_folder, read_preset, resolve

MEMORY = re.compile(r"^# (?P<how>Estimated, not measured|Measured): (?P<need>[\d.]+) GB of (?P<card>\d+) GB\b", re.M)
CARD = re.compile(r"-(\d+)gb$")


@dataclass(frozen=True)
class Preset:
    """A shipped preset with what the comment at its head says."""

    name: str
    purpose: str
    """first line of the head"""
    need: float | None
    """GB on the card, None for goals"""
    card: int | None
    """GB that the card has"""
    measured: bool
    tables: dict[str, Any]


def presets() -> Iterator[Preset]:
    """Every shipped preset: mini first, then those for cards, then the goals."""
    found = [read(name) for name in preset_names()]
    yield from sorted(found, key=lambda one: (one.name != "mini", one.card is None, one.card or 0, one.name))


def read(name: str) -> Preset:
    """A shipped preset by name."""
    text = (presets_folder() / f"{name}.toml").read_text(encoding="utf-8")
    head = text.partition("\n")[0]
    told = MEMORY.search(text)
    return Preset(
        name,
        head.removeprefix("#").strip(),
        float(told["need"]) if told else None,
        int(told["card"]) if told else None,
        bool(told and told["how"] == "Measured"),
        read_preset(name),
    )


def table() -> str:
    """Markdown, a row a preset."""
    rows = ["| preset | for | model | pixels | batch | memory |", "|---|---|---|---|---|---|", *map(row, presets())]
    return "\n".join(rows)


def row(preset: Preset) -> str:
    """One preset as a row; a goal leaves model, pixels and batch to the others."""
    model = str(preset.tables.get("model", "mini" if preset.name == "mini" else "any"))
    pixels = batch = "as given"
    if model != "any":
        config = resolve(TrainLora, [preset.tables, {"data": {"folder": "x"}}])
        pixels, batch = str(config.data.resolution or _usual_resolution(config)), str(config.batch_size)
    memory = ""
    if preset.need is not None:
        memory = f"{preset.need:g} of {preset.card} GB ({'measured' if preset.measured else 'estimated'})"
    return f"| `{preset.name}` | {preset.purpose.rstrip('.')} | {model} | {pixels} | {batch} | {memory} |"


def _usual_resolution(config: TrainLora) -> int:
    from sdtune.core.families import family_named
    from sdtune.core.model import identify

    return 128 if config.model == "mini" else family_named(identify(config.model).family).resolution


if __name__ == "__main__":
    print(table())
