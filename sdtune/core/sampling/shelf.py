"""The shelf: names of pictures, and which of them are there already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sdtune.core.sampling.recipe import Recipe
from sdtune.sample_config import Sample


class Shelf:
    """The folder that pictures go to, or the one file."""

    def __init__(self, config: Sample, pictures: int) -> None:
        """Looks at what is there; ConfigError or OutputError where nothing can be written there."""
        self.config = config

    def there(self, recipe: Recipe) -> Path | None:
        """The file of this very picture, where an earlier run has drawn it; None with --overwrite."""
        raise NotImplementedError

    def place(self, recipe: Recipe, told: Mapping[str, object]) -> Path:
        """The name for a picture by the template; OutputError where another is there and may not be replaced.

        `told` are the words of the template that the recipe lacks: line, strength, lora.
        """
        raise NotImplementedError

    def further(self, kind: str, suffix: str) -> Path:
        """The name for a sheet, a page or an animation: grid-00005.png."""
        raise NotImplementedError
