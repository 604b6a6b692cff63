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

    @property
    def model(self) -> str | None:
        """The short name of the model it is for, None for goals."""
        return "mini" if self.name == "mini" else self.tables.get("model")


def presets() -> Iterator[Preset]:
    """Every shipped preset: mini, the other models from the one that needs the smallest card, then the goals."""
    found = [read(name) for name in preset_names()]
    least = {model: min(one.card or 0 for one in found if one.model == model) for model in {one.model for one in found}}
    yield from sorted(
        found, key=lambda one: (one.model is None, least[one.model], one.model or "", one.card or 0, one.name)
    )


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
    return "\n".join(["| preset | for | batch | memory |", "|---|---|---|---|", *map(row, presets())])


def row(preset: Preset) -> str:
    """One preset as a row; a goal leaves the batch to the others."""
    batch = memory = ""
    if preset.model:
        batch = str(resolve(TrainLora, [preset.tables, {"data": {"folder": "x"}}]).batch_size)
    if preset.need is not None:
        memory = f"{preset.need:.1f} GB ({'measured' if preset.measured else 'estimated'})"
    return f"| `{preset.name}` | {preset.purpose.rstrip('.')} | {batch} | {memory} |"


if __name__ == "__main__":
    print(table())
