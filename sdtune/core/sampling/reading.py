"""Prompts as the denoiser is told of them: each text encoded once, and which of them holds at which step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sdtune.core.data.cache import Store
from sdtune.core.data.conditioning import Conditioning
from sdtune.core.families import Family
from sdtune.core.reports import Telling
from sdtune.core.sampling.grammar import Schedule

Guide = tuple[tuple[int, Conditioning], ...]
"""((last step for which it holds, from 1; what the denoiser is told), ...)"""


@dataclass(frozen=True)
class Script:
    """The texts of a picture by step, and the chunks of 75 tokens in which all of them are read.

    These depend on the picture alone, so that it is the same whatever is drawn beside it.
    """

    prompt: Schedule
    negative: Schedule
    chunks: int


@dataclass(frozen=True)
class Scripted:
    """What the text encoders made of every text of some scripts."""

    keys: Mapping[tuple[str, int], str]
    """{(text, chunks): where it lies in the store}"""
    store: Store

    def guides(self, script: Script) -> tuple[Guide, Guide]:
        """(prompt, negative) as the denoiser is told."""
        raise NotImplementedError


def script_of(
    prompt: str,
    negative: str,
    steps: int,
    family: Family,
    pipe: Any,
    *,
    syntax: str,
    clip_skip: int | None,
    where: str,
) -> Script:
    """A prompt without <lora:...> and its negative; ConfigError or DataError where one is too long or does not parse."""
    raise NotImplementedError


def encode(
    scripts: Sequence[Script],
    family: Family,
    pipe: Any,
    device: torch.device,
    *,
    syntax: str,
    clip_skip: int | None,
    store: Store,
    acting: str,
) -> Telling[Scripted]:
    """Encodes every text once, telling how many; `acting` stands for the LoRAs that act on the text encoders now."""
    raise NotImplementedError
