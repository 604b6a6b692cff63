"""What the commands about LoRA files can be told: merge, and lora convert, resize, extract."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from sdtune.choices.blends import Blend, Concat
from sdtune.choices.spec import Spec, setting

Dtype = Literal["fp32", "fp16", "bf16"]
Form = Literal["auto", "kohya", "peft", "diffusers"]
"""names inside a LoRA file"""


class Merge(Spec):
    """Put LoRAs into a base model, or several LoRAs into one."""

    given: tuple[str, ...] = setting(
        ...,
        metavar="[BASE] LORA[:STRENGTH]...",
        place=0,
        min_length=1,
        example="sdtune merge sdxl runs/cats-1:0.8 --out cats-sdxl.safetensors",
    )
    """A base model and the LoRAs to put into it, or LoRAs alone to make one of. A LoRA is a file or a run folder, at
    1 where no strength is given; blocks have their own: cats.safetensors:0.8:text_encoder=0,mid_block=0.5."""
    out: Path = setting(..., "--out", "-o", place=1, example="sdtune merge sdxl cats.safetensors --out cats-sdxl/")
    """Where to write: of a model a folder in diffusers' layout, or a .safetensors in the original layout; of LoRAs a
    .safetensors."""
    dtype: Dtype | None = setting(None, "--dtype", place=2)
    """Numbers in what is written. Not given: as in the base; of LoRAs alone fp16."""
    method: Blend = setting(Concat(), "--method", place=3)
    """How LoRAs become one."""
    rank: int | None = setting(None, "--rank", place=4, ge=1, le=1024)
    """Rank of what comes out of LoRAs, by SVD, with the loss told. Not given: all that their sum has; of methods that
    leave no low rank, the largest given."""
    last: int | None = setting(None, "--last", metavar="K", place=5, ge=2, le=1000)
    """Of each run folder the average of its last K LoRAs, those in its checkpoints too (train with --save-every)."""
    form: Form = setting("auto", "--form", place=6)
    """Names inside a LoRA file. auto: what the most programs load, kohya's (sd3: diffusers')."""
    model: str | None = setting(None, "--model", "-m", place=7, min_length=1)
    """Base model of LoRAs whose change depends on it (DoRA, OFT), where none is given to put them into."""
    verify: bool | None = setting(None, "--verify", place=8)
    """Ask the merged model, and the base with its LoRAs beside it, for a prediction each, and tell the difference. Not
    given: where that takes little (a denoiser of under 1 GB). What rounding does to each layer is told in any case."""
    overwrite: bool = setting(False, "--overwrite", place=9)
    """Replace what is at --out."""
    device: Literal["auto", "cuda", "cpu"] = setting("auto", "--device", place=10)
    """Where to ask for predictions; auto: the CUDA card where there is one."""


class LoraConvert(Spec):
    """Write a LoRA in another form."""

    lora: Path = setting(
        ...,
        metavar="LORA",
        place=0,
        example="sdtune lora convert cats.safetensors --form peft --out cats-peft.safetensors",
    )
    """A LoRA file of any form, or a run folder."""
    out: Path = setting(
        ..., "--out", "-o", place=1, example="sdtune lora convert cats.safetensors --out new.safetensors"
    )
    """The file to write."""
    form: Form = setting("auto", "--form", place=2)
    """Names inside the file. auto: what the most programs load, kohya's (sd3: diffusers'); peft: PEFT's with its
    settings in the metadata; diffusers: those of diffusers' older scripts, alpha in the weights."""
    dtype: Dtype | None = setting(None, "--dtype", place=3)
    """Numbers in the file. Not given: as they are."""
    title: str | None = setting(None, "--title", place=4, min_length=1, max_length=200)
    """Title in the metadata."""
    trigger: str | None = setting(None, "--trigger", place=5, min_length=1, max_length=1000)
    """Trigger phrase in the metadata."""
    tags: str | None = setting(None, "--tags", place=6, min_length=1, max_length=1000)
    """Tags in the metadata, with commas between them."""
    thumbnail: Path | None = setting(None, "--thumbnail", place=7)
    """A picture for the metadata; it is made smaller."""
    overwrite: bool = setting(False, "--overwrite", place=8)
    """Replace the file at --out."""


class LoraResize(Spec):
    """Bring a LoRA to a lower rank by SVD."""

    lora: Path = setting(
        ..., metavar="LORA", place=0, example="sdtune lora resize cats.safetensors --rank 8 --out small.safetensors"
    )
    """A LoRA file of any network (LoHa, LoKr, ... become a plain LoRA), or a run folder."""
    out: Path = setting(
        ..., "--out", "-o", place=1, example="sdtune lora resize cats.safetensors --rank 8 --out small.safetensors"
    )
    """The file to write."""
    rank: int | None = setting(None, "--rank", place=2, ge=1, le=1024)
    """Rank of every module, or the most of one with --share or --ratio."""
    share: float | None = setting(None, "--share", place=3, gt=0, le=1)
    """Keep of each module as many singular values as have this share of its update's Frobenius norm. What is lost
    is the root of 1 - share^2 at the most: of 0.95 31 %, of 0.99 14 %, of 0.999 4 %. With --rank or --ratio, the
    stricter holds in each module."""
    ratio: float | None = setting(None, "--ratio", place=4, gt=1, le=1e6)
    """Keep of each module the singular values that are at most so many times smaller than its largest: 20."""
    filter_memorisation: float | None = setting(None, "--filter-memorisation", metavar="X", place=5, ge=0, le=1)
    """Damp what is likely to be copies of training images: directions of each module's update that lie least in those
    in which its base weights do most; 0: none, 1: the least one wholly. Needs --model."""
    model: str | None = setting(None, "--model", "-m", place=6, min_length=1)
    """Base model, for the filter and for networks whose change depends on it (DoRA, OFT)."""
    dtype: Dtype | None = setting(None, "--dtype", place=7)
    """Numbers in the file. Not given: as they are."""
    form: Form = setting("auto", "--form", place=8)
    """Names inside the file. auto: what the most programs load."""
    overwrite: bool = setting(False, "--overwrite", place=9)
    """Replace the file at --out."""


class LoraExtract(Spec):
    """Make a LoRA out of what sets two models apart."""

    base: str = setting(
        ...,
        metavar="BASE",
        place=0,
        min_length=1,
        example="sdtune lora extract sdxl tuned.safetensors --out tuned-lora.safetensors",
    )
    """The model that the LoRA will be for."""
    tuned: str = setting(
        ...,
        metavar="TUNED",
        place=1,
        min_length=1,
        example="sdtune lora extract sdxl tuned.safetensors --out tuned-lora.safetensors",
    )
    """The model that was made out of BASE; what sets it apart becomes the LoRA."""
    out: Path = setting(
        ..., "--out", "-o", place=2, example="sdtune lora extract sdxl tuned.safetensors --out tuned-lora.safetensors"
    )
    """The file to write."""
    rank: int = setting(64, "--rank", place=3, ge=1, le=1024)
    """Rank of every module at the most."""
    share: float | None = setting(None, "--share", place=4, gt=0, le=1)
    """Keep of each module as many singular values as have this share of its change's Frobenius norm. What is lost
    is the root of 1 - share^2 at the most: of 0.99 14 %, of 0.999 4 %."""
    least: float = Field(1e-5, ge=0, le=1)
    """Modules that changed by less than this share of their weights are left out: rounding alone."""
    parts: Literal["all", "denoiser", "text"] = setting("all", "--parts", place=5)
    """Of which parts of the model."""
    dtype: Dtype = setting("fp16", "--dtype", place=6)
    """Numbers in the file."""
    form: Form = setting("auto", "--form", place=7)
    """Names inside the file. auto: what the most programs load."""
    overwrite: bool = setting(False, "--overwrite", place=8)
    """Replace the file at --out."""
