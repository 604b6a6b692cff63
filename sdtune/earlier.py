"""Earlier runs, as --resume names them."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

from sdtune.errors import ConfigError

NEWEST = "newest"
"""what --resume means without a value; a folder of that name is given as ./newest"""
RUNS = Path("runs")
RUN_SETTINGS = "run.toml"
CHECKPOINT = re.compile(r"step-\d{6,}")
"""name of a checkpoint's folder"""
FLAG = "resume (--resume)"


def newest_of_all() -> str:
    """The run under runs/ that something was written to last; raises ConfigError where there is none."""
    with contextlib.suppress(OSError):
        begun = [path.parent for path in RUNS.glob(f"*/{RUN_SETTINGS}")]
        if begun:
            return str(max(begun, key=lambda run: max(path.stat().st_mtime for path in (run, run / RUN_SETTINGS))))
    raise ConfigError(f"{FLAG}: there is no run in {RUNS} yet; give the data set, sdtune train-lora FOLDER --resume")


def settings_in(named: str) -> Path:
    """The run.toml of the run that a folder holds; raises ConfigError, which says what it is instead."""
    try:
        path = Path(named).expanduser()
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{FLAG}: {named} is no folder; give the folder of a run, as runs/cats-1")
        if not path.exists():
            raise ConfigError(f"{FLAG}: {named}: no such folder; sdtune runs lists the runs that there are")
        if not (path / RUN_SETTINGS).is_file():
            raise ConfigError(f"{FLAG}: {named} {_what_it_is(path)}")
    except (OSError, RuntimeError, ValueError) as error:  # a name that is none, a ~ of nobody
        told = getattr(error, "strerror", None) or error
        raise ConfigError(f"{FLAG}: {named}: cannot be read ({told}); give the folder of a run") from None
    return path / RUN_SETTINGS


def _what_it_is(path: Path) -> str:
    of_checkpoints = path.name == "checkpoints" or CHECKPOINT.fullmatch(path.name)
    for above in (path.parent, path.parent.parent) if of_checkpoints else ():
        if (above / RUN_SETTINGS).is_file():
            run = shlex.quote(str(above))
            return f"holds checkpoints, of which a run takes the newest itself; give the run, --resume {run}"
    if not any(entry.is_file() for entry in path.rglob("*")):
        return "was left before anything was learned in it; remove it, and begin a new run"
    return f"is no run, since it has no {RUN_SETTINGS}; give the folder of a run, as runs/cats-1"
