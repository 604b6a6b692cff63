"""The names of everything in a run's folder."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sdtune.core.reports import Step, Validated
from sdtune.core.toml_file import toml_in
from sdtune.earlier import CHECKPOINT, RUN_SETTINGS, RUNS
from sdtune.errors import FULL, OutputError, Paused

EMBEDDINGS = "embeddings"
NAME_BYTES = 100  # file systems take 255, and numbers and endings are added
UNFINISHED = re.compile(r"(.+)-step-(\d+)")
BEST = "-best"
OF_PEFT = "-peft"
FIRST_SAMPLE = re.compile(r"step-(\d+)-1\.png")
QUARANTINE = "quarantine"
"""folder of broken checkpoints"""
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""names that Windows gives to devices, with any ending"""


@dataclass(frozen=True)
class RunFolder:
    """A folder with run.toml, data.json, metrics.jsonl, validation.jsonl, checkpoints/, samples/, sheets and LoRAs."""

    path: Path
    name: str
    """of the data set, and of the LoRA file"""
    numbered: bool = False
    """whether the path ends in the next free number, and so may move on where another run takes it first"""

    @classmethod
    def planned(cls, data_folder: Path, out: Path | None) -> RunFolder:
        """The folder a new run will have: `out`, or the next free runs/<data set>-<number>; nothing is made yet."""
        name = name_for(data_folder)
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

    @classmethod
    def at(cls, path: Path) -> RunFolder:
        """A run that is there: its name stands in data.json, else it follows from what it was trained on."""
        told = _told(path / "data.json").get("name")
        if not isinstance(told, str) or safe_name(told) != told:
            data = _told(path / RUN_SETTINGS).get("data")
            folder = data.get("folder") if isinstance(data, dict) else None
            if isinstance(folder, str) and "\0" not in folder:
                told = name_for(Path(folder).expanduser())
            else:
                told = safe_name(re.sub(r"-\d+$", "", path.resolve().name))
        return cls(path, told)

    @property
    def lora(self) -> Path:
        """The trained LoRA, after the last step."""
        return self.path / f"{self.name}.safetensors"

    @property
    def lora_of_peft(self) -> Path:
        """The trained LoRA once more, in PEFT's form, where both are asked for."""
        return self.path / f"{self.name}{OF_PEFT}.safetensors"

    @property
    def best(self) -> Path:
        """The LoRA of the least held-out loss."""
        return self.path / f"{self.name}{BEST}.safetensors"

    @property
    def data(self) -> Path:
        """Every image that is trained or held out, and what is said of it."""
        return self.path / "data.json"

    @property
    def validations(self) -> Path:
        """One JSON object a validation."""
        return self.path / "validation.jsonl"

    @property
    def plot(self) -> Path:
        """The loss and the held-out loss over the steps."""
        return self.path / "progress.png"

    @property
    def samples_sheet(self) -> Path:
        """Samples from before the first step to the last, a column each."""
        return self.path / "samples.png"

    @property
    def checkpoints(self) -> Path:
        """Folder of what the run is resumed from."""
        return self.path / "checkpoints"

    @property
    def ended(self) -> Path:
        """How a finished run ended; not there before."""
        return self.path / "ended.json"

    @property
    def has_learned(self) -> bool:
        """Whether there is something to go on from."""
        try:
            return any(CHECKPOINT.fullmatch(entry.name) for entry in self.checkpoints.iterdir())
        except OSError:
            return False

    @property
    def settings(self) -> Path:
        """Every setting of the run, itself a preset."""
        return self.path / RUN_SETTINGS

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

    def last_sample(self, step: int) -> Path | None:
        """The first prompt's newest sample of the steps up to this one, which the LoRA has drawn."""
        found = {
            int(told[1]): path
            for path in self.sample(0, 1).parent.glob("step-*-1.png")
            if (told := FIRST_SAMPLE.fullmatch(path.name))
        }
        newest = max((one for one in found if 0 < one <= step), default=None)
        return found[newest] if newest else None

    def partial(self, step: int) -> Path:
        """The LoRA after so many steps, of a run that was stopped or around its best."""
        return self.path / f"{self.name}-step-{step:06d}.safetensors"

    def start_samples_anew(self, step: int) -> None:
        """Those until then, which show other prompts, go to a folder of their own."""
        (self.path / "samples").rename(self.path / f"samples-until-{step:06d}")
        (self.path / "samples").mkdir()
        self.samples_sheet.unlink(missing_ok=True)
        self.sheet.unlink(missing_ok=True)

    def keep_partials(self, steps: Collection[int]) -> None:
        """Of the LoRAs after some steps, those after these alone."""
        kept = {self.partial(step) for step in steps}
        for path in self.path.glob(f"{glob.escape(self.name)}-step-*.safetensors"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def create(self, settings: str, data: str | None = None) -> RunFolder:
        """Make the folder with data.json and run.toml and return it: with the next number, where another was faster.

        run.toml comes last, so that a folder with one is that of a run.
        """
        try:
            run = self._claim()
            try:
                if data is not None:
                    write_atomically(run.data, lambda path: path.write_text(data, encoding="utf-8"))
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
        if self._keeps:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            RUNS.rmdir()  # where it holds no other run

    def clear(self) -> bool:
        """Empty the folder of what a run that was killed before it learned anything has left, and of that alone.

        Returns whether that is what it holds.
        """
        if self._keeps:
            return False
        made = (self.settings, self.data, self.metrics, self.validations, self.plot, self.samples_sheet, self.sheet)
        samples = (self.path / "samples").glob("step-??????-*.png")
        for path in (*made, self.inputs, *self.path.glob(".*-????????.*"), *samples):
            if path.is_file():
                path.unlink()
        for folder in (self.path / "samples", self.checkpoints, self.embeddings):
            with contextlib.suppress(OSError):
                folder.rmdir()  # where it holds nothing else
        return True

    def describe(self, settings: str, data: str) -> None:
        """Put down what a run that is resumed goes on with."""
        write_atomically(self.data, lambda path: path.write_text(data, encoding="utf-8"))
        write_atomically(self.settings, lambda path: path.write_text(settings, encoding="utf-8"))
        self.ended.unlink(missing_ok=True)

    def read_ended(self) -> dict[str, Any]:
        """How it ended; nothing where it has not, or nobody can read that."""
        return _told(self.ended)

    def finish(self, ended: dict[str, Any]) -> None:
        """Put down how the run ended; the last thing that is written."""
        text = json.dumps(_finite(ended), indent=1, allow_nan=False)
        write_atomically(self.ended, lambda path: path.write_text(text, encoding="utf-8"))

    @property
    def _keeps(self) -> bool:
        return self.has_learned or any(self.path.glob("*.safetensors")) or (self.checkpoints / QUARANTINE).is_dir()

    def record(self, report: Step | Validated) -> None:
        """Add a step to metrics.jsonl, or a validation to validation.jsonl."""
        path = self.metrics if isinstance(report, Step) else self.validations
        line = json.dumps(_finite(asdict(report)), allow_nan=False) + "\n"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            if error.errno in FULL:
                raise Paused(f"{path}: the disk is full; free some space") from None
            raise OutputError(f"{path}: cannot be written ({error.strerror}); check its permissions") from None

    def rewind(self, step: int) -> None:
        """Keep the lines of the first `step` steps alone; of its last line, a killed process may leave half."""
        for path, name in ((self.metrics, "number"), (self.validations, "step")):
            if not path.exists():
                continue
            if not path.is_file():
                raise OutputError(f"{path}: is no file; remove it, and go on")
            old = path.read_bytes()
            kept = b"".join(line for line in old.splitlines(keepends=True) if _up_to(line, name, step))
            if kept != old:
                write_atomically(path, lambda place, kept=kept: place.write_bytes(kept))  # type: ignore[misc]

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


def name_for(data_folder: Path) -> str:
    """The name of runs on a data set."""
    return safe_name(os.path.basename(os.path.realpath(data_folder)))


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
    with beside(path, within=within) as temporary:
        write(temporary)


@contextlib.contextmanager
def beside(path: Path, *, within: Path | None = None, overwrite: bool = True) -> Iterator[Path]:
    """An empty file beside its place, flushed to disk and put there when the block ends well; else it is gone.

    FileExistsError where another is there by then, and may not be replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=within or path.parent, prefix=f".{path.stem[:20]}-", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        if overwrite or not _is_put_by_link(name, path):
            os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _is_put_by_link(name: str, path: Path) -> bool:
    """Put a file under a name that no other has, in one step; a disk without links gets an empty one to replace."""
    try:
        os.link(name, path)
    except FileExistsError:
        raise
    except OSError:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return False
    os.unlink(name)
    return True


def embeddings_beside(lora: Path) -> list[Path]:
    """The files of new words that were learned with a LoRA in a run folder."""
    folder = lora.parent / EMBEDDINGS
    return sorted(folder.glob("*.safetensors")) if (lora.parent / RUN_SETTINGS).is_file() else []


def newest(name: str) -> Path | None:
    """The run of that name that began last, under runs/; a folder without settings is none yet."""
    begun = {
        number: RUNS / entry for number, entry in _numbered(name).items() if (RUNS / entry / RUN_SETTINGS).is_file()
    }
    return begun[max(begun)] if begun else None


def _next_free(name: str) -> Path:
    return RUNS / f"{name}-{max(_numbered(name), default=0) + 1}"


def _numbered(name: str) -> dict[int, str]:
    """{3: "cats-3"} of all that lies under runs/."""
    pattern = re.compile(rf"{re.escape(name)}-(\d+)")
    names = [path.name for path in RUNS.iterdir()] if RUNS.is_dir() else []
    return {int(found[1]): entry for entry in names if (found := pattern.fullmatch(entry))}


def _told(path: Path) -> dict[str, Any]:
    """What a small file of JSON or TOML says, {} where that cannot be read."""
    try:
        if not path.is_file():  # a pipe would never end
            return {}
        told = toml_in(path) if path.suffix == ".toml" else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _finite(value: Any) -> Any:
    """The same with null for what is no number, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _up_to(line: bytes, name: str, step: int) -> bool:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return False
    number = told.get(name) if isinstance(told, dict) else None
    return line.endswith(b"\n") and isinstance(number, int) and number <= step


def _must_be_new(out: Path) -> None:
    if out.is_symlink() and not out.exists():
        raise OutputError(f"{out}: a link that leads nowhere; give a folder for the run with --out")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; give a folder for the run with --out")
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"{out}: already holds files; give a new folder with --out")


def must_be_writable(path: Path) -> None:
    """Stop where a folder can neither be made nor written in, as is tried with a name that is gone again."""
    above = path
    try:
        while not above.exists():
            above = above.parent
    except OSError as error:  # a name too long, or a folder that may not be looked into
        raise _unwritable(path, error) from None
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot be written, since {above} does not allow it; give another folder with --out")
    try:
        with tempfile.TemporaryDirectory(dir=above, prefix=".sdtune-"):  # /proc allows it, and then does not
            pass
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror}); give another folder with --out")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
