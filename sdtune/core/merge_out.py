"""Where a merged model is put: a place that is asked about first, and a folder that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdtune.core import disk, unfinished
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


def clear_up(out: Path) -> str | None:
    """Removes what a killed merge into the same place has left; returns what was done, in words."""
    try:
        return unfinished.clear_up(out)
    except ValueError:  # a name that nothing can have
        return None
    except OSError as problem:
        raise _unwritable(out, problem) from None


@contextlib.contextmanager
def making(out: Path) -> Iterator[Path]:
    """Where to write a file or a folder, which takes the place of `out` when the block ends well, else it is gone."""
    try:
        with unfinished.making(out) as made:
            yield made
    except OSError as problem:
        raise _unwritable(out, problem) from None


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
