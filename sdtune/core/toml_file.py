"""Settings as TOML that may be a stranger's: a file is read with limits."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

MAX_BYTES = 2**20
DEEPEST = 32
"""dots of a key: tomllib's memory grows with the square of them"""
_TEXT = re.compile(
    r"""
      \"{3}(?:\\.|[^\\])*?\"{3}
    | '{3}.*?'{3}
    | "(?:\\.|[^"\\\n])*"
    | '[^'\n]*'
    | [#][^\n]*
    """,
    re.VERBOSE | re.DOTALL,
)
_KEYS = re.compile(r"[\w\-.\t ]+")


def toml_in(path: Path) -> dict[str, Any]:
    """What a file of settings says; ValueError where it is none, OSError where it cannot be read."""
    with path.open("rb") as file:
        return toml_of(file.read(MAX_BYTES + 1))


def toml_of(data: bytes) -> dict[str, Any]:
    """What the bytes of a file of settings say; ValueError where they are none."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"over {MAX_BYTES >> 20} MB")
    text = data.decode("utf-8").replace("\r\n", "\n")
    if any(keys.count(".") > DEEPEST for keys in _KEYS.findall(_TEXT.sub("_", text))):
        raise ValueError(f"over {DEEPEST} tables in one another")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("too many brackets in one another") from None
