"""A file that is to be made: whether its place may be written, asked before the work begins."""

from __future__ import annotations

import os
from pathlib import Path

from sdtune.core.header import what_is
from sdtune.core.identity import Identity
from sdtune.core.run_folder import must_be_writable
from sdtune.errors import OutputError

SUFFIX = ".safetensors"


def check_out(out: Path, overwrite: bool, *sources: Path) -> None:
    """Stop where a .safetensors file cannot or must not be written; `sources` are files that the work reads."""
    kind = what_is(out, OutputError)
    if kind == "folder":
        raise OutputError(f"{out}: is a folder; give a file that ends in {SUFFIX} with --out")
    if out.suffix != SUFFIX:
        raise OutputError(f"{ascii(str(out))[1:-1]}: does not end in {SUFFIX}; give such a name with --out")
    if kind == "file" and not overwrite:
        same = any(source.exists() and out.samefile(source) for source in sources)
        what = "is what the work begins with" if same else "is there already"
        raise OutputError(f"{out}: {what}; give another place with --out, or replace it with --overwrite")
    try:
        if kind is None and out.is_symlink():
            raise OutputError(f"{out}: a link that leads nowhere; give another place with --out")
        must_be_writable(out.parent)
    except (OSError, ValueError) as problem:  # a name that no file can have
        told = getattr(problem, "strerror", None) or problem
        raise OutputError(
            f"{ascii(str(out))[1:-1]}: cannot be written ({told}); give another place with --out"
        ) from None


def check_models_stay(out: Path, *models: Identity | None) -> None:
    """Stop where a file of a base model that the work reads would be replaced, whatever was said of overwriting."""
    places = {Path(os.path.abspath(out)), Path(os.path.realpath(out))}
    for model in models:
        if model is None or model.source == "hub" or not out.exists():
            continue
        base = Path(os.path.realpath(model.location))
        if any(base == place or base in place.parents for place in places) or (base.is_file() and out.samefile(base)):
            raise OutputError(f"{out}: is of the model {model.name}, which stays; give another place with --out")
