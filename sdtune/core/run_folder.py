"""The names of everything in a run's folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sdtune.core.reports import Step
from sdtune.errors import LoraError, OutputError

RUNS = Path("runs")
EMBEDDINGS = "embeddings"
NAME_BYTES = 100  # file systems take 255, and numbers and endings are added
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""names that Windows gives to devices, with any ending"""


@dataclass(frozen=True)
class RunFolder:
    """A folder with run.toml, metrics.jsonl, samples/, the sheet and the LoRA."""

    path: Path
    name: str
    """of the data set, and of the LoRA file"""
    numbered: bool = False
    """whether the path ends in the next free number, and so may move on where another run takes it first"""

    @classmethod
    def planned(cls, data_folder: Path, out: Path | None) -> RunFolder:
        """The folder a new run will have: `out`, or the next free runs/<data set>-<number>; nothing is made yet."""
        name = safe_name(os.path.basename(os.path.realpath(data_folder)))
        try:
            if out is None:
                run = cls(_next_free(name), name, numbered=True)
            else:
                _must_be_new(out)
                run = cls(out, name)
            must_be_writable(run.path)
        except OSError as error:
            raise _unwritable(out or RUNS, error) from None
        return run

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

    @property
    def inputs(self) -> Path:
        """Some images as the model sees them."""
        return self.path / "inputs.png"

    @property
    def embeddings(self) -> Path:
        """Folder of what a new word has learned."""
        return self.path / EMBEDDINGS

    def sample(self, step: int, number: int) -> Path:
        """A sample picture after so many steps."""
        return self.path / "samples" / f"step-{step:06d}-{number}.png"

    def partial(self, step: int) -> Path:
        """The LoRA of a run that was stopped after so many steps."""
        return self.path / f"{self.name}-step-{step:06d}.safetensors"

    def create(self, settings: str) -> RunFolder:
        """Make the folder with its run.toml and return it: with the next number, where another run was faster."""
        try:
            run = self._claim()
            try:
                write_atomically(run.settings, lambda path: path.write_text(settings, encoding="utf-8"))
            except BaseException:
                shutil.rmtree(run.path / "samples", ignore_errors=True)
                if run.numbered:
                    shutil.rmtree(run.path, ignore_errors=True)
                raise
        except OSError as error:
            raise _unwritable(self.path, error) from None
        return run

    def discard(self) -> None:
        """Take the folder away again, where nothing was learned."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            RUNS.rmdir()  # where it holds no other run

    def record(self, step: Step) -> None:
        """Add a step to metrics.jsonl."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(step)) + "\n")

    def _claim(self) -> RunFolder:
        """A folder is made by one run alone, and so says whose it is."""
        run = self
        while run.numbered:
            run.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                run.path.mkdir()
                break
            except FileExistsError:
                run = replace(run, path=_next_free(run.name))
        try:
            (run.path / "samples").mkdir(parents=True)
        except FileExistsError:
            raise OutputError(f"{run.path}: another run has just begun there; give a new folder with --out") from None
        return run


def safe_name(text: str) -> str:
    """A name for files on any system: letters, digits, - . and _, short, and none that Windows gives to devices."""
    name = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", text)).strip("-. ")
    name = name.encode("utf-8", "ignore")[:NAME_BYTES].decode("utf-8", "ignore").strip("-. ")
    if not name:
        return "lora"
    return f"lora-{name}" if RESERVED.fullmatch(name) else name


def write_atomically(path: Path, write: Callable[[Path], object], *, within: Path | None = None) -> None:
    """The file is there whole or not at all: written beside its place, flushed to disk, then put there.

    `within` is another folder of the same disk to write it in, where an end of the process may leave it unfinished.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=within or path.parent, prefix=f".{path.stem[:20]}-", suffix=path.suffix)
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
    """The LoRA file of a run folder: the finished one, else that of the latest step."""
    found = sorted(file for file in path.glob("*.safetensors") if not file.name.startswith("."))
    if not found:
        raise LoraError(f"{path}: no .safetensors in this folder; give a run folder that has finished, or a LoRA file")
    finished = [file for file in found if "-step-" not in file.stem]
    if len(finished) > 1:
        raise LoraError(f"{path}: holds several LoRAs; give one of {', '.join(file.name for file in finished)}")
    return finished[0] if finished else found[-1]


def embeddings_beside(lora: Path) -> list[Path]:
    """The files of new words that were learned with a LoRA in a run folder."""
    folder = lora.parent / EMBEDDINGS
    return sorted(folder.glob("*.safetensors")) if (lora.parent / "run.toml").is_file() else []


def _next_free(name: str) -> Path:
    pattern = re.compile(rf"{re.escape(name)}-(\d+)")
    names = [path.name for path in RUNS.iterdir()] if RUNS.is_dir() else []
    taken = [int(found[1]) for entry in names if (found := pattern.fullmatch(entry))]
    return RUNS / f"{name}-{max(taken, default=0) + 1}"


def _must_be_new(out: Path) -> None:
    if out.is_symlink() and not out.exists():
        raise OutputError(f"{out}: a link that leads nowhere; give a folder for the run with --out")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; give a folder for the run with --out")
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"{out}: already holds files; give a new folder with --out")


def must_be_writable(path: Path) -> None:
    """Stop where a folder can neither be made nor written in; nothing is made."""
    above = path
    try:
        while not above.exists():
            above = above.parent
    except OSError as error:  # a name too long, or a folder that may not be looked into
        raise _unwritable(path, error) from None
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot be written, since {above} does not allow it; give another folder with --out")


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror}); give another folder with --out")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
