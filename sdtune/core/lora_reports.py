"""What the work on LoRA files and models tells: plain values, no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Merged:
    """A model with LoRAs in it."""

    out: Path
    layout: str
    """diffusers or original"""
    family: str
    dtype: str
    size: int
    """bytes"""
    changed: int
    """modules whose weights are others than the base's"""
    of: int
    """modules with weights"""
    layers: float
    """the largest difference between a merged layer's answer and that of the base's layer with its LoRAs beside it, by
    the size of the answer: what rounding to dtype leaves"""
    denoised: float | None
    """the same of the whole denoiser's prediction; None where it was not measured (--verify)"""
    seconds: float
    try_next: str


@dataclass(frozen=True)
class Truncated:
    """What a block lost when its rank was lowered."""

    block: str
    modules: int
    rank: str
    """of its modules: "16", or "3-16" """
    before: str
    """the same, before"""
    lost: float
    """Frobenius norm of what is gone, by that of the whole update: 0.02 is 2 %"""


@dataclass(frozen=True)
class Written:
    """A LoRA file that was made out of others."""

    out: Path
    made: str
    """in a few words: "2 LoRAs added", "rank 16 to 4", "extracted" """
    family: str | None
    """None where it may be sd1 or sd2"""
    form: str
    dtype: str
    modules: int
    rank: str
    """ "16", or "3-16" where modules have different ones; "-" where none has one"""
    size: int
    """bytes"""
    blocks: tuple[Truncated, ...] = ()
    """where something was lost, in the order in which blocks are run"""
    lost: float | None = None
    """of the whole, as in Truncated; None where nothing was left out"""
    measured: str = "the update"
    """what that is a share of: the update, the sum of the LoRAs, what TIES makes of them ..."""
    try_next: str = ""


@dataclass(frozen=True)
class BlockFacts:
    """A block of a LoRA: what its header says, and its weights where they were read."""

    block: str
    modules: int
    network: str
    """LoRA, DoRA, LoHa ... or several: "LoRA, difference" """
    rank: str
    """ "16", or "3-16"; "-" where the network has none"""
    alpha: str
    """ "8", or "1-8"; where none is given, what it is taken for"""
    norm: float | None = None
    """Frobenius norm of what it adds, all modules together"""
    largest: float | None = None
    """singular value of the update, of all its modules"""
    effective: float | None = None
    """rank that is in use: exp of the entropy of the squared singular values, mean over modules"""
    dead: tuple[str, ...] = ()
    """modules that add nothing"""
    exploding: tuple[str, ...] = ()
    """modules that add far more than the others do"""


@dataclass(frozen=True)
class Inspected:
    """What a LoRA file is."""

    path: Path
    size: int
    """bytes"""
    family: str | None
    title: str
    form: str
    """kohya, kohya (numbered blocks), peft, diffusers ..."""
    networks: tuple[str, ...]
    dtype: str
    modules: int
    parts: Mapping[str, int]
    """modules by part of the pipeline"""
    rank: str
    alpha: str
    trigger: str | None
    trained: Mapping[str, str]
    """settings of the training, as its metadata tells them: base model, steps, learning rate ..."""
    hashes: Mapping[str, str]
    """{"sshs_model_hash": "...", "AutoV2": "..."}: as stored, or computed where the weights were read"""
    hash_holds: bool | None
    """whether the hashes that it says of its weights are theirs; None where it says none, or they were not read"""
    embeddings: tuple[str, ...]
    """words that are bundled with it"""
    blocks: tuple[BlockFacts, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    """all of it, where asked for"""
    problems: tuple[str, ...] = ()
    """what a user should know: dead or exploding layers, a hash that does not hold, alpha that some programs ignore"""
    try_next: str = ""


@dataclass(frozen=True)
class Apart:
    """A block of two LoRAs beside each other."""

    block: str
    modules: int
    """that both have"""
    first: float
    """Frobenius norm of what the first one adds"""
    second: float
    difference: float
    """|first - second| by the larger of both"""
    cosine: float
    """of the two updates; 1: the same direction"""


@dataclass(frozen=True)
class Differing:
    """What sets two LoRAs apart."""

    first: Path
    second: Path
    equal: bool
    """whether they add the same to the same modules, but for what rounding to float32 makes of it"""
    difference: float
    """|first - second| by the larger of both, over all modules"""
    cosine: float
    blocks: tuple[Apart, ...]
    only_first: tuple[str, ...]
    """modules"""
    only_second: tuple[str, ...]
    metadata: Mapping[str, tuple[str | None, str | None]]
    """of what each says something else"""
