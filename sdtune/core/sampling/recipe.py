"""Recipe: all that a picture is made of, as its file tells it; the same recipe makes the same picture."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sdtune.choices.samplers import AnySampler
from sdtune.choices.spec import Spec
from sdtune.sample_config import Hires

FORMAT = 1


class FileUse(Spec):
    """A file that went into a picture."""

    file: str = Field(max_length=4096)
    """as it was found from the working folder, without what lies above that"""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class LoraUse(FileUse):
    """A LoRA, and how strongly it acted."""

    strength: float = 1.0
    blocks: dict[str, float] = {}


class ModelUse(Spec):
    """A base model."""

    name: str = Field(max_length=4096)
    family: str = Field(max_length=32)
    weights: str = Field(max_length=64)
    """fingerprint of its files"""


class Made(Spec):
    """On what it was drawn; other versions and devices may give other bytes."""

    sdtune: str = Field(max_length=64)
    torch: str = Field(max_length=64)
    diffusers: str = Field(max_length=64)
    device: str = Field(max_length=128)
    precision: str = Field(max_length=16)
    threads: int | None = None
    attention: str = Field("sdpa", max_length=16)


class Recipe(Spec):
    """What one picture is drawn from."""

    format: Literal[1] = 1
    prompt: str = Field(max_length=200_000)
    """with all choices made, without <lora:...>: what they named is among `loras`"""
    negative: str = Field("", max_length=200_000)
    syntax: Literal["a1111", "plain"] = "a1111"
    seed: int = Field(ge=0, lt=2**63)
    width: int = Field(ge=8, le=8192)
    height: int = Field(ge=8, le=8192)
    steps: int = Field(ge=1, le=1000)
    guidance: float = Field(ge=0, le=1000)
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    sampler: AnySampler
    clip_skip: int | None = None
    model: ModelUse
    loras: tuple[LoraUse, ...] = ()
    words: tuple[FileUse, ...] = ()
    """new words that were learned beside a LoRA"""
    init: FileUse | None = None
    strength: float | None = Field(None, ge=0, le=1)
    mask: FileUse | None = None
    feather: int = 0
    structure: float = Field(0.0, ge=0, le=1)
    hires: Hires = Hires()
    tiles: bool = False
    made: Made


def key_of(recipe: Recipe) -> str:
    """64 hex digits that two recipes share where they are for the same picture, wherever that is drawn."""
    raise NotImplementedError
