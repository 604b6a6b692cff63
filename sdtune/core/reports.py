"""What work tells of itself while it runs: plain values, no tensors."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sdtune.core.data.buckets import Tally
from sdtune.core.evaluation_reports import Compared, Evaluated
from sdtune.core.lora_reports import Differing, Inspected, Merged, Written


@dataclass(frozen=True)
class Note:
    """A fact about the run, in one line."""

    text: str


@dataclass(frozen=True)
class Warned:
    """Something that the user should know and may want to change, in one line."""

    text: str


@dataclass(frozen=True)
class Skipped:
    """A file that is left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Progress:
    """How far a phase before or after training has come."""

    phase: str
    number: int
    of: int
    speed: float | None = None
    """so many a second since its beginning, where that is told"""


@dataclass(frozen=True)
class Bucketed:
    """At which sizes the images of a training are seen."""

    resolutions: tuple[int, ...]
    """pixels of the sides of squares"""
    buckets: tuple[Tally, ...]
    """the tallest first"""


@dataclass(frozen=True)
class Step:
    """One optimizer step."""

    number: int
    """1 .. of"""
    of: int
    loss: float | None
    """None where the step was not taken"""
    loss_average: float
    """mean over the last steps, weighted towards the newest"""
    lr: float
    images_per_second: float
    seconds: float
    """since the first step began, in this process"""
    memory: float = 0.0
    """GB, the most that was in use on the device, on the CPU of this process"""


@dataclass(frozen=True)
class Pulse:
    """Nothing to tell: a moment in long work at which it may be ended."""


@dataclass(frozen=True)
class Rewound:
    """The training has gone back to its state after an earlier step, and takes the later ones again."""

    step: int
    reason: str
    """one line"""


@dataclass(frozen=True)
class Resumed:
    """A run goes on where it stopped."""

    run: Path
    step: int
    """steps that are finished"""
    of: int
    changed: tuple[str, ...] = ()
    """settings and data that are others than they were, a line each"""


@dataclass(frozen=True)
class Measure:
    """The validation loss of some images."""

    loss: float
    """mean over images, noise levels and noises"""
    error: float
    """its standard error over images"""
    relative: float
    """to the base model's loss on the same: 0.86 is 14 % less"""
    relative_error: float
    """its standard error over images"""
    levels: tuple[float, ...]
    """the mean loss at each noise level, from clean to noise"""
    images: int


@dataclass(frozen=True)
class Validated:
    """The loss at fixed noises on images that are held out, and on as many that are trained."""

    step: int
    of: int
    held_out: Measure
    trained: Measure
    best: int
    """the step with the least held-out loss so far"""
    seconds: float


@dataclass(frozen=True)
class Updated:
    """How much a training has changed a block of layers."""

    block: str
    """"down_blocks.1.attentions" """
    relative: float
    """norm of what is added, by the norm of the weights that it is added to"""
    modules: int
    dead: int
    """modules to which nothing is added"""


@dataclass(frozen=True)
class Saved:
    """A file that is now complete on disk."""

    what: str
    path: Path


@dataclass(frozen=True)
class Drawn:
    """An image that is now complete on disk."""

    path: Path
    prompt: str
    seed: int
    seconds: float
    """time for this image, its share of a batch"""


@dataclass(frozen=True)
class Drawing:
    """How far the picture that is being drawn has come."""

    number: int
    """of the picture, or of the first of those that are drawn together, from 1"""
    of: int
    """pictures in all"""
    together: int
    step: int
    steps: int
    """of all passes over it"""


@dataclass(frozen=True)
class There:
    """An image that an earlier run has drawn, by the same settings, and that is not drawn again."""

    path: Path
    prompt: str
    seed: int


@dataclass(frozen=True)
class Trained:
    """The end of a training."""

    lora: Path
    sheet: Path | None
    """samples before and after"""
    seconds: float
    """from the first step to the last"""
    try_next: str
    """a command that uses the result"""
    steps: int = 0
    """that were taken"""
    best: Path | None = None
    """the LoRA of the least held-out loss, where that is another"""
    verdict: str | None = None
    """a sentence on how it went by the held-out loss"""
    update: tuple[Updated, ...] = ()
    """how much each block has changed"""
    plot: Path | None = None
    """losses and validation over the steps"""


@dataclass(frozen=True)
class Listed:
    """A training, as its folder tells of it."""

    path: Path
    state: str
    """finished, early stop, at work, stopped, failed, empty or broken"""
    step: int
    """that are finished"""
    of: int
    """0: not known"""
    model: str
    held_out: float | None
    """the least held-out loss relative to the base's; None: not known"""
    best: int | None
    """its step"""
    lora: Path | None
    """the best, else the last"""
    changed: float
    """when something was last told of it, in seconds since 1970"""
    apart: dict[str, str]
    """settings in which it differs from most others of the list"""
    problem: str | None = None
    """what keeps its files from being read"""


@dataclass(frozen=True)
class Listing:
    """The trainings in a folder, the latest last."""

    folder: Path
    runs: tuple[Listed, ...]


@dataclass(frozen=True)
class Taught:
    """What is trained at one learning rate."""

    part: str
    """the pipeline's part that it belongs to, or "new word" """
    modules: int
    """layers that have a LoRA; of a new word the encoders that learn it"""
    numbers: int
    """parameters"""
    lr: float
    """at its full height"""


@dataclass(frozen=True)
class Probed:
    """Real steps that were taken to measure them, and undone."""

    seconds: tuple[float, ...]
    """of each"""
    memory: float
    """GB, the most that was in use on the device, on the CPU of this process"""


@dataclass(frozen=True)
class Disk:
    """What a run writes, in bytes, by an estimate."""

    lora: int
    """one LoRA file, with that of a new word"""
    loras: int
    """such files at the end"""
    checkpoint: int
    checkpoints: int
    """that are there at once: those that are kept, and one that is being written"""
    pictures: int
    """samples and sheets"""
    cache: int
    """what is encoded for it, which is there already"""
    free: int | None
    """where the run folder will be; None where that is not known"""

    @property
    def needed(self) -> int:
        """Of what is free."""
        return self.lora * self.loras + self.checkpoint * self.checkpoints + self.pictures


@dataclass(frozen=True)
class Planned:
    """The end of a dry run: what a training would do."""

    model: str
    family: str
    device: str
    precision: str
    """bf16, fp16 or fp32"""
    groups: tuple[Taught, ...]
    trained: int
    """images"""
    held_out: int
    priors: int
    left_out: int
    """files that cannot be used"""
    enlarged: int
    """images that are shown larger than they are, at their first size"""
    cropped: float
    """mean share of an image's area that is cut off, 0-1, at its first size"""
    problems: int | None
    """of captions; None where they are not read"""
    look: str | None
    """a command that shows these"""
    tokens: float
    """of a caption, on average, without marks of begin and end"""
    tokens_longest: int
    steps: int
    images_a_step: int
    passes: float
    """over the images"""
    warmup: int
    """steps until the learning rate has its full height"""
    validations: int
    """how often the held-out loss is measured; 0: never"""
    validation_every: int | None
    """steps"""
    validation_share: float
    """of the run's passes through the denoiser, that of the base among them"""
    drawings: int
    """how often samples are drawn, before the first step and after the last among them; 0: never"""
    drawing_every: int | None
    """steps; None: only then"""
    prompts: int
    """samples that are drawn each time"""
    checkpoint_minutes: float
    """from one to the next; 0: not by time"""
    checkpoint_every: int | None
    """steps"""
    memory: tuple[tuple[str, float], ...]
    """GB that are known beforehand, (of what, how much): without what the passes through the denoiser need"""
    memory_there: float
    """GB of the device"""
    probed: Probed | None
    seconds: tuple[float, float] | None
    """that the run will take, from the fastest probed step to the slowest; None without a probe"""
    disk: Disk
    files: tuple[tuple[str, Path], ...]
    """(what, where) the run would write"""


@dataclass(frozen=True)
class Captioned:
    """An image whose captions are now complete on disk, or would be without --dry-run."""

    path: Path
    captions: tuple[str, ...]
    seconds: float
    """time for this image, its share of a batch"""
    number: int
    """1 .. of"""
    of: int
    images_per_second: float
    """since the first"""
    written: bool


@dataclass(frozen=True)
class Described:
    """The end of a captioning."""

    images: int
    skipped: int
    seconds: float
    examples: tuple[tuple[Path, str], ...]
    """the first few captions"""
    written: bool
    """False: a dry run"""
    try_next: str | None
    """a command that uses the result"""


@dataclass(frozen=True)
class Statistics:
    """How long captions are and what they say."""

    images: int
    with_caption: int
    captions: int
    tokens_mean: float
    tokens_longest: int
    over_limit: int
    """captions that CLIP does not read to their end"""
    exact: bool
    """whether tokens are counted by a tokenizer; else they are an estimate"""
    tags: tuple[tuple[str, int], ...]
    """tags with the number of images that have them, the most usual first"""
    words: tuple[tuple[str, int], ...]
    """the same of the words in captions that are sentences, but for articles and the like"""


@dataclass(frozen=True)
class SetAside:
    """An image that is good to read but that training is better without."""

    path: Path
    """of the original"""
    kind: str
    """a word or two: "too small" """
    reason: str
    like: str | None
    """the image that is kept in its stead"""


@dataclass(frozen=True)
class BucketsOf:
    """How the images of a data set fall into the buckets of a family."""

    family: str
    resolution: int
    """pixels of the side of the square"""
    buckets: int
    enlarged: int
    """images that are enlarged beyond 1.25 times"""
    cropped: float
    """mean share of an image's area that is cut off"""


@dataclass(frozen=True)
class Prepared:
    """The end of a preparation."""

    out: Path | None
    """None: a dry run"""
    images: int
    """in the data set, held out ones and priors included"""
    held_out: int
    priors: int
    described: int
    """images with a caption"""
    set_aside: dict[str, int]
    """{kind: images}"""
    skipped: int
    """files that cannot be used"""
    left: int
    """files that are no images"""
    buckets: tuple[BucketsOf, ...]
    seconds: float
    page: Path | None
    """the report to look at"""
    try_next: str | None


@dataclass(frozen=True)
class Cached:
    """What the cache holds, after a pruning what it still holds; unfinished and other small files are in the sizes."""

    folder: Path
    entries: int
    priors: int
    """folders of images that the base model drew"""
    size: int
    """bytes"""
    days: int
    unused: int
    """entries, folders and other files that were not used for so many days"""
    unused_size: int
    """bytes"""
    removed: int | None
    """None: nothing was to be removed"""
    removed_size: int
    """bytes"""
    try_next: str | None
    """a command that removes what is not used"""


@dataclass(frozen=True)
class Problem:
    """Something about captions that training would suffer from."""

    kind: str
    """missing, empty, unreadable, letters, identical, long, trigger, everywhere, name, short or doubled"""
    told: str
    """one line"""
    remedy: str
    names: tuple[str, ...]
    """the images that it is about"""


Report = (
    Note
    | Warned
    | Skipped
    | Progress
    | Bucketed
    | Step
    | Pulse
    | Rewound
    | Resumed
    | Validated
    | Saved
    | Drawn
    | Drawing
    | There
    | Trained
    | Listing
    | Planned
    | Problem
    | Captioned
    | Described
    | Statistics
    | SetAside
    | Prepared
    | Cached
    | Merged
    | Written
    | Inspected
    | Differing
    | Evaluated
    | Compared
)

Result = TypeVar("Result")
Telling = Generator[Report, None, Result]
"""Work that tells reports on its way and then returns its result: `result = yield from work`."""
