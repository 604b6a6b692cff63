"""The command `sdtune cache`: what the cache holds, and the end of what nobody uses."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from sdtune.config import CacheFolder
from sdtune.core.data.cache_folder import Kept, kept_in, usual_folder
from sdtune.core.reports import Cached, Telling
from sdtune.errors import ConfigError, OutputError


def cache(config: CacheFolder) -> Telling[None]:
    """Tells where the cache lies and what it holds; with `prune` it removes what was not used for so many days."""
    folder = config.folder or usual_folder()
    now = time.time()
    found: list[Kept] = []
    unused: list[Kept] = []
    stuck: dict[Kept, OSError] = {}
    try:
        for one in kept_in(folder):
            found.append(one)
            if one.unused(config.days, now):
                unused.append(one)
                if config.prune:
                    try:
                        one.remove()
                    except OSError as error:
                        stuck[one] = error
    except FileNotFoundError:
        pass
    except (NotADirectoryError, ValueError):  # no name that a folder can have
        raise ConfigError(f"{folder}: is no folder; give the folder of a cache with --folder") from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read ({error.strerror}); give another folder with --folder") from None
    removed = [one for one in unused if one not in stuck] if config.prune else []
    yield Cached(
        folder=folder,
        entries=_entries(found) - _entries(removed),
        priors=_priors(found) - _priors(removed),
        size=_size(found) - _size(removed),
        days=config.days,
        unused=len(unused) - len(removed),
        unused_size=_size(unused) - _size(removed),
        removed=len(removed) if config.prune else None,
        removed_size=_size(removed),
        try_next=_prune(config) if unused and not config.prune else None,
    )
    if stuck:
        one, why = next(iter(stuck.items()))
        more = f", and {len(stuck) - 1} more" if len(stuck) > 1 else ""
        raise OutputError(f"{one.path}{more}: cannot be removed ({why.strerror}); check the permissions of {folder}")


def _entries(kept: Sequence[Kept]) -> int:
    return sum(one.kind == "entry" for one in kept)


def _priors(kept: Sequence[Kept]) -> int:
    return sum(one.kind == "prior" for one in kept)


def _size(kept: Sequence[Kept]) -> int:
    return sum(one.size for one in kept)


def _prune(config: CacheFolder) -> str:
    """The command that removes what is told as unused."""
    words = ["sdtune", "cache", "--prune"]
    words += ["--days", str(config.days)] if "days" in config.model_fields_set else []
    words += ["--folder", _as_value(config.folder)] if config.folder else []
    return shlex.join(words)


def _as_value(folder: Path) -> str:
    """Never taken for a flag."""
    return f"./{folder}" if str(folder).startswith("-") else str(folder)
