"""The tree of what can go wrong that the user can put right.

SdtuneError                  exit 1   the work failed; what was saved stays
├── TrainingError            exit 1   the training itself broke down (a loss that is no number, out of memory)
│   └── PeersError                    another of the processes that train together is gone
├── Paused                   exit 75  the run is saved and can go on: its time is up, or the disk is full
├── InputError               exit 2   what was given cannot be used; nothing was written
│   ├── ConfigError                   a setting, flag or preset
│   ├── DataError                     a data folder, image or caption
│   ├── ModelError                    a base model: its name, folder or file
│   ├── LoraError                     a LoRA file
│   └── OutputError                   a place that cannot be written
└── Interrupted              exit 128 + it     a signal asked for the end

Every problem is one line: what is wrong, where, and what to do.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

FULL = (errno.ENOSPC, errno.EDQUOT)
"""what an OSError says of a full disk, or of a user's share of it"""
DISK_FULL = "the disk is full; free some space, or choose another place with --out, and run it again"


class SdtuneError(Exception):
    """Something the user can put right, told in one line or more; `exit_code` is what the command line leaves with."""

    exit_code = 1

    def __init__(self, *problems: str, resume: str | None = None) -> None:
        super().__init__(*problems)
        self.problems = problems
        """one line each"""
        self.resume = resume
        """the command that goes on where the work stopped"""

    def __str__(self) -> str:
        return "\n".join(self.problems)


class TrainingError(SdtuneError):
    """The training broke down."""


class PeersError(TrainingError):
    """Another of the processes that train together is gone."""


class Paused(SdtuneError):  # noqa: N818 (what is saved goes on later, so no error)
    """The run is saved and can go on later: its time is up, or the disk is full (EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75


class InputError(SdtuneError):
    """What was given cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """A setting, flag or preset is wrong."""


class DataError(InputError):
    """A data folder, an image or a caption cannot be used."""


class ModelError(InputError):
    """A base model cannot be found, told apart or loaded."""


class LoraError(InputError):
    """A LoRA file cannot be read, or does not fit the model."""


class OutputError(InputError):
    """A place cannot be written."""


class Interrupted(SdtuneError):  # noqa: N818 (asked for, so no error)
    """A signal asked for the end (128 + its number: 130 for Ctrl-C, 143 SIGTERM, 129 SIGHUP, 138 SIGUSR1)."""

    def __init__(self, message: str, signal: int, resume: str | None = None) -> None:
        super().__init__(message, resume=resume)
        self.exit_code = 128 + signal


class Stopped(KeyboardInterrupt):
    """A signal asks for the end in order: thrown into work at one of its reports.

    The work saves, and raises one of its own that says what is kept, and the command that goes on.
    """

    def __init__(self, told: str = "", resume: str | None = None) -> None:
        super().__init__(told)
        self.resume = resume


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one most likely means, or None where nothing is near."""
    from difflib import get_close_matches

    by_letters = {one.lstrip("-").lower(): one for one in known}  # dashes are no likeness
    match = get_close_matches(name[:100].lstrip("-").lower(), by_letters, n=1, cutoff=0.65)
    return by_letters[match[0]] if match else None


def cut(text: str, letters: int = 60) -> str:
    """As much of what was given as a message holds."""
    return text if len(text) <= letters else f"{text[:letters]}..."


def why(problem: Exception, what: str = "file") -> str:
    """Why a place cannot be read, as the system tells it, which is silent on names that nothing can have."""
    return getattr(problem, "strerror", None) or f"no name that a {what} can have"
