"""The tables of settings that commands are made of, each by its name in TOML."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from sdtune.choices.spec import Spec, setting

NO_WORD = "{}()[]|,:\\"
"""signs of wildcards, weights and tags, that a new word cannot have"""


def _on_one_line(text: str | None) -> str | None:
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in text or ""):
        raise ValueError("should be on one line, without control characters")
    return text.strip() if text else text


class Folder(Spec):
    """One more folder of a run: `[[data.folders]]`."""

    path: Path
    """Folder of images with captions, of any layout that DATASET may have."""
    repeats: int = Field(1, ge=1, le=1000)
    """How often each of its images is seen in a pass, beside those of folders with 1."""
    weight: float = Field(1.0, ge=0, le=1000)
    """How much the errors of its images count, beside 1."""
    prior: bool = False
    """Holds images of the class, for regularisation."""
    trigger: str | None = Field(None, min_length=1)
    """Its own trigger word, in place of data.trigger; put before every caption of the folder that lacks it."""
    caption: str | None = Field(None, min_length=1)
    """What its images without a caption show."""

    @field_validator("trigger")
    @classmethod
    def _one_word(cls, trigger: str | None) -> str | None:
        return Data._one_word(trigger)


class Data(Spec):
    """Pictures and their captions."""

    folders: tuple[Folder, ...] = ()
    """More folders, each with its weight; in TOML, as [[data.folders]]."""
    folder: Path | None = setting(
        None, metavar="DATASET", place=0, example="sdtune train-lora pictures/cats", validate_default=True
    )
    """Folder of images, each with a caption of the same name (.txt or .caption), or with a metadata.jsonl; kohya's
    folders (10_sks cat) and what `sdtune prepare` writes are understood too."""
    resolution: int | None = setting(None, "--resolution", place=6, ge=32, le=4096, multiple_of=8)
    """Pixels of the side of a square; other shapes get the same area. Not given: what the model was made for."""
    trigger: str | None = setting(None, "--trigger", place=7, min_length=1)
    """Word that stands for what is learned; put before every caption that lacks it."""
    caption_from_filename: bool = setting(False, "--caption-from-filename", place=12)
    """An image without a caption takes its file's name: red_apple.png becomes "red apple"."""
    skip_bad: bool = setting(False, "--skip-bad", place=13)
    """Leave out images that cannot be used (damaged, too small, with a black mask), instead of refusing to start."""
    follow_links: bool = setting(False, "--follow-links", place=15)
    """Read images and captions that are links to files elsewhere, as in a download cache."""

    @field_validator("folder")
    @classmethod
    def _some_folder(cls, folder: Path | None, told: ValidationInfo) -> Path | None:
        if folder is None and not told.data.get("folders"):
            raise PydanticCustomError("missing", "not given")
        return folder

    @field_validator("trigger")
    @classmethod
    def _one_word(cls, trigger: str | None) -> str | None:
        if re.search(r"\{.*\|.*\}|\|\|\|", trigger or ""):
            raise ValueError("should have neither {a|b} nor |||, which captions read otherwise")
        return _on_one_line(trigger)

    @property
    def all_folders(self) -> tuple[Folder, ...]:
        """DATASET, then the others."""
        return ((Folder(path=self.folder),) if self.folder else ()) + self.folders


class Buckets(Spec):
    """Sizes of about the same area and other shapes, so that images are hardly cropped."""

    step: Literal[32, 64] | None = None
    """Pixels by which the sides of buckets differ. Not given: 64, or 32 where the resolution is below 256."""
    also: tuple[Annotated[int, Field(ge=32, le=4096, multiple_of=8)], ...] = ()
    """More resolutions: each image is seen at one after the other, pass by pass, where it is large enough."""
    upscale: float = Field(1.25, ge=1, le=8)
    """How much an image may be enlarged; one that is smaller gets a smaller bucket."""
    square: bool = False
    """Crop every image to a square."""

    @field_validator("step", mode="before")
    @classmethod
    def _number(cls, step: object) -> object:
        return int(step) if isinstance(step, str) and step.isdecimal() else step


class Cache(Spec):
    """What is kept of encoding images and captions, so that it is done once."""

    place: Literal["disk", "memory"] = setting("disk", "--cache", place=17)
    """disk: kept for later runs too, by content; memory: for this run alone."""
    folder: Path | None = None
    """Not given: sdtune in the folder for caches ($XDG_CACHE_HOME, ~/.cache)."""
    memory: float | None = Field(None, gt=0, le=10**6)
    """GB of main memory for it; what does not fit is read from the disk, ahead of time. Not given: a quarter of what is
    free."""


class Captions(Spec):
    """What is made of captions on their way to the model."""

    dropout: float = Field(0.05, ge=0, le=1)
    """Share of images shown without their caption, so that guidance goes on working."""
    shuffle: bool = False
    """Mix the order of tags (what stands between commas) each time."""
    keep: int = Field(1, ge=0, le=1000)
    """Tags at the front that are neither moved nor dropped, as the trigger word."""
    tag_dropout: float = Field(0.0, ge=0, le=1)
    """Share of the other tags left out each time."""
    wildcards: bool = True
    """Of {red|blue} one is taken each time."""
    weights: bool = False
    """(word:1.3), (word) and [word] weigh words, as in A1111; otherwise brackets are text."""
    longest: int = Field(225, ge=75, le=750)
    """Tokens that a caption may have, read in chunks of 75; longer ones are refused, none is cut."""
    wordings: int = Field(16, ge=1, le=1000)
    """Wordings of each caption that are encoded where tags are mixed or dropped or wildcards drawn; each step takes
    one. Where text encoders are trained, each step has its own."""


class Text(Spec):
    """The text encoders."""

    train: bool = False
    """Train a LoRA in the text encoders too (CLIP's; T5 is never trained); they then stay in memory."""
    lr: float = Field(1e-5, ge=1e-12, le=100)
    """Learning rate of the text encoder, of both where there are two."""
    lr_2: float | None = Field(None, ge=1e-12, le=100)
    """Learning rate of the second text encoder (sdxl, sd3), where it is another."""
    clip_skip: int | None = Field(None, ge=1, le=12)
    """Which layer of CLIP is read, counted from the last, 1 (sd1 and sd2 alone). Not given: what the model was made
    for."""


class Token(Spec):
    """A new word for the text encoders, whose embedding is trained with the LoRA (pivotal tuning)."""

    word: str | None = setting(None, "--new-token", metavar="WORD", place=18, min_length=1, max_length=100)
    """New word that the text encoders learn with the LoRA (pivotal tuning); also saved as an embedding for UIs."""
    init: str | None = Field(None, min_length=1)
    """Known words that it starts from, as "cat". Not given: the mean of all words."""
    vectors: int = Field(2, ge=1, le=32)
    """Tokens that the word is made of."""
    lr: float = Field(1e-3, ge=1e-12, le=100)
    """Learning rate of the embedding."""

    @field_validator("word")
    @classmethod
    def _one_word(cls, word: str | None) -> str | None:
        if set(word or "") & set(NO_WORD):
            raise ValueError(f"should have none of {' '.join(NO_WORD)}, which prompts and captions read otherwise")
        return _on_one_line(word)


class Augment(Spec):
    """Images shown in several versions, so that few of them teach more; a step draws one."""

    crop: float = Field(0.0, ge=0, le=0.5)
    """Up to this share of each side is cut away, at random places. Acts like more data; 0.1 is usual."""
    flip: bool = False
    """Half of the versions are mirrored, but for images whose captions speak of writing or of sides."""
    rotate: float = Field(0.0, ge=0, le=15)
    """Degrees up to which versions are turned; cropped so that no corner is empty."""
    colour: float = Field(0.0, ge=0, le=0.5)
    """Up to this share brightness, contrast and saturation change."""
    versions: int | None = Field(None, ge=1, le=64)
    """Versions of each image that are encoded. Not given: 8, or 2 where images are mirrored alone."""
    tag: bool = False
    """Say in the caption what was done (", mirrored"), so that it does not leak into samples."""

    @property
    def on(self) -> bool:
        """Whether there is more than one version."""
        return self.flip or any((self.crop, self.rotate, self.colour))

    @property
    def count(self) -> int:
        """How many versions of each image there are."""
        usual = 8 if any((self.crop, self.rotate, self.colour)) else 2
        return (self.versions or usual) if self.on else 1


class Masking(Spec):
    """What of an image counts, where it has a mask."""

    use: Literal["files", "alpha", "off"] = setting("files", "--masks", place=19)
    """files: name-masklabel.png beside name.jpg, white is learned; alpha: also transparency; off: the whole image."""
    floor: float = Field(0.1, ge=0, le=1)
    """How much what is masked out counts, beside 1."""


class Priors(Spec):
    """Images of the class without the subject, which keep the model from forgetting what else it knows."""

    count: int = setting(0, "--prior", metavar="N", place=20, ge=0, le=10**5)
    """Images of the class to draw with the base model; kept in the cache."""
    prompt: str | None = setting(None, "--class-prompt", place=21, min_length=1)
    """What --prior draws, as "a dog"."""
    weight: float = Field(1.0, ge=0, le=1000)
    """How much they count (those in reg/, too), beside 1 for the others."""

    @field_validator("prompt")
    @classmethod
    def _one_line(cls, prompt: str | None) -> str | None:
        return _on_one_line(prompt)


class KeepBase(Spec):
    """Holding on to the base model without images: what it says to other prompts shall not change."""

    weight: float = setting(0.0, "--keep-base", metavar="X", place=22, ge=0, le=1000)
    """How much the distance to the base's own prediction counts; 0: off, 0.1 to 1 are usual. Costs two more passes."""
    prompts: tuple[str, ...] = ()
    """Prompts without the trigger. Not given: a list of everyday things."""


class Machine(Spec):
    """Where to work, and with which numbers."""

    device: Literal["auto", "cuda", "mps", "cpu"] = setting("auto", "--device", place=14)
    """Where to work; auto: the CUDA card where there is one, and for sample else an Apple GPU (mps), for which nothing
    has been measured."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Numbers of the frozen model and its arithmetic; the LoRA stays fp32. auto: bf16 on cards that have it,
    else fp16, which mps takes, too, and fp32 on the CPU."""
    attention: Literal["auto", "sdpa", "xformers"] = setting("auto", "--attention", place=28)
    """Memory-efficient attention: PyTorch's own (sdpa) or xformers'; each is tried on the device before use."""
    threads: int | None = Field(None, ge=1, le=1024)
    """Threads on the CPU. Not given: one a core, as PyTorch chooses."""
    deterministic: bool = setting(False, "--deterministic", place=28)
    """Take only operations whose results are the same bits each time, on a CUDA card, too; slower there. The CPU's
    always are."""


class Memory(Machine):
    """Fitting the card."""

    attention: Literal["auto", "sdpa", "xformers"] = setting("auto", "--attention", place=14)
    """Memory-efficient attention: PyTorch's own (sdpa) or xformers'; each is tried on the device before use."""
    gradient_checkpointing: bool = False
    """Keep little from the forward pass and compute it again: about a quarter more time, far less memory."""
    deterministic: bool = setting(False, "--deterministic", place=28)
    """Take only operations whose results are the same bits each time, so that on a CUDA card, too, a resumed run equals
    one that was never stopped; slower there. The CPU's always are."""


class Ema(Spec):
    """An average of the weights over the steps, which is what is saved, drawn with and validated."""

    decay: float = Field(0.0, ge=0, lt=1)
    """Share of the average that each step keeps, once the run is longer than 1 / (1 - decay) steps; 0: off, 0.99 to
    0.999 are usual."""


class Validation(Spec):
    """The loss on images that are never trained, at fixed noises: whether what is learned holds for others, too."""

    off: bool = False
    """Hold nothing out, and judge nothing."""
    held_out: float = Field(0.1, ge=0, le=0.5)
    """Share of the images that is held out, two at least, from 12 images up; chosen by their content. Where the data
    set has a folder held-out/, it is that."""
    share: float = Field(0.05, gt=0, le=1)
    """Of the run's work, what validation may cost where `every` is not given."""
    every: int | None = setting(None, "--validate-every", metavar="N", place=26, ge=1)
    """Steps from one validation to the next, each in full. Not given: as often and as fully as the share allows."""
    images: int = Field(8, ge=1, le=1000)
    """Held-out images that are looked at, and as many of the trained ones."""
    timesteps: int = Field(20, ge=1, le=1000)
    """Noise levels for each image, evenly spread."""
    noises: int = Field(4, ge=1, le=100)
    """Noises for each level, always the same ones."""
    folds: int = Field(0, ge=0, le=20)
    """Trains so often beforehand, each time without another part of the images, to find out how many steps are best:
    for sets too small to hold images out. 0: not done."""

    @field_validator("folds")
    @classmethod
    def _several(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("should be 0, or 2 and more")
        return folds


class Stop(Spec):
    """When a training ends before its last step."""

    early: bool = setting(True, "--early-stop", place=27)
    """Stop when the held-out loss has long been above its minimum."""
    patience: int = Field(3, ge=1, le=1000)
    """Validations in a row that are worse than the best by more than its standard error."""
    window: float = Field(3.0, ge=1, le=100)
    """Not before so many times the best step: pictures are usually best from 1 to 3 times of it (spacepxl 2024)."""
    minutes: float | None = setting(None, "--max-minutes", metavar="X", place=24, gt=0)
    """Save, and leave with exit code 75, after so many minutes; --resume goes on."""


class Track(Spec):
    """Where the figures of a run are sent, beside its metrics.jsonl."""

    to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = setting((), "--track", metavar="NAME", place=30)
    """tensorboard, wandb or trackio; several with commas between them. Keys are taken from the environment alone."""
    project: str = Field("sdtune", min_length=1, max_length=100)
    """Name of the project there."""

    @field_validator("to", mode="before")
    @classmethod
    def _with_commas(cls, to: object) -> object:
        given = [to] if isinstance(to, str) else to
        if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
            return to
        return tuple(dict.fromkeys(word.strip() for one in given for word in one.split(",") if word.strip()))


class Limits(Spec):
    """What one file may cost."""

    seconds: float = Field(5.0, gt=0, le=3600)
    """CPU seconds; four times as long by the clock."""
    megabytes: int = Field(1000, ge=200, le=10**6)
    """Memory of the process that reads it."""
    workers: int | None = setting(None, "--workers", place=16, ge=1, le=256)
    """Processes that read files. Not given: one a core."""


class Save(Spec):
    """The LoRA file, and the checkpoints that a run is resumed from."""

    form: Literal["auto", "kohya", "peft", "diffusers", "both"] = "auto"
    """Names inside the file. auto: what the most programs load, kohya's (sd3: diffusers'); both: at the end also
    NAME-peft.safetensors."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Numbers in the file."""
    thumbnail: bool = True
    """Keep a small picture of the last sample in the file, which some programs show beside its name."""
    minutes: float = Field(10.0, ge=0)
    """From one checkpoint to the next; 0: only where `every` says so, at stops and at the end."""
    every: int | None = setting(None, "--save-every", metavar="N", place=25, ge=1)
    """Steps from one checkpoint to the next, beside those by time."""
    keep: int = Field(2, ge=1, le=1000)
    """The newest checkpoints that are kept."""


class Samples(Spec):
    """Pictures drawn before the first step, on the way and at the end."""

    every: int | None = Field(None, ge=0)
    """Steps from one drawing to the next; 0: only before and after. Not given: a tenth of the run, but 50 at least."""
    prompts: tuple[str, ...] = ()
    """What to draw; not given: two captions of the data set."""
    negative: str = ""
    """What the pictures should not show."""
    steps: int = Field(20, ge=1, le=1000)
    """Sampling steps."""
    guidance: float = Field(5.0, ge=0, le=1000)
    """How strongly the prompt pulls."""
    strength: float = Field(1.0, ge=-100, le=100)
    """How strongly the trained LoRA acts; below 1 keeps more of the base model."""
    off: bool = False
    """Draw nothing."""


class Judge(Spec):
    """What is set aside."""

    min_side: int | None = setting(None, "--min-side", place=6, ge=0, le=65536)
    """Pixels that the shorter side must have. Not given: a quarter of the resolution."""
    sharpness: float = Field(7.0, ge=0)
    """Least variance of the Laplacian at 512 px; less is blurred. 0: not judged."""
    contrast: float = Field(3.0, ge=0)
    """Least standard deviation of grey, of 255; less is nearly one colour. 0: not judged."""
    aspect: float = Field(4.0, ge=1)
    """Longest side to shortest that is kept; training would crop most of what is longer."""
    likeness: int = Field(8, ge=0, le=16)
    """Bits of 64 in which the perceptual hashes of near-duplicates may differ; 0: identical hashes only."""
    keep_all: bool = setting(False, "--keep-all", place=8)
    """Tell all this, but leave out only what cannot be read."""


class Prior(Spec):
    """Images of the class as the base model draws it, to train beside the pictures."""

    count: int = setting(0, "--prior", metavar="N", place=12, ge=0, le=10**5)
    """Images of the class to draw with the base model into reg/, for training to keep the class by."""
    prompt: str | None = setting(None, "--class-prompt", place=13, min_length=1)
    """What --prior draws, as "a dog"."""
    model: str = setting("mini", "--model", "-m", place=14, min_length=1)
    """Base model that draws them."""

    @field_validator("prompt")
    @classmethod
    def _one_line(cls, prompt: str | None) -> str | None:
        return _on_one_line(prompt)


class Wording(Spec):
    """How captions are worded: those that are told, and in the mode edit those that are there."""

    trigger: str | None = setting(None, "--trigger", place=4, min_length=1)
    """Word that stands for what is learned; put first where a caption lacks it."""
    prefix: str = setting("", "--prefix", place=5, max_length=1000)
    """Put before each caption, after the trigger, as "a photo of"."""
    suffix: str = setting("", "--suffix", place=6, max_length=1000)
    """Put after each caption, as ", flat style"."""
    blacklist: tuple[str, ...] = setting((), "--blacklist", metavar="TAGS", place=7)
    """Tags or phrases to take out, with commas between them; can be given several times."""
    replace: tuple[str, ...] = setting((), "--replace", metavar="OLD=NEW", place=8)
    """Words to put in place of others; can be given several times."""
    order: Literal["score", "frequency"] = setting("score", "--order", place=9)
    """Of tags. score: the surest first, as a captioner tells them; frequency: the most usual in the set first (mode
    edit alone, since all captions must be there)."""
    dedupe: bool = setting(False, "--dedupe", place=10)
    """Each tag once a caption."""
    max_tokens: int | None = setting(None, "--max-tokens", place=11, ge=8, le=1000)
    """Longer captions are cut at the end of a tag or word; CLIP reads 77."""

    @field_validator("trigger")
    @classmethod
    def _one_word(cls, trigger: str | None) -> str | None:
        return Data._one_word(trigger)

    @field_validator("replace")
    @classmethod
    def _pairs(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        if not all(pair.partition("=")[0].strip() and "=" in pair for pair in pairs):
            raise ValueError('should be of the form OLD=NEW, as "grey=gray"')
        return pairs
