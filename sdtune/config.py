"""What each command can be told; defaults <- family <- model <- presets <- flags (layers.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from sdtune.choices.captioners import Auto, Captioner
from sdtune.choices.losses import MSE, Loss
from sdtune.choices.masks import Mask, MaskFiles
from sdtune.choices.networks import LoRA, Network
from sdtune.choices.noises import Gaussian, Noise
from sdtune.choices.optimizers import AdamW8bit, Optimizer
from sdtune.choices.schedules import Cosine, Schedule
from sdtune.choices.spec import Spec, setting
from sdtune.choices.tasks import Task, TextToImage
from sdtune.choices.timesteps import Stratified, Timesteps
from sdtune.choices.weightings import MinSNR, Weighting
from sdtune.evaluate_config import OF_MINI
from sdtune.evaluate_config import Evaluate as Evaluate
from sdtune.evaluate_config import EvaluateCompare as EvaluateCompare
from sdtune.inspect_config import LoraDiff as LoraDiff
from sdtune.inspect_config import LoraInspect as LoraInspect
from sdtune.layers import OF_ONE_START as OF_ONE_START
from sdtune.layers import Preset as Preset
from sdtune.layers import Tables as Tables
from sdtune.layers import laid_over as laid_over
from sdtune.layers import merge as merge
from sdtune.layers import preset_names as preset_names
from sdtune.layers import presets_folder as presets_folder
from sdtune.layers import read_preset as read_preset
from sdtune.layers import refine as refine
from sdtune.layers import resolve as resolve
from sdtune.layers import to_toml as to_toml
from sdtune.layers import with_run as with_run
from sdtune.lora_config import LoraConvert as LoraConvert
from sdtune.lora_config import LoraExtract as LoraExtract
from sdtune.lora_config import LoraResize as LoraResize
from sdtune.lora_config import Merge as Merge
from sdtune.sample_config import Hires as Hires
from sdtune.sample_config import Sample as Sample
from sdtune.tables import (
    Augment,
    Buckets,
    Cache,
    Captions,
    Data,
    Ema,
    Judge,
    KeepBase,
    Limits,
    Masking,
    Memory,
    Prior,
    Priors,
    Samples,
    Save,
    Stop,
    Text,
    Token,
    Track,
    Validation,
    Wording,
)


class TrainLora(Spec):
    """Train a LoRA on a folder of pictures."""

    model: str = setting("mini", "--model", "-m", place=1, min_length=1)
    """Base model: mini (which brings settings of its own), sd15, sd21, sdxl, sd35-medium, a Hugging Face name,
    a diffusers folder or a .safetensors."""
    out: Path | None = setting(None, "--out", "-o", place=9)
    """Run folder, new or empty. Not given: runs/<data set>-<number>."""
    steps: int | None = setting(None, "--steps", place=3, ge=1, le=10**7)
    """Optimizer steps. Not given: 100 passes over the images, but at least 600 steps and at most 2000."""
    passes: int | None = Field(None, ge=1)
    """How often each image is seen, where the steps are not given: the same work at any batch size."""
    batch_size: int = setting(1, "--batch-size", place=5, ge=1, le=4096)
    """Images at once on the device."""
    accumulate: int = Field(1, ge=1, le=4096)
    """Batches whose gradients are added up for one step."""
    clip: float = Field(1.0, ge=0)
    """Largest norm of the gradient of a step; 0: not limited."""
    seed: int = setting(0, "--seed", place=10, ge=0, lt=2**63)
    """Start of every random draw: the same seed gives the same LoRA on the same machine."""
    resume: str | None = setting(None, "--resume", metavar="[RUN]", place=23, min_length=1)
    """Go on with a run that was stopped, as if it had not been: its folder, or without one the newest run of this data
    set (a new one where there is none)."""
    allow_changes: bool = setting(False, "--allow-changes", place=23)
    """Resume with other settings or other data than the run began with."""
    dry_run: bool = setting(False, "--dry-run", place=29)
    """Tell what would be trained, on what and how long, and train nothing; what is encoded for it, and priors that are
    drawn, stay in the cache."""
    probe: bool = setting(False, "--probe", place=29)
    """In a dry run, take three real steps to tell the time and memory."""
    task: Task = setting(TextToImage(), "--task", place=15)
    """What the model shall draw from. Models for inpainting are trained for that."""
    data: Data
    buckets: Buckets = Buckets()
    augment: Augment = Augment()
    captions: Captions = Captions()
    mask: Masking = Masking()
    prior: Priors = Priors()
    keep_base: KeepBase = KeepBase()
    cache: Cache = Cache()
    network: Network = LoRA()
    optimizer: Optimizer = AdamW8bit()
    schedule: Schedule = Cosine()
    timesteps: Timesteps = Stratified()
    noise: Noise = Gaussian()
    loss: Loss = MSE()
    weighting: Weighting = MinSNR()
    ema: Ema = Ema()
    text: Text = Text()
    token: Token = Token()
    memory: Memory = Memory()
    limits: Limits = Limits()
    validation: Validation = Validation()
    stop: Stop = Stop()
    save: Save = Save()
    samples: Samples = Samples()
    track: Track = Track()


class Prepare(Spec):
    """Make a data set that training can trust out of whatever there is."""

    sources: tuple[Path, ...] = setting(
        ..., metavar="SOURCE...", place=0, min_length=1, example="sdtune prepare photos/ --out dataset/"
    )
    """Folders, images, .zip and .tar archives; they are only read."""
    out: Path | None = setting(None, "--out", "-o", place=1)
    """Folder of the data set, new, empty, or made by prepare before."""
    resolution: int = setting(1024, "--resolution", place=2, ge=32, le=4096, multiple_of=8)
    """Pixels of the side of the square whose area is kept; larger images are scaled down, none is enlarged."""
    format: Literal["png", "jpeg", "webp"] = setting("png", "--format", place=3)
    """Of the prepared images; png and webp are lossless."""
    background: str = setting("white", "--background", place=4, min_length=1)
    """Colour behind transparent parts: a name or #rrggbb."""
    crop_borders: bool = setting(False, "--crop-borders", place=5)
    """Cut off plain borders and letterboxes."""
    held_out: float = setting(0.1, "--held-out", place=7, ge=0, le=0.9)
    """Share of the images put into held-out/ for validation, from 12 images up; chosen by their content."""
    trigger: str | None = setting(None, "--trigger", place=8, min_length=1)
    """Word that every caption should have; those that lack it are told."""
    dry_run: bool = setting(False, "--dry-run", place=9)
    """Tell what would be done, and write nothing."""
    restore: bool = setting(False, "--restore", place=14)
    """Bring back images that were taken out of the data set by hand."""
    strict: bool = setting(False, "--strict", place=14)
    """Leave with exit code 2 where a file could not be used; the others are prepared all the same."""
    follow_links: bool = setting(False, "--follow-links", place=15)
    """Read files and folders that are links to places outside the source."""
    judge: Judge = Judge()
    mask: Mask = setting(MaskFiles(), "--mask", place=11)
    """Masks of what counts: from files beside the images, from their transparency, or by a text."""
    prior: Prior = Prior()
    limits: Limits = Limits()
    memory: Memory = Memory()


class Caption(Spec):
    """Describe the pictures of a data set."""

    folder: Path = setting(..., metavar="DATASET", place=0, example="sdtune caption photos/")
    """Folder of images; those in folders below it count, too."""
    captioner: Captioner = setting(Auto(), "--captioner", "-c", metavar="KIND", place=1)
    mode: Literal["missing", "append", "overwrite", "edit"] = setting("missing", "--mode", place=2)
    """missing: describe images without a caption; append: all, and put it after the caption; overwrite: all, in its
    place; edit: describe none, but word the captions that are there anew."""
    variants: int = setting(1, "--variants", metavar="N", place=3, ge=1, le=100)
    """Captions an image, one a line; training draws one each time. With append they become further lines."""
    wording: Wording = Wording()
    to: Literal["sidecar", "metadata"] = setting("sidecar", "--to", place=12)
    """Where new captions go: a .txt beside each image, or a line of metadata.jsonl. Others are changed where they
    stand."""
    lint: bool = setting(False, "--lint", place=13)
    """Tell problems of the captions with their remedies, and write nothing."""
    stats: bool = setting(False, "--stats", place=14)
    """Tell how often each tag occurs and how long captions are, and write nothing."""
    dry_run: bool = setting(False, "--dry-run", place=15)
    """Tell what captions would be, and write nothing."""
    strict: bool = setting(False, "--strict", place=16)
    """Leave with exit code 2 where --lint finds something or an image is left out."""
    follow_links: bool = setting(False, "--follow-links", place=17)
    """Read images and captions that are links to files elsewhere; what is written replaces the link."""
    batch_size: int | None = setting(None, "--batch-size", place=17, ge=1, le=4096)
    """Images at once on the device. Not given: what suits the captioner."""
    model: str | None = setting(None, "--model", "-m", place=18, min_length=1)
    """Base model whose tokenizer counts tokens. Not given: CLIP's where it is on this machine, else an estimate."""
    seed: int = setting(0, "--seed", place=19, ge=0, lt=2**63)
    """Start of random draws: the second and further captions of an image."""
    memory: Memory = Memory()


def model_settings(model: str) -> Tables:
    """What a model's own preset says, to lie under all that the user set: the built-in model has one."""
    return read_preset("mini") if model == "mini" else {}


def drawing_settings(model: str) -> Tables:
    """The same for drawing: what the model's own preset says of samples."""
    told = model_settings(model)
    samples = {name: told["samples"][name] for name in ("guidance", "steps") if name in told.get("samples", {})}
    return samples | {name: told[name] for name in ("memory",) if name in told}


def eval_settings(model: str) -> Tables:
    """The same for evaluating: as for drawing, and how little the built-in model needs."""
    return drawing_settings(model) | (OF_MINI if model == "mini" else {})


class CacheFolder(Spec):
    """Tell what the cache holds, and remove what is no longer used."""

    prune: bool = setting(False, "--prune", place=0)
    """Remove what was not used for --days, and what a killed run left unfinished."""
    days: int = setting(30, "--days", place=1, ge=0, le=36500)
    """Days without use; 0: everything."""
    folder: Path | None = setting(None, "--folder", place=2)
    """Folder of the cache. Not given: $SDTUNE_CACHE, else sdtune in the folder for caches ($XDG_CACHE_HOME,
    ~/.cache)."""


class Runs(Spec):
    """List trainings, with what sets them apart and what came of them."""

    folder: Path = setting(Path("runs"), metavar="FOLDER", place=0)
    """Folder that holds run folders, or one run's."""
