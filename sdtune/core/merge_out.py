"""Where a merged model is put: a place that is asked about first, and a folder that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdtune.core import disk
from sdtune.core.header import refuse_pickle, what_is
from sdtune.core.out_file import SUFFIX, check_out
from sdtune.core.run_folder import must_be_writable
from sdtune.errors import DISK_FULL, FULL, OutputError, SdtuneError

INDEX = "model_index.json"
SPARE = 64 * 2**20
"""bytes for configs, and for what else is written meanwhile"""


def is_file(out: Path) -> bool:
    """Whether a single file is asked for, rather than a folder."""
    return out.suffix == SUFFIX


def check_place(out: Path, overwrite: bool, base: Path | None, loras: Sequence[Path]) -> None:
    """Stop where the model cannot or must not be written; `base` is the folder or file that it is made of."""
    refuse_pickle(out, OutputError)
    sources = [one for one in (base, *loras) if one is not None]
    if is_file(out):
        check_out(out, overwrite, *sources)
    else:
        _check_folder(out, overwrite)
    place = Path(os.path.realpath(out))
    for source in (Path(os.path.realpath(one)) for one in sources):
        if place == source or place in source.parents:
            raise OutputError(f"{out}: holds {source.name}, which the work reads; give another place with --out")
    if base is not None and base.is_dir() and Path(os.path.realpath(base)) in place.parents:
        raise OutputError(f"{out}: is inside of the base model; give another place with --out")


def check_room(out: Path, size: int) -> None:
    """Stop where so many bytes do not go on the disk; what is replaced stays until the new is whole."""
    folder = next(one for one in Path(os.path.abspath(out)).parents if one.is_dir())
    free = disk.free(folder)
    if free < size + SPARE:
        raise OutputError(
            f"{out}: takes {size / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left; free some, or choose "
            "another place with --out"
        )


@contextlib.contextmanager
def making_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, which takes its place when the block ends well, else it is gone."""
    place = Path(os.path.realpath(out))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name[:20]}-"))
    except OSError as problem:
        raise _unwritable(out, problem) from None
    try:
        yield made
        made.chmod(0o777 & ~_umask())
        _put(made, place)
    except OSError as problem:
        raise _unwritable(out, problem) from None
    except SdtuneError as problem:
        raise type(problem)(*(line.replace(str(made), str(out)) for line in problem.problems)) from None
    finally:
        if made.exists():
            disk.remove(made)


def _put(made: Path, place: Path) -> None:
    """The new folder in the place of the old one, which stays until then."""
    disk.sync_folder(made)
    if not place.exists():
        disk.move(made, place)
        return
    old = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name[:20]}-old-")) / place.name
    place.rename(old)
    try:
        disk.move(made, place)
    except BaseException:
        old.rename(place)
        old.parent.rmdir()
        raise
    disk.remove(old.parent)


def _check_folder(out: Path, overwrite: bool) -> None:
    kind = what_is(out, OutputError)
    if kind == "file":
        raise OutputError(f"{out}: is a file; give a folder, or a name that ends in {SUFFIX}, with --out")
    try:
        if kind == "folder" and any(out.iterdir()):
            if not overwrite:
                raise OutputError(f"{out}: already holds files; give a new folder with --out, or add --overwrite")
            if not (out / INDEX).is_file():
                raise OutputError(f"{out}: holds no model, so it is not replaced; give a new folder with --out")
        if kind is None and out.is_symlink():
            raise OutputError(f"{out}: a link that leads nowhere; give another place with --out")
        must_be_writable(Path(os.path.realpath(out)).parent)
    except (OSError, ValueError) as problem:  # a name that no folder can have
        raise _unwritable(out, problem) from None


def _unwritable(out: Path, problem: Exception) -> SdtuneError:
    if getattr(problem, "errno", None) in FULL:
        return SdtuneError(f"{out}: {DISK_FULL}")
    told = getattr(problem, "strerror", None) or problem
    return OutputError(f"{ascii(str(out))[1:-1]}: cannot be written ({told}); give another place with --out")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
