"""What a run folder tells of how to draw with it: base, best LoRA, trigger, prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.core.applied import Applied


@dataclass(frozen=True)
class RunUse:
    """A run as something to draw with; nothing is known without one."""

    model: str | None = None
    clip_skip: int | None = None
    lora: str | None = None
    """of --run: as --lora has it, with the strength at which the run's own samples were drawn"""
    trigger: str | None = None
    prompts: tuple[str, ...] = ()
    """of --run: those of its samples; of a run of classes one for each; of an unconditional one the empty one"""
    checkpoints: tuple[tuple[str, Path], ...] = ()
    """of --run: every LoRA that it kept with the words that it is called by, ("step 100", path), the best last"""


def run_use(run: Path | None, loras: Sequence[Applied], asked: str | None) -> RunUse:
    """What --run tells, or else the first LoRA that lies in a run folder; `asked` is --model."""
    raise NotImplementedError


def with_trigger(text: str, trigger: str) -> str:
    """The prompt with the trigger in front, where it lacks it."""
    raise NotImplementedError
