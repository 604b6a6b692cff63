"""What `sample` can be told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from sdtune.choices.samplers import AnySampler, DPMpp2M
from sdtune.choices.spec import Spec, setting
from sdtune.tables import Machine

PictureFormat = Literal["png", "jpeg", "webp"]
STDIN = Path("-")
LORA_STRENGTH = "--lora cats.safetensors:0.8 or --run runs/cats-1:0.8"
LARGEST = 8192  # pixels a side
UNIT = 8
"""pixels of which sides of pictures are multiples with every model; with some of more"""
_PROMPTS_ON_AXIS = re.compile(r"(?:^|\s[x×]\s)\s*prompt\s*=", re.IGNORECASE)


class Hires(Spec):
    """A second pass over the picture, scaled up: large pictures without doubled subjects."""

    scale: float = setting(1.0, "--hires", metavar="SCALE", place=19, ge=1, le=8)
    """How much larger the sides become in a second pass; 1: no second pass."""
    strength: float = Field(0.5, ge=0, le=1)
    """Share of its steps that are taken: less keeps more of the first pass."""
    steps: int | None = Field(None, ge=1, le=1000)
    """Sampling steps of the second pass. Not given: those of the first."""


class Sample(Spec):
    """Draw pictures from prompts."""

    prompt: tuple[str, ...] = setting((), "--prompt", place=0)
    """What to draw, as A1111 reads it, with kohya's flags behind it (--n --w --h --d --l --s); can be given several
    times. Empty: a picture of nothing in particular."""
    prompts: Path | None = setting(None, "--prompts", metavar="FILE", place=1)
    """Text file with a prompt a line; - reads standard input."""
    run: Path | None = setting(None, "--run", metavar="RUN[:STRENGTH]", place=2)
    """Run folder: its best LoRA, base model, trigger and, where no prompt is given, its own prompts. Behind a colon the
    strength of its LoRA. Not given: that of the run's own samples."""
    lora: tuple[str, ...] = setting((), "--lora", metavar="FILE[:STRENGTH]", place=3)
    """LoRA file or run folder, with a strength behind a colon where it is not 1, and strengths of blocks
    (cats.safetensors:0.8:mid_block=0.5); can be given several times."""
    model: str | None = setting(None, "--model", "-m", place=4, min_length=1)
    """Base model. Not given: that of the run whose LoRA is used, else mini."""
    count: int = setting(1, "--count", "-n", place=5, ge=1, le=10**6)
    """Pictures a prompt."""
    out: Path = setting(Path("samples"), "--out", "-o", place=6)
    """Folder for the pictures, or the name of the only one (.png, .jpg, .webp). With --compare or --grid the name of
    the sheet (.png, .jpg, .webp), with --animate of the film (.webp, .gif): the pictures then lie in a folder beside
    it."""
    seed: int = setting(0, "--seed", place=7, ge=0, lt=2**63)
    """Seed of the first picture of each prompt; the next has the next number."""
    negative: str = setting("", "--negative", place=8)
    """What the picture should not show."""
    steps: int = setting(25, "--steps", place=9, ge=1, le=1000)
    """Sampling steps."""
    guidance: float = setting(5.0, "--guidance", place=10, ge=0, le=1000)
    """How strongly the prompt pulls; 1: guidance off. Not given, mini has 2."""
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    """How far the guided prediction is brought back to its own spread, against pictures that are too garish (Lin et al.
    2023, arXiv:2305.08891, sec. 3.4); 0.7 is usual for models that predict v."""
    sampler: AnySampler = setting(DPMpp2M(), "--sampler", place=11)
    """Path from noise to an image."""
    width: int | None = setting(None, "--width", place=12, ge=8, le=LARGEST, multiple_of=UNIT)
    """Pixels. Not given: that of --init, scaled down where it is far larger than the model was made for, or else
    what that was made for."""
    height: int | None = setting(None, "--height", place=13, ge=8, le=LARGEST, multiple_of=UNIT)
    """The same, up and down."""
    init: Path | None = setting(None, "--init", metavar="IMAGE", place=15)
    """Picture to begin with, in place of noise alone."""
    strength: float | None = setting(None, "--strength", place=16, ge=0, le=1)
    """How much of --init is drawn anew: 0 returns it as the VAE has it, 1 keeps nothing of it. Not given: 0.75, and 1
    inside a --mask."""
    mask: Path | None = setting(None, "--mask", metavar="IMAGE", place=17)
    """Picture of the size of --init: what is white is drawn anew, what is black stays to the byte (of the scaled
    picture, where it is scaled, which is told)."""
    feather: int | None = Field(None, ge=0, le=1024)
    """Pixels, inside the edge of the mask, over which the old picture goes over into the new one. Not given: a 64th of
    the shorter side."""
    structure: float = setting(0.0, "--structure", place=18, ge=0, le=1)
    """Share of the steps in which the coarse shapes are held to those of --init: a style LoRA then changes the look and
    keeps what is shown."""
    hires: Hires = Hires()
    compare: bool = setting(False, "--compare", place=20)
    """Draw each picture without and with the LoRAs, from the same noise, and put them side by side on a sheet."""
    grid: tuple[str, ...] = setting((), "--grid", metavar="SETTING=VALUES", place=21)
    """Draw all combinations of one or two settings on a labelled sheet and an HTML page, the first down, the second
    across: "strength=0,0.5,1 x seed=1..4"; also init-strength, checkpoint (of --run), prompt, negative, lora, sampler,
    steps and guidance."""
    animate: str | None = setting(None, "--animate", metavar="SETTING[=VALUES]", place=22, min_length=1)
    """Draw a setting's values one after another as a moving picture: strength, or strength=0..1.5:0.1."""
    name: str = setting("{number}-{seed}-{prompt}", "--name", place=23, min_length=1, max_length=200)
    """Names of the files, of {number} {seed} {prompt} {negative} {model} {lora} {strength} {sampler} {steps} {guidance}
    {width} {height} {line}."""
    format: PictureFormat = "png"
    """Of the files; all say how they were made. png and webp are lossless."""
    overwrite: bool = setting(False, "--overwrite", place=24)
    """Draw again what is there already, and replace files of the same name."""
    again: Path | None = setting(None, "--again", metavar="IMAGE", place=25)
    """Draw a picture of ours again, by what its file tells, and say whether the bytes are the same."""
    add_trigger: bool = True
    """With --run: put the trigger in front of prompts that lack it."""
    syntax: Literal["a1111", "plain"] = "a1111"
    """a1111: (word:1.3), [from:to:when], BREAK, <lora:name:1>, {a|b} and __wildcards__ mean something; plain: prompts
    are taken to the letter."""
    combinations: bool = False
    """Draw every combination of {a|b} and __wildcards__, in place of one by chance for each seed."""
    wildcards: Path | None = None
    """Folder of text files, one choice a line: __animal__ is one of animal.txt. Not given: wildcards/ beside --prompts,
    or here."""
    lora_folder: Path | None = None
    """Where <lora:name:1> looks for name.safetensors or a run of that name. Not given: here, in loras/ and in
    runs/."""
    clip_skip: int | None = Field(None, ge=1, le=12)
    """Layer of CLIP that prompts are read from, counted from the last, 1. Not given: as the run was trained."""
    batch_size: int = setting(4, "--batch-size", place=26, ge=1, le=4096)
    """Pictures at once: on a card in one batch; on a CPU side by side, where it has cores for that, each by itself, so
    that it is the same bytes whatever this is."""
    tiles: Literal["auto", "on", "off"] = "auto"
    """Decode large pictures in overlapping tiles, which needs less memory; auto: over 2 megapixels, and where memory
    does not suffice."""
    memory: Machine = Machine()

    @model_validator(mode="after")
    def _what_goes_together(self) -> Self:
        if not (self.prompt or self.prompts or self.run or self.again or self.has_prompts_on_axis):
            raise ValueError(
                'nothing to draw; say what with --prompt, as in sdtune sample --prompt "a red apple", or give '
                "--prompts, --run or --again"
            )
        for name, needed in (("mask", "init"), ("strength", "init"), ("structure", "init"), ("feather", "mask")):
            given = getattr(self, name) != type(self).model_fields[name].default
            if given and not getattr(self, needed) and not self.again:
                what = "a picture to begin with" if needed == "init" else "which says what is drawn anew"
                has_lora = name == "strength" and (self.run or self.lora)
                behind = f"; that of a LoRA stands behind it, as in {LORA_STRENGTH}" if has_lora else ""
                raise ValueError(f"--{name} needs --{needed}, {what}; give it, or leave --{name} out{behind}")
        for name, side in (("width", self.width), ("height", self.height)):
            if side and side * self.hires.scale > LARGEST:
                told = f"--hires {self.hires.scale:g}: makes over {LARGEST} pixels of --{name} {side}"
                raise ValueError(f"{told}; give {LARGEST / side:.4g} at most, or a smaller --{name}")
        if sum(map(bool, (self.compare, self.grid, self.animate))) > 1:
            raise ValueError("--compare, --grid and --animate exclude one another; give one of them")
        return self

    @property
    def has_prompts_on_axis(self) -> bool:
        """Whether an axis of --grid or --animate names the prompts that are drawn."""
        return any(_PROMPTS_ON_AXIS.search(axis) for axis in (*self.grid, self.animate or ""))
