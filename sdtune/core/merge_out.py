"""Where a merged model is put: a place that is asked about first, and a folder that is there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from sdtune.core import disk, unfinished
from sdtune.core.header import what_is
from sdtune.core.out_file import SUFFIX, check_out
from sdtune.core.run_folder import must_be_writable
from sdtune.errors import DISK_FULL, FULL, OutputError, SdtuneError

INDEX = "model_index.json"
CONFIG = "config.json"
SPARE = 64 * 2**20
"""bytes for configs, and for what else is written meanwhile"""
_LICENCES = ("LICENSE", "LICENCE", "NOTICE")
"""how the names of files begin that go with a model wherever it goes"""
_CARDS = ("readme.md", ".gitattributes")
"""beside the index, in small letters"""
_OF_SYSTEMS = (".ds_store", "thumbs.db", "desktop.ini")
"""what file managers put anywhere, in small letters"""
_PARTS = re.compile(
    r"unet|transformer|vae|(text_encoder|tokenizer)(_[23])?|scheduler|safety_checker|feature_extractor|image_encoder",
    re.IGNORECASE,
)
"""folders of a model, whether its index names them or not"""
_WEIGHTS = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)[\w.-]*\.(safetensors|bin)", re.IGNORECASE)
OF_FILES = re.compile(r"\.[a-z]+", re.IGNORECASE)
"""endings that files have, .ckpt and .md; .5 and .v2 are versions in the name of a folder"""


def is_licence(name: str) -> bool:
    """Whether a file of that name goes with a model wherever it goes."""
    return name.upper().startswith(_LICENCES)


def goes_with_part(name: str) -> bool:
    """Whether a merged model's part has the file beside its weights; what is copied may be replaced, and nothing else.

    Texts are those that tokenizers read: any other may be somebody's notes.
    """
    return name.lower().endswith((".json", ".model")) or name.lower() in ("merges.txt", "vocab.txt") or is_licence(name)


def is_file(out: Path) -> bool:
    """Whether a single file is asked for, rather than a folder."""
    return out.suffix == SUFFIX


def check_place(out: Path, overwrite: bool, base: Path | None, loras: Sequence[Path]) -> None:
    """Stop where the model cannot or must not be written; `base` is the folder or file that it is made of."""
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
    _must_be_replaceable(out)


def check_room(out: Path, size: int) -> None:
    """Stop where so many bytes do not go on the disk; what is replaced stays until the new is whole."""
    folder = next(one for one in Path(os.path.abspath(out)).parents if one.is_dir())
    free = disk.free(folder)
    if free < size + SPARE:
        raise OutputError(
            f"{out}: takes {in_bytes(size + SPARE)}, and {folder} has {in_bytes(free)} left; free some, or choose "
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
            _must_be_replaceable(out)  # as minutes have passed
    except OSError as problem:
        raise _unwritable(out, problem) from None


def in_bytes(size: int) -> str:
    """1.2 GB, or 34 MB"""
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"


def _check_folder(out: Path, overwrite: bool) -> None:
    kind = what_is(out, OutputError)
    if out.name.lower() == SUFFIX:
        raise OutputError(f"{out}: has no name before {SUFFIX}; give one with --out")
    if kind is None and OF_FILES.fullmatch(out.suffix):
        todo = f"give a name that ends in {SUFFIX} for a file, or without {out.suffix} for a folder"
        raise OutputError(f"{out}: a model is a {SUFFIX} file or a folder, and this reads like neither; {todo}")
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


def _must_be_replaceable(out: Path) -> None:
    """Stop at a folder that holds anything else than a model, whose files would go with it."""
    others = list(_not_of_a_model(out))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        todo = "give a new folder with --out, or put that elsewhere"
        raise OutputError(
            f"{out}: holds {others[0][:80]!a}{more}, which is not a model's, so it stays as it is; {todo}"
        )


def _not_of_a_model(folder: Path) -> Iterator[str]:
    """What lies in a folder, below it, that no model's folder has; links are no folders."""
    parts = _named_parts(folder / INDEX)
    for place, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            path = Path(place, name)
            below = path.relative_to(folder)
            if path.is_dir() and not path.is_symlink():
                fits = len(below.parts) == 1 and _is_part(name, parts)
            elif len(below.parts) == 1:
                fits = name.lower() in (INDEX, *_CARDS, *_OF_SYSTEMS) or is_licence(name)
            else:
                fits = len(below.parts) == 2 and _is_part(below.parts[0], parts) and _is_of_part(name)
            if not fits:
                yield below.as_posix()


def _named_parts(index: Path) -> frozenset[str]:
    """The folders of which a model's own index tells; none where it cannot be read."""
    try:
        told = json.loads(index.read_bytes())
    except (OSError, ValueError, RecursionError):
        return frozenset()
    parts = told.items() if isinstance(told, dict) else ()
    return frozenset(name for name, kind in parts if isinstance(kind, list))


def _is_part(name: str, named: Collection[str]) -> bool:
    return name in named or _PARTS.fullmatch(name) is not None


def _is_of_part(name: str) -> bool:
    return goes_with_part(name) or name.lower() in _OF_SYSTEMS or _WEIGHTS.fullmatch(name) is not None


def _unwritable(out: Path, problem: Exception) -> SdtuneError:
    if getattr(problem, "errno", None) in FULL:
        return SdtuneError(f"{out}: {DISK_FULL}")
    told = getattr(problem, "strerror", None) or problem
    return OutputError(f"{ascii(str(out))[1:-1]}: cannot be written ({told}); give another place with --out")
