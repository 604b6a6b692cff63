"""The names of everything in a run's folder."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from sdtune.core.reports import Step
from sdtune.errors import LoraError, OutputError

RUNS = Path("runs")


@dataclass(frozen=True)
class RunFolder:
    """A folder with run.toml, metrics.jsonl, samples/, the sheet and the LoRA."""

    path: Path
    name: str
    """of the data set, and of the LoRA file"""

    @classmethod
    def planned(cls, data_folder: Path, out: Path | None) -> RunFolder:
        """The folder that a new run will have: `out`, or the next free runs/<data set>-<number>; nothing is made yet."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", data_folder.resolve().name).strip("-.") or "lora"
        if out is None:
            taken = [int(found[1]) for path in RUNS.glob(f"{name}-*") if (found := re.fullmatch(rf"{re.escape(name)}-(\d+)", path.name))]
            out = RUNS / f"{name}-{max(taken, default=0) + 1}"
        elif out.is_file():
            raise OutputError(f"{out}: is a file; give a folder for the run with --out")
        elif out.is_dir() and any(out.iterdir()):
            raise OutputError(f"{out}: already holds files; give a new folder with --out")
        _must_be_writable(out)
        return cls(out, name)

    @property
    def lora(self) -> Path:
        """The trained LoRA."""
        return self.path / f"{self.name}.safetensors"

    @property
    def settings(self) -> Path:
        """Every setting of the run, itself a preset."""
        return self.path / "run.toml"

    @property
    def metrics(self) -> Path:
        """One JSON object a step."""
        return self.path / "metrics.jsonl"

    @property
    def sheet(self) -> Path:
        """Samples before and after, side by side."""
        return self.path / "before-after.png"

    def sample(self, step: int, number: int) -> Path:
        """A sample picture after so many steps."""
        return self.path / "samples" / f"step-{step:06d}-{number}.png"

    def partial(self, step: int) -> Path:
        """The LoRA of a run that was stopped after so many steps."""
        return self.path / f"{self.name}-step-{step:06d}.safetensors"

    def create(self, settings: str) -> None:
        """Make the folder with its run.toml; from here on the run is visible."""
        try:
            (self.path / "samples").mkdir(parents=True, exist_ok=True)
            write_atomically(self.settings, lambda path: path.write_text(settings, encoding="utf-8"))
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); give another folder with --out") from None

    def record(self, step: Step) -> None:
        """Add a step to metrics.jsonl."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(step)) + "\n")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """The file is there whole or not at all: written beside its place, flushed to disk, then put there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    try:
        write(Path(temporary))
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def lora_in(path: Path) -> Path:
    """The LoRA file of a run folder."""
    found = sorted(path.glob("*.safetensors"), key=lambda file: ("-step-" in file.stem, file.name))
    if not found:
        raise LoraError(f"{path}: no .safetensors in this folder; give a run folder that has finished, or a LoRA file")
    return found[0]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _must_be_writable(path: Path) -> None:
    above = path
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot be written, since {above} does not allow it; give another folder with --out")
