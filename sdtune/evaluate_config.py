"""What `eval` and `eval compare` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from sdtune.choices.samplers import AnySampler, DPMpp2M
from sdtune.choices.spec import Spec, setting
from sdtune.tables import Cache, Machine

Strength = Annotated[float, Field(ge=0, le=100)]
MOST_STRENGTHS = 20
"""each is as many pictures for every LoRA"""
STRONGEST = 2.0
"""more is far over what LoRAs are used at, and 8 most likely 0.8 whose point was typed as a comma: 0 and 8"""
OF_MINI = {"seeds": 1, "steps": 10}
"""what the built-in model needs: with it a report on five checkpoints takes under 3 minutes on 2 cores"""
COMPARE = "compare"
"""the word behind eval that makes another command of it"""


def _each(given: Any) -> Any:
    """What stands between commas: "0.5,0.8" is two of them, like "0.5" and "0.8" given one after the other."""
    if not isinstance(given, str | list | tuple):
        return given
    several = [given] if isinstance(given, str) else given
    return [
        part
        for one in several
        for part in (map(str.strip, one.strip(", ").split(",")) if isinstance(one, str) else [one])
    ]


Names = Annotated[tuple[str, ...], BeforeValidator(_each)]


class Protocol(Spec):
    """What is drawn and looked at, the same for all that is compared."""

    reference: Path | None = setting(None, "--reference", metavar="FOLDER", place=2)
    """Pictures of what was to be learned, none of them trained, with captions if there are. Not given: those that the
    run held out."""
    trained: Path | None = setting(None, "--trained", metavar="FOLDER", place=3)
    """Pictures that were trained, to find copies of them. Not given: those of the run."""
    trigger: str | None = setting(None, "--trigger", place=4, min_length=1)
    """Words that call up what was learned. Not given: as the run, its captions or the LoRA file say."""
    model: str | None = setting(None, "--model", "-m", place=5, min_length=1)
    """Base model. Not given: that of the run, else mini."""
    prompts: Path | None = setting(None, "--prompts", metavar="FILE", place=6)
    """Own prompts, one a line: those with the trigger ask for what was learned, those without it should not show it.
    Not given: made from captions, the trigger and a list of everyday things."""
    prompts_each: int = setting(10, "--prompts-each", metavar="N", place=7, ge=1, le=1000)
    """Prompts of each kind: from captions, with the trigger in new contexts, and without it."""
    seeds: int = setting(2, "--seeds", metavar="N", place=8, ge=1, le=1000)
    """Pictures a prompt, each from noise of its own, which is the same for every LoRA. Not given, mini has 1."""
    seed: int = setting(0, "--seed", place=9, ge=0, lt=2**62)
    """The first of these noises: another seed is another evaluation of the same."""
    steps: int = setting(25, "--steps", place=10, ge=1, le=1000)
    """Sampling steps. Not given, mini has 10."""
    guidance: float = setting(5.0, "--guidance", place=11, ge=0, le=1000)
    """How strongly the prompt pulls; 1: guidance off. Not given, mini has 2."""
    sampler: AnySampler = setting(DPMpp2M(), "--sampler", place=12)
    """Path from noise to an image."""
    encoder: str | None = setting(None, "--encoder", metavar="NAME", place=13, min_length=1)
    """What looks at pictures: mini, lite0, clip, siglip2, dinov2, a Hugging Face name or a folder. Not given: mini for
    the built-in model, else clip."""
    pairs: Path | None = setting(None, "--pairs", metavar="FOLDER", place=14)
    """Captioned pictures that drawings of their captions should equal, as the true picture of a subject in the new
    style: PSNR, SSIM and a perceptual distance are told of these."""
    out: Path | None = setting(None, "--out", "-o", place=15)
    """Folder for the report and its pictures. Not given: eval/ in the run's folder, or eval/ and the LoRA's name
    here."""
    fail_under: Names = setting((), "--fail-under", metavar="MEASURE=VALUE", place=18)
    """Leave with exit code 1 where what is recommended (of two, A) has less, or nothing is: concept_f1=0.8, or several
    with commas between them."""
    fail_over: Names = setting((), "--fail-over", metavar="MEASURE=VALUE", place=18)
    """Likewise where it has more: copies=0."""
    force: bool = setting(False, "--force", place=19)
    """Print measures that too few pictures make meaningless, with how far they are off."""
    levels: int = Field(8, ge=1, le=100)
    """Noise levels at which the loss on the references is measured; each is a pass of every reference."""
    losses: int = Field(12, ge=0, le=1000)
    """References on which it is measured; 0: it is not."""
    resamples: int = Field(1000, ge=100, le=100_000)
    """Bootstrap resamples behind each interval."""
    follow_links: bool = setting(False, "--follow-links", place=20)
    """Read pictures and captions that are links to files elsewhere."""
    batch_size: int = setting(4, "--batch-size", place=21, ge=1, le=4096)
    """Pictures at once, as for sample."""
    cache: Cache = Cache()
    memory: Machine = Machine()


class Evaluate(Protocol):
    """Tell how good LoRAs are, whether they copy, and which to use at what strength."""

    subjects: tuple[str, ...] = setting(
        ..., metavar="RUN|LORA...", place=0, min_length=1, example="sdtune eval runs/cats-1"
    )
    """Run folders, of which every kept checkpoint is looked at, or LoRA files."""
    strengths: Annotated[tuple[Strength, ...], BeforeValidator(_each)] = setting(
        (0.5, 0.8, 1.0), "--strengths", metavar="X,X...", place=1
    )
    """Strengths at which each is drawn; the base model, 0, always is."""
    write_strength: bool = setting(False, "--write-strength", place=16)
    """Put the recommended strength into the metadata of the LoRA that is recommended; its weights stay as they are."""

    @field_validator("subjects")
    @classmethod
    def _names(cls, subjects: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(str.strip, subjects)):
            raise ValueError("should be run folders or LoRA files, none of them empty")
        if COMPARE in subjects:
            told = (
                "should be run folders or LoRA files; sdtune eval compare A B compares two, and a folder of that name"
            )
            raise ValueError(f"{told} is ./{COMPARE}")
        return subjects

    @field_validator("strengths")
    @classmethod
    def _some(cls, strengths: tuple[float, ...]) -> tuple[float, ...]:
        """Each once, the least first."""
        kept = tuple(sorted({one for one in strengths if one}))
        if not kept:
            raise ValueError("should hold another than 0, which is the base model and always drawn, as 0.8")
        if len(kept) > MOST_STRENGTHS:
            raise ValueError(f"should be at most {MOST_STRENGTHS} strengths")
        if (most := kept[-1]) > STRONGEST:
            meant = f"; did you mean 0.{most:g}, with a point?" if float(most).is_integer() else ""
            raise ValueError(f"should be at most {STRONGEST:g}, and {most:g} is far over what LoRAs are used at{meant}")
        return kept


class EvaluateCompare(Protocol):
    """Tell which of two LoRAs is better, measure by measure."""

    first: str = setting(
        ...,
        metavar="A[:STRENGTH]",
        place=0,
        min_length=1,
        example="sdtune eval compare runs/cats-1 runs/cats-2",
    )
    """Run folder, which stands for the best LoRA by its validations (without these for the last), or LoRA file; with a
    strength behind a colon where it is not 1, as in runs/cats-1:0.8."""
    second: str = setting(
        ...,
        metavar="B[:STRENGTH]",
        place=0,
        min_length=1,
        example="sdtune eval compare runs/cats-1 runs/cats-2",
    )
    """What that is compared with, likewise."""
    twins: tuple[str, ...] = setting((), "--twin", metavar="RUN|LORA", place=1)
    """The first one trained again with another seed: differences that are no larger than between these are noise; can
    be given several times."""
    out: Path | None = setting(None, "--out", "-o", place=15)
    """Folder for compare.html and its pictures. Not given: eval/A-and-B here, by the names of both LoRAs."""
