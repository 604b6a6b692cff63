"""Captioners: what says in words what a picture shows."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Literal

from pydantic import Field, field_validator

from sdtune.choices.spec import Choice, Spec


class Auto(Spec):
    """qwen3-vl on a CUDA card with 6 GB free, florence2 elsewhere, each with its own settings as they stand."""

    kind: Literal["auto"] = "auto"


class Qwen3VL(Spec):
    """A model that follows an instruction: sentences in any style (Qwen team 2025, arXiv:2511.21631)."""

    kind: Literal["qwen3-vl"] = "qwen3-vl"
    model: str = Field("Qwen/Qwen3-VL-2B-Instruct", min_length=1)
    """Name on the Hugging Face hub, or a folder."""
    prompt: str = Field(
        "Describe this image in one sentence, as a caption to train an image generator on: "
        "the subject, its colours, what it does, the background. Begin with the subject.",
        min_length=1,
    )
    """What the model is asked."""
    max_new_tokens: int = Field(77, ge=1, le=4096)
    """Longest answer."""
    temperature: float = Field(0.7, gt=0, le=10)
    """How freely further captions of a picture are drawn; the first is the likeliest."""
    max_pixels: int = Field(1024 * 1024, ge=64 * 64)
    """Larger pictures are shown to the model at this area."""


class Florence2(Spec):
    """A small model for captions of three lengths, good on a CPU too (Xiao et al. 2023, arXiv:2311.06242)."""

    kind: Literal["florence2"] = "florence2"
    model: str = Field("florence-community/Florence-2-base", min_length=1)
    """Name on the Hugging Face hub, or a folder."""
    length: Literal["short", "detailed", "long"] = "detailed"
    """How much is said."""
    max_new_tokens: int = Field(128, ge=1, le=1024)
    """Longest answer."""
    beams: int = Field(3, ge=1, le=16)
    """Wordings followed at once; the likeliest is kept."""
    temperature: float = Field(0.7, gt=0, le=10)
    """How freely further captions of a picture are drawn; the first is the likeliest."""


class Blip(Spec):
    """One short sentence, as of an alternative text (Li et al. 2022, arXiv:2201.12086)."""

    kind: Literal["blip"] = "blip"
    model: str = Field("Salesforce/blip-image-captioning-base", min_length=1)
    """Name on the Hugging Face hub, or a folder."""
    prompt: str = ""
    """How the sentence begins, as "a photo of"; empty: as the model likes."""
    max_new_tokens: int = Field(40, ge=1, le=512)
    """Longest answer."""
    beams: int = Field(3, ge=1, le=16)
    """Wordings followed at once; the likeliest is kept."""
    temperature: float = Field(0.7, gt=0, le=10)
    """How freely further captions of a picture are drawn; the first is the likeliest."""


class WD(Spec):
    """Danbooru tags of drawings, each with a probability (SmilingWolf's v3 taggers)."""

    kind: Literal["wd"] = "wd"
    model: str = Field("SmilingWolf/wd-vit-tagger-v3", min_length=1)
    """Name on the Hugging Face hub, or a folder with model.onnx and selected_tags.csv."""
    general: float = Field(0.35, ge=0, le=1)
    """Probability from which a tag of what is seen is taken."""
    character: float = Field(0.85, ge=0, le=1)
    """Probability from which the name of a character is taken."""
    rating: bool = False
    """Tell the likeliest rating, too (general, sensitive, questionable, explicit)."""
    underscores: bool = False
    """Keep long_hair as it is; not given: "long hair". Faces such as ^_^ stay as they are."""


class Mini(Spec):
    """The built-in captioner looks for the nearest of 1,644 emoji: offline, for simple drawings and icons."""

    kind: Literal["mini"] = "mini"
    attributes: int = Field(2, ge=0, le=2)
    """What is told beside the subject: 1 its main colour, 2 also the background."""
    certainty: float = Field(0, ge=0, le=1)
    """How sure of the subject it must be to say anything; 0.7 is right about 7 times of 10."""


class Filename(Spec):
    """The file's name in words: red_apple-2.png is "red apple", IMG_1234.jpg is nothing."""

    kind: Literal["filename"] = "filename"


class Folder(Spec):
    """The folder's name in words: kohya's 10_sks cat/ is "sks cat"."""

    kind: Literal["folder"] = "folder"


class Template(Spec):
    """One sentence for all, with the names filled in."""

    kind: Literal["template"] = "template"
    text: str = Field("a photo of {trigger} {folder}, {name}", min_length=1)
    """The caption; {name}, {folder}, {trigger}, {width} and {height} are filled in, where there is nothing left out."""

    @field_validator("text")
    @classmethod
    def _known_fields(cls, text: str) -> str:
        try:
            fields = [field for _, field, form, turned in Formatter().parse(text) if field is not None]
            bare = all(not form and not turned for _, _, form, turned in Formatter().parse(text))
        except ValueError:
            raise ValueError("has a brace without its partner; write {{ or }} for a brace itself") from None
        for field in fields:
            if field not in TEMPLATE_FIELDS:
                raise ValueError(f"has no field {{{field}}}; there are {{{'}, {'.join(TEMPLATE_FIELDS)}}}")
        if not bare:
            raise ValueError("takes bare fields such as {name}, without a format behind them")
        return text


TEMPLATE_FIELDS = ("name", "folder", "trigger", "width", "height")

Captioner = Annotated[Auto | Qwen3VL | Florence2 | Blip | WD | Mini | Filename | Folder | Template, Choice()]
