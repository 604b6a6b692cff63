"""The tree of what can go wrong that the user can put right.

SdtuneError                  exit 1   the work failed; what was saved stays
├── TrainingError            exit 1   the training itself broke down (a loss that is no number, out of memory)
├── InputError               exit 2   what was given cannot be used; nothing was written
│   ├── ConfigError                   a setting, flag or preset
│   ├── DataError                     a data folder, image or caption
│   ├── ModelError                    a base model: its name, folder or file
│   ├── LoraError                     a LoRA file
│   └── OutputError                   a place that cannot be written
└── Interrupted              exit 130 or 143   a signal asked for the end

Every message is one line: what is wrong, where, and what to do.
"""


class SdtuneError(Exception):
    """Something the user can put right; `exit_code` is what the command line leaves with."""

    exit_code = 1


class TrainingError(SdtuneError):
    """The training broke down."""


class InputError(SdtuneError):
    """What was given cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """A setting, flag or preset is wrong; several problems stand on a line each."""


class DataError(InputError):
    """A data folder, an image or a caption cannot be used."""


class ModelError(InputError):
    """A base model cannot be found, told apart or loaded."""


class LoraError(InputError):
    """A LoRA file cannot be read, or does not fit the model."""


class OutputError(InputError):
    """A place cannot be written."""


class Interrupted(SdtuneError):
    """A signal asked for the end (128 + its number: 130 for Ctrl-C, 143 for SIGTERM)."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal
