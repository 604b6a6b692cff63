"""A config of a model, as a file in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdtune.errors import ModelError


def config_of(file: Path) -> dict[str, Any]:
    """A config in JSON; anything else is a ModelError."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ModelError(f"{file}: not a config in JSON; download the model again")
    return found
